"""The tools of a response's request, converted to the functions of a chat, and their calls back.

translation.md 10.4 has the rules and their grades. A ``custom`` tool becomes a function with one
string; a namespace becomes functions whose names combine both. The answer has the client's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cortexd.dialects.fitting.schemas import fit_tools
from cortexd.dialects.responses_to_chat.items import MORE_TOOLS
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_list,
    read_name,
    read_optional_string,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import JsonObject, read_flag
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.dialects.wire.tool_names import upstream_name
from cortexd.errors import BadRequest

CUSTOM_INPUT: Final = "input"
"""The only parameter of the function that stands for a custom tool."""

_KNOWN: Final = frozenset(
    {
        "type",
        "name",
        "description",
        "parameters",
        "strict",
        "format",
        "function",
        "defer_loading",
        "allowed_callers",
        "output_schema",
        "async",
    }
)
_BETWEEN_NAMES: Final = "__"
"""Stands between namespace and name in the node's name of a function, as MCP clients have it."""


class ClientTool(NamedTuple):
    """A tool as the client knows it."""

    name: str
    namespace: str | None
    is_custom: bool


@dataclass(frozen=True, slots=True)
class Tools:
    """The translated tools.

    ``fields`` belong to the upstream body. ``one_call`` means that we end the answer after its
    first call. ``known`` has the client's tool for each of the node's names.
    """

    fields: JsonObject
    one_call: bool
    known: Mapping[str, ClientTool]


def node_name(name: str, namespace: str | None) -> str:
    """Return the node's name of a tool; it depends on the client's names alone."""
    if namespace is None:
        return upstream_name(name)
    combined = f"{namespace}{_BETWEEN_NAMES}{name}"
    return combined if upstream_name(combined) == combined else upstream_name(f"{namespace}.{name}")


def translate_tools(
    fields: JsonObject,
    items: Sequence[JsonObject],
    profile: Profile,
    approximations: Approximations,
) -> Tools:
    """Translate a request's ``tools`` and ``tool_choice``, and the tools that its items bring.

    Raises BadRequest with the faulty field.
    """
    reader = _ToolReader(approximations)
    given = fields.get("tools")
    for index, tool in enumerate(read_list(given, "tools") if given is not None else ()):
        reader.take(tool, f"tools[{index}]")
    for item in items:
        brought = item.get("tools") if item.get("type") in MORE_TOOLS else None
        for tool in brought if isinstance(brought, list) else ():
            reader.take_quietly(tool)
    choice = fields.get("tool_choice")
    functions, chosen = reader.functions, None
    if choice is not None:
        functions, chosen = _Choice(reader, profile, approximations).read(choice)
    upstream: JsonObject = {}
    if functions:
        upstream["tools"] = fit_tools(
            [{"type": "function", "function": function} for function in functions.values()]
        )
        if chosen is not None:
            upstream["tool_choice"] = chosen
    single = fields.get("parallel_tool_calls") is not None and not read_flag(
        fields, "parallel_tool_calls"
    )
    one_call = single and bool(functions) and chosen != "none"
    if one_call:
        upstream["parallel_tool_calls"] = False
        if profile.speaks is Speaks.MESSAGES:  # its dialect has the limit
            one_call = False
        elif not profile.parallel_flag:
            approximations.note("parallel_tool_calls")
    return Tools(upstream, one_call, reader.known)


class _ToolReader:
    """Reads tools; ``functions`` and ``known`` have them by the node's names.

    ``named`` has the node's names by the client's name, which several namespaces may share.
    ``left_out`` has the kinds of tools that no function can stand for.
    """

    def __init__(self, approximations: Approximations) -> None:
        self._approximations = approximations
        self.functions: dict[str, JsonObject] = {}
        self.known: dict[str, ClientTool] = {}
        self.named: dict[str, set[str]] = {}
        self.left_out: set[str] = set()

    def take(self, value: object, path: str, namespace: str | None = None) -> None:
        """Add a tool of the request. Raises BadRequest."""
        tool = read_dict(value, path)
        kind = read_string(tool.get("type", "function"), f"{path}.type")
        if kind == "namespace" and namespace is None:
            name = read_name(tool.get("name"), f"{path}.name")
            self._approximations.note("tools.namespace")
            for index, inner in enumerate(read_list(tool.get("tools"), f"{path}.tools")):
                self.take(inner, f"{path}.tools[{index}]", name)
        elif kind in ("function", "custom"):
            inner = tool.get("function")
            within = inner if isinstance(inner, dict) else tool  # the format of a chat
            self._add(within, path, namespace, is_custom=kind == "custom")
        else:
            self.left_out.add(kind)
            self._approximations.note_unknown({kind: True}, frozenset(), "tools")

    def take_quietly(self, value: object) -> None:
        """Add a tool of the conversation, unless it is malformed."""
        try:
            self.take(value, "")
        except BadRequest:
            self._approximations.note("input.tools")

    def _add(self, tool: JsonObject, path: str, namespace: str | None, *, is_custom: bool) -> None:
        self._approximations.note_unknown(tool, _KNOWN, "tools")
        name = read_name(tool.get("name"), f"{path}.name")
        function: JsonObject = {"name": node_name(name, namespace)}
        description = read_optional_string(tool.get("description"), f"{path}.description")
        if is_custom:
            self._approximations.note("tools.custom")
            description = "\n\n".join(filter(None, (description, _format(tool, path))))
        if description:
            function["description"] = description
        if tool.get("defer_loading") is True:
            self._approximations.note("defer_loading")
        if is_custom:
            function["parameters"] = _ONE_STRING
        else:
            function["parameters"] = _schema(tool.get("parameters"), f"{path}.parameters")
            if tool.get("strict") is not None:
                function["strict"] = read_flag(tool, "strict", within=path)
        self.functions[function["name"]] = function
        self.known[function["name"]] = ClientTool(name, namespace, is_custom)
        self.named.setdefault(name, set()).add(function["name"])


_ONE_STRING: Final[JsonObject] = {
    "type": "object",
    "properties": {
        CUSTOM_INPUT: {"type": "string", "description": "The whole input of the tool, as text."}
    },
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


def _format(tool: JsonObject, path: str) -> str:
    """Return the words for the format of a custom tool's input; free text needs none."""
    given = tool.get("format")
    if given is None:
        return ""
    form = read_dict(given, f"{path}.format")
    if form.get("type") != "grammar":
        return ""
    syntax = read_optional_string(form.get("syntax"), f"{path}.format.syntax")
    definition = read_string(form.get("definition"), f"{path}.format.definition")
    noun = "regular expression" if syntax == "regex" else f"{syntax} grammar".strip()
    return f"The input must follow this {noun}:\n{definition}"


def _schema(value: object, path: str) -> JsonObject:
    if value is None:
        return {"type": "object"}
    schema = read_dict(value, path)
    return {key: inner for key, inner in schema.items() if key != "$schema"}


class _Choice:
    """Translates ``tool_choice``."""

    def __init__(
        self, reader: _ToolReader, profile: Profile, approximations: Approximations
    ) -> None:
        self._reader = reader
        self._profile = profile
        self._approximations = approximations

    def read(self, choice: object) -> tuple[dict[str, JsonObject], Any]:
        """Return the functions that may be called, and the node's value. Raises BadRequest."""
        functions = self._reader.functions
        if isinstance(choice, str):
            return functions, self._mode(choice, "tool_choice", functions)
        given = read_dict(choice, "tool_choice")
        kind = read_string(given.get("type"), "tool_choice.type")
        if kind == "allowed_tools":
            return self._allowed(given)
        if kind in ("function", "custom"):
            return functions, _named(self._name(given, "tool_choice"))
        if kind in self._reader.left_out or kind not in ("auto", "none", "required"):
            raise _unservable(f" of the kind {quoted(kind)}, which cortexd cannot run")
        return functions, self._mode(kind, "tool_choice.type", functions)

    def _mode(self, mode: str, path: str, functions: Mapping[str, JsonObject]) -> Any:
        if mode in ("auto", "none"):
            return mode
        if mode != "required":
            raise refused(path, f"is {quoted(mode)}; supported are 'auto', 'none' and 'required'")
        if not functions:
            raise _unservable(", but there is none in 'tools' that the model can call")
        if self._profile.required_tool_choice:
            return mode
        if len(functions) == 1:
            return _named(next(iter(functions)))
        raise refused(path, "is 'required', which this model does not support with several tools")

    def _allowed(self, given: JsonObject) -> tuple[dict[str, JsonObject], Any]:
        inner = given.get("allowed_tools")
        within, path = given, "tool_choice"
        if isinstance(inner, dict):  # the format of a chat
            within, path = inner, "tool_choice.allowed_tools"
        names = [
            self._name(read_dict(tool, f"{path}.tools[{index}]"), f"{path}.tools[{index}]")
            for index, tool in enumerate(read_list(within.get("tools"), f"{path}.tools"))
            if not self._is_left_out(tool)
        ]
        self._approximations.note("allowed_tools")
        allowed = {name: self._reader.functions[name] for name in dict.fromkeys(names)}
        mode = read_string(within.get("mode", "auto"), f"{path}.mode")
        return allowed, self._mode(mode, f"{path}.mode", allowed)

    def _is_left_out(self, tool: object) -> bool:
        kind = tool.get("type") if isinstance(tool, dict) else None
        return isinstance(kind, str) and kind in self._reader.left_out

    def _name(self, given: JsonObject, path: str) -> str:
        inner = given.get("function") or given.get("custom")
        if isinstance(inner, dict):  # the format of a chat
            given, path = inner, f"{path}.function"
        name = read_name(given.get("name"), f"{path}.name")
        namespace = given.get("namespace")
        found = node_name(name, namespace if isinstance(namespace, str) else None)
        if found in self._reader.functions:
            return found
        alike = self._reader.named.get(name, ())
        if namespace is None and len(alike) == 1:
            return next(iter(alike))
        raise refused(f"{path}.name", f"is {quoted(name)}, which is not in 'tools'")


def _named(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name}}


def _unservable(wanted: str) -> BadRequest:
    return BadRequest(
        f"'tool_choice' requires a call of a tool{wanted}; use 'auto', or leave it out",
        param="tool_choice",
        code="unsupported_value",
    )


def repeated_tools(tools: Iterable[Any]) -> list[Any]:
    """Return a request's tools as its response repeats them: functions in the flat format."""
    return [_flat(tool) for tool in tools]


def _flat(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    inner = tool.get("function")
    flat = {"type": "function", **inner} if isinstance(inner, dict) else dict(tool)
    if flat.get("type", "function") == "function":
        flat.setdefault("type", "function")
        flat.setdefault("parameters", None)
        flat.setdefault("strict", False)
    elif flat["type"] == "namespace":
        flat.setdefault("description", "")
    return flat
