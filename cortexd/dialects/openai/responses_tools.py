"""The tools of a response's request, converted so that every node accepts them.

Nodes differ in the kinds of tools that they know, and a node rejects the whole body for a tool of
an unknown kind (nodes.md 4.1). The node's version is unknown when a request is translated, so we
send only what all versions accept:

- A namespace is flattened into functions called ``namespace.function``, as newer nodes do
  themselves. In the answer the names are split again, because Codex finds a function by both.
- A search without web access is left out: Codex requests one by default, and nodes can only search
  the web.
- A tool of a kind that no node has is left out.
- A limit of one call at a time is left out, because nodes answer it with an internal error: an
answer
  may have several calls, as on a node that ignores the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import quoted
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.errors import BadRequest

_TOOLS_OF_NODES = frozenset(
    {"function", "web_search", "web_search_preview", "code_interpreter", "shell"}
)


@dataclass(frozen=True, slots=True)
class ToolNames:
    """The client's names of its tools; ``tools`` are the client's, if the node got others.

    ``namespaced`` has name and namespace of each function whose name for the node combines both.
    """

    tools: object
    namespaced: dict[str, tuple[str, str]]

    def restore_call(self, item: JsonObject) -> bool:
        """Restore the client's name of the tool in a call; return whether the name changed."""
        name = item.get("name")
        if item.get("type") != "function_call" or not isinstance(name, str):
            return False
        if name not in self.namespaced:
            return False
        item["name"], item["namespace"] = self.namespaced[name]
        return True

    def restore_response(self, response: JsonObject) -> bool:
        """Restore the client's names in all parts of a response; return whether any changed."""
        output = response.get("output")
        items = output if isinstance(output, list) else []
        restored = [isinstance(item, dict) and self.restore_call(item) for item in items]
        if self.tools is None or response.get("tools") is None:
            return any(restored)
        response["tools"] = self.tools
        return True


UNCHANGED = ToolNames(None, {})


def tools_for_any_node(
    body: JsonObject, approximations: Approximations
) -> tuple[JsonObject, ToolNames]:
    """Return a request's body with tools that every node accepts, and the names of its tools.

    Fields with an unexpected format stay unchanged; the node rejects them. Raises BadRequest if the
    client requires a call of a tool that is left out.
    """
    changed = dict(body)
    tools = body.get("tools")
    if body.get("parallel_tool_calls") is False:
        del changed["parallel_tool_calls"]
        if tools:
            approximations.note("parallel_tool_calls")
    if tools is not None and not isinstance(tools, list):
        return changed, UNCHANGED
    tools = tools or []
    kept: list[object] = []
    left_out: dict[str, None] = {}
    namespaced: dict[str, tuple[str, str]] = {}
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            kept.append(tool)
        elif tool["type"] == "namespace":
            kept += _flattened(tool, namespaced, approximations)
        elif tool["type"] in _TOOLS_OF_NODES and tool.get("external_web_access") is not False:
            kept.append(tool)
        else:
            left_out[tool["type"]] = None
    choice = body.get("tool_choice")
    allowed = _allowed(choice)
    if allowed is not None:
        # Nodes reject this kind of choice with the whole body (nodes.md 4.1.7).
        approximations.note("tool_choice")
        kept = [tool for tool in kept if _is_allowed(tool, allowed)]
        choice = "required" if body["tool_choice"].get("mode") == "required" else "auto"
        changed["tool_choice"] = choice
    _check_choice(choice, left_out, kept)
    if kept == tools:
        return changed, UNCHANGED
    approximations.note_unknown(dict.fromkeys(left_out, True), frozenset(), "tools")
    if kept:
        changed["tools"] = kept
    else:
        del changed["tools"]
        if allowed is not None:
            del changed["tool_choice"]
    changed |= _joined_choice(choice)
    return changed, ToolNames(tools, namespaced)


def _flattened(
    namespace: JsonObject,
    namespaced: dict[str, tuple[str, str]],
    approximations: Approximations,
) -> list[object]:
    """Return the functions of a namespace; entries with an unexpected format stay unchanged."""
    name, entries = namespace.get("name"), namespace.get("tools")
    if not isinstance(name, str) or not isinstance(entries, list):
        return [namespace]
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries):
        return [namespace]
    approximations.note("tools.namespace")
    functions: list[object] = []
    for entry in entries:
        if entry.get("type") != "function":
            approximations.note_unknown({str(entry.get("type")): True}, frozenset(), "tools")
            continue
        full_name = f"{name}.{entry['name']}"
        namespaced[full_name] = (entry["name"], name)
        functions.append({**entry, "name": full_name})
    return functions


def _allowed(choice: object) -> list[JsonObject] | None:
    """Return the tools of a choice among some, in their names for nodes; ``None`` for another."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None
    given = choice.get("tools")
    tools = [tool for tool in given if isinstance(tool, dict)] if isinstance(given, list) else []
    return [joined(tool) if isinstance(tool.get("namespace"), str) else tool for tool in tools]


def _is_allowed(tool: object, allowed: list[JsonObject]) -> bool:
    """Return whether a tool is among those; a tool of the node's own goes by its kind."""
    if not isinstance(tool, dict):
        return True
    kind = tool.get("type")
    names = [each.get("name") for each in allowed if each.get("type") == kind]
    return tool.get("name") in names if kind == "function" else bool(names)


def _check_choice(choice: object, left_out: dict[str, None], kept: list[object]) -> None:
    """Raise BadRequest if the choice requires a tool that was left out, or does not exist.

    A node answers the latter with an internal error, so that Codex would retry again and again.
    """
    named = choice if isinstance(choice, dict) else {}
    kind, name = named.get("type"), _joined_choice(choice).get("tool_choice", named).get("name")
    if isinstance(kind, str) and kind in left_out:
        wanted = f" of the kind {quoted(kind)}, which no node has"
    elif choice == "required" and not kept:
        wanted = ", but no node has any tool of 'tools'"
    elif kind == "function" and isinstance(name, str) and name not in _names(kept):
        wanted = f" {quoted(name)}, which is not in 'tools'"
    else:
        return
    raise BadRequest(
        f"'tool_choice' requires a call of a tool{wanted}; use 'auto', or leave it out",
        param="tool_choice",
        code="unsupported_value",
    )


def _names(tools: list[object]) -> list[object]:
    """Return the names of functions, in the format of a response or of a chat."""
    found = [tool for tool in tools if isinstance(tool, dict)]
    inner = [tool["function"] for tool in found if isinstance(tool.get("function"), dict)]
    return [tool.get("name") for tool in [*found, *inner]]


def _joined_choice(choice: object) -> JsonObject:
    """Return the field that requires a function of a namespace, if there is one."""
    if isinstance(choice, dict) and isinstance(choice.get("namespace"), str):
        return {"tool_choice": joined(choice)}
    return {}


def joined(named: JsonObject) -> JsonObject:
    """Return a reference to a function with its namespace combined into its name."""
    without = {key: value for key, value in named.items() if key != "namespace"}
    return {**without, "name": f"{named['namespace']}.{named.get('name')}"}
