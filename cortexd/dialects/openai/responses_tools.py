"""The tools of a request for a response, made such as every node takes, and their names back.

Nodes differ in the kinds of tools that they know, and one of a kind unknown to it has a node refuse
the whole body (nodes.md 4.1). No version of a node is known when a request is translated, so what
goes up is what all of them take:

- A namespace is flattened to functions called ``namespace.function``, as newer nodes do themselves.
  On the way back the names are taken apart again, since Codex finds a function by both.
- A search that must not leave for the web is left out: Codex asks for one by default, and no node
  has anything but the web to search.
- A kind that no node has is left out too.
- So is the wish for one call at a time, which nodes refuse as a fault of their own: an answer may
  have several calls, as it may from a node that ignores the wish.
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
    """What the client calls its tools: ``tools`` as they came, where the node was sent others.

    ``namespaced`` has name and namespace of each function that the node knows by both in one.
    """

    tools: object
    namespaced: dict[str, tuple[str, str]]

    def restore_call(self, item: JsonObject) -> bool:
        """Give a call of a tool the client's name of it; tell whether that is another."""
        name = item.get("name")
        if item.get("type") != "function_call" or not isinstance(name, str):
            return False
        if name not in self.namespaced:
            return False
        item["name"], item["namespace"] = self.namespaced[name]
        return True

    def restore_response(self, response: JsonObject) -> bool:
        """Do the same for all that a response says of tools."""
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
    """Return a request's body as every node takes it, and the names of its tools.

    What is not of the known shape stays as it is, for the node to refuse. Raises BadRequest where
    the client demands the call of a tool that had to be left out.
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
    _check_choice(choice, left_out, kept)
    if kept == tools:
        return changed, UNCHANGED
    approximations.note_unknown(dict.fromkeys(left_out, True), frozenset(), "tools")
    if kept:
        changed["tools"] = kept
    else:
        del changed["tools"]
    changed |= _joined_choice(choice)
    return changed, ToolNames(tools, namespaced)


def _flattened(
    namespace: JsonObject,
    namespaced: dict[str, tuple[str, str]],
    approximations: Approximations,
) -> list[object]:
    """Return the functions of a namespace; what is not of the known shape stays as it is."""
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


def _check_choice(choice: object, left_out: dict[str, None], kept: list[object]) -> None:
    """Raise BadRequest where the choice demands what was left out, or never was there.

    A node calls the latter a fault of its own, upon which Codex asks again and again.
    """
    named = choice if isinstance(choice, dict) else {}
    kind, name = named.get("type"), _joined_choice(choice).get("tool_choice", named).get("name")
    if isinstance(kind, str) and kind in left_out:
        wanted = f" of the kind {quoted(kind)}, and no node here has one"
    elif choice == "required" and not kept:
        wanted = ", and 'tools' has none that a node here has"
    elif kind == "function" and isinstance(name, str) and name not in _names(kept):
        wanted = f" {quoted(name)}, which is not in 'tools'"
    else:
        return
    raise BadRequest(
        f"'tool_choice' demands the call of a tool{wanted}; say 'auto', or leave it out",
        param="tool_choice",
        code="unsupported_value",
    )


def _names(tools: list[object]) -> list[object]:
    """Return the names of functions, in the words of a response or of a chat."""
    found = [tool for tool in tools if isinstance(tool, dict)]
    inner = [tool["function"] for tool in found if isinstance(tool.get("function"), dict)]
    return [tool.get("name") for tool in [*found, *inner]]


def _joined_choice(choice: object) -> JsonObject:
    """Return the field by which one function of a namespace is demanded, if it is."""
    if isinstance(choice, dict) and isinstance(choice.get("namespace"), str):
        return {"tool_choice": joined(choice)}
    return {}


def joined(named: JsonObject) -> JsonObject:
    """Return what names a function and its namespace with both in one name."""
    without = {key: value for key, value in named.items() if key != "namespace"}
    return {**without, "name": f"{named['namespace']}.{named.get('name')}"}
