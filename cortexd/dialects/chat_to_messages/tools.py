"""The tools of a chat, converted to those of a Messages request.

translation.md 3 has the rules and their grades. The old ``functions`` and ``function_call`` are
treated as tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

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
from cortexd.dialects.wire.tool_names import upstream_name

_KNOWN: Final = frozenset({"type", "function", "cache_control"})
_KNOWN_OF_A_FUNCTION: Final = frozenset({"name", "description", "parameters", "strict"})
_KNOWN_OF_A_CHOICE: Final = frozenset({"type", "function", "allowed_tools"})
_NO_PARAMETERS: Final[JsonObject] = {"type": "object", "properties": {}}
_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none"}
_MODES: Final = ("auto", "required")
_FORCING: Final = ("any", "tool")


@dataclass(frozen=True, slots=True)
class Tools:
    """The translated tools.

    ``fields`` belong to the upstream body. ``are_forced`` means that the answer must call a tool.
    ``names`` maps the upstream's name of a tool to the client's, if they differ.
    """

    fields: JsonObject
    are_forced: bool
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Choice:
    """The translated ``tool_choice``, empty if there was none, and the tools that it allows."""

    field: JsonObject | None
    allowed: Collection[str]


def translate_tools(body: JsonObject, approximations: Approximations) -> Tools:
    """Translate a chat's ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Raises BadRequest with the faulty field.
    """
    tools: list[JsonObject] = []
    names: dict[str, str] = {}
    for function, path in _functions(body, approximations):
        name = read_name(function.get("name"), f"{path}.name")
        if upstream_name(name) in names:
            raise refused(f"{path}.name", f"is {quoted(name)}, which another tool has too")
        names[upstream_name(name)] = name
        tools.append(_tool(function, path, approximations))
    flag = "parallel_tool_calls"
    is_single = body.get(flag) is not None and not read_flag(body, flag)
    choice = _read_choice(body, names, approximations)
    if not tools:
        return Tools({}, are_forced=False, names={})
    fields: JsonObject = {"tools": [tool for tool in tools if tool["name"] in choice.allowed]}
    field = choice.field
    if is_single and (field is None or field["type"] != "none"):
        field = {**(field or {"type": "auto"}), "disable_parallel_tool_use": True}
    if field is not None:
        fields["tool_choice"] = field
    differing = {alias: name for alias, name in names.items() if alias != name}
    are_forced = field is not None and field["type"] in _FORCING
    return Tools(fields, are_forced, differing)


def _functions(
    body: JsonObject, approximations: Approximations
) -> Iterator[tuple[JsonObject, str]]:
    """Yield each function that the model may call, and its path."""
    given = body.get("tools")
    for index, value in enumerate(read_list(given, "tools") if given is not None else ()):
        path = f"tools[{index}]"
        tool = read_dict(value, path)
        kind = read_string(tool.get("type"), f"{path}.type")
        if kind != "function":
            raise refused(
                f"{path}.type",
                f"is {quoted(kind)}, which is not supported by this model; "
                "supported are tools of type 'function'",
            )
        approximations.note_unknown(tool, _KNOWN, "tools")
        yield read_dict(tool.get("function"), f"{path}.function"), f"{path}.function"
    given = body.get("functions")
    if given is None:
        return
    approximations.note("functions")
    for index, value in enumerate(read_list(given, "functions")):
        yield read_dict(value, f"functions[{index}]"), f"functions[{index}]"


def _tool(function: JsonObject, path: str, approximations: Approximations) -> JsonObject:
    approximations.note_unknown(function, _KNOWN_OF_A_FUNCTION, "tools.function")
    tool: JsonObject = {"name": upstream_name(function["name"])}
    if description := read_optional_string(function.get("description"), f"{path}.description"):
        tool["description"] = description
    parameters = function.get("parameters")
    schema = {} if parameters is None else read_dict(parameters, f"{path}.parameters")
    tool["input_schema"] = {"type": "object", **schema} if schema else _NO_PARAMETERS
    if function.get("strict") is not None:
        tool["strict"] = read_flag(function, "strict", within=path)
    return tool


def _read_choice(
    body: JsonObject, names: Mapping[str, str], approximations: Approximations
) -> _Choice:
    path, given = "tool_choice", body.get("tool_choice")
    if given is None and body.get("function_call") is not None:
        path, given = "function_call", body["function_call"]
        approximations.note(path)
    if given is None:
        return _Choice(None, names)
    if isinstance(given, str):
        if given not in _CHOICES:
            raise refused(path, f"is {quoted(given)}; supported are {', '.join(_CHOICES)}")
        kind = _CHOICES[given]
        if not names and kind in _FORCING:
            raise refused(path, "needs 'tools', but the request has none")
        return _Choice({"type": kind}, names)
    choice = read_dict(given, path)
    if path == "function_call":
        return _Choice(_named(choice, path, names), names)
    approximations.note_unknown(choice, _KNOWN_OF_A_CHOICE, path)
    kind = read_string(choice.get("type"), f"{path}.type")
    if kind == "function":
        return _Choice(_named(choice.get("function"), f"{path}.function", names), names)
    if kind == "allowed_tools":
        approximations.note(kind)
        return _allowed_tools(choice.get(kind), f"{path}.{kind}", names)
    raise refused(
        f"{path}.type",
        f"is {quoted(kind)}, which is not supported by this model; "
        "supported are 'function' and 'allowed_tools'",
    )


def _allowed_tools(value: object, path: str, names: Mapping[str, str]) -> _Choice:
    allowed = read_dict(value, path)
    mode = read_string(allowed.get("mode"), f"{path}.mode")
    if mode not in _MODES:
        raise refused(f"{path}.mode", f"is {quoted(mode)}; supported are {', '.join(_MODES)}")
    chosen = set()
    for index, element in enumerate(read_list(allowed.get("tools"), f"{path}.tools")):
        tool_path = f"{path}.tools[{index}]"
        tool = read_dict(element, tool_path)
        chosen.add(_named(tool.get("function"), f"{tool_path}.function", names)["name"])
    if not chosen:
        raise refused(f"{path}.tools", "must contain at least one tool")
    return _Choice({"type": _CHOICES[mode]}, chosen)


def _named(value: object, path: str, names: Mapping[str, str]) -> JsonObject:
    name = read_name(read_dict(value, path).get("name"), f"{path}.name")
    if upstream_name(name) not in names:
        raise refused(f"{path}.name", f"is {quoted(name)}, which is not in 'tools'")
    return {"type": "tool", "name": upstream_name(name)}
