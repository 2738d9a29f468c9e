"""The tools of an Anthropic Messages request, converted to the functions of a chat.

translation.md 2.3 has the rules and their grades.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cortexd.dialects.fitting.schemas import fit_tools
from cortexd.dialects.messages_to_chat.offered import offered_tools
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
from cortexd.dialects.wire.json_values import JsonObject, encode, read_flag
from cortexd.dialects.wire.profile import Profile
from cortexd.dialects.wire.tool_names import upstream_name

_KNOWN: Final = frozenset(
    {
        "name",
        "description",
        "input_schema",
        "type",
        "strict",
        "eager_input_streaming",
        "cache_control",
        "defer_loading",
        "input_examples",
        "allowed_callers",
    }
)
_KNOWN_OF_A_CHOICE: Final = frozenset({"type", "name", "disable_parallel_tool_use"})


@dataclass(frozen=True, slots=True)
class Tools:
    """The translated tools.

    ``fields`` belong to the upstream body. ``one_call`` means that an answer may have at most one
    tool call. ``names`` maps the upstream's name of a tool to the client's, if they differ.
    """

    fields: JsonObject
    one_call: bool
    names: Mapping[str, str]


def translate_tools(body: JsonObject, profile: Profile, approximations: Approximations) -> Tools:
    """Translate a request's ``tools`` and ``tool_choice``.

    Raises BadRequest with the faulty field.
    """
    offered = offered_tools(body, approximations)
    functions = [_function(each.tool, each.path, approximations) for each in offered]
    names: dict[str, str] = {}
    for (path, _), (name, function) in zip(offered, functions, strict=True):
        if function["name"] in names:
            raise refused(f"{path}.name", f"is {quoted(name)}, which another tool has too")
        names[function["name"]] = name
    fields: JsonObject = {}
    if functions:
        tools = [{"type": "function", "function": each} for _, each in functions]
        fields["tools"] = fit_tools(tools)
    one_call = False
    if body.get("tool_choice") is not None:
        choice = read_dict(body["tool_choice"], "tool_choice")
        approximations.note_unknown(choice, _KNOWN_OF_A_CHOICE, "tool_choice")
        if body.get("tools") and not names:
            # The conversation has removed all its tools, or refers to none of them yet.
            if choice.get("type") not in ("auto", "none"):
                approximations.note("tool_choice")
            return Tools(fields, one_call, {})
        fields["tool_choice"] = _choice(choice, names, profile)
        single = read_flag(choice, "disable_parallel_tool_use", within="tool_choice")
        one_call = single and fields["tool_choice"] != "none"
    if one_call:
        fields["parallel_tool_calls"] = False
        if not profile.parallel_flag:
            approximations.note("disable_parallel_tool_use")
    differing = {alias: name for alias, name in names.items() if alias != name}
    return Tools(fields, one_call, differing)


def _function(
    tool: JsonObject, path: str, approximations: Approximations
) -> tuple[str, JsonObject]:
    """Return the client's name of a tool, and the upstream's function."""
    kind = tool.get("type")
    if kind is not None and kind != "custom":
        raise refused(
            f"{path}.type",
            f"is {quoted(read_string(kind, f'{path}.type'))}, a tool that cortexd can neither "
            "run nor describe to the model; "
            "supported are tools of type 'custom' with an 'input_schema'",
        )
    approximations.note_unknown(tool, _KNOWN, "tools")
    name = read_name(tool.get("name"), f"{path}.name")
    function: JsonObject = {"name": upstream_name(name)}
    description = read_optional_string(tool.get("description"), f"{path}.description")
    callers = tool.get("allowed_callers")
    if callers is not None and "direct" not in read_list(callers, f"{path}.allowed_callers"):
        raise refused(
            f"{path}.allowed_callers", "must contain 'direct': only the model can call tools"
        )
    read_flag(tool, "defer_loading", within=path)
    if tool.get("input_examples"):
        approximations.note("input_examples")
        examples = read_list(tool["input_examples"], f"{path}.input_examples")
        lines = [encode(example).decode() for example in examples]
        description = "\n".join([description, "", "Examples of its input:", *lines]).strip()
    if description:
        function["description"] = description
    function["parameters"] = _schema(tool.get("input_schema"), f"{path}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = read_flag(tool, "strict", within=path)
    return name, function


def _schema(value: object, path: str) -> JsonObject:
    schema = read_dict(value, path)
    return {key: inner for key, inner in schema.items() if key != "$schema"}


def _choice(choice: JsonObject, names: Mapping[str, str], profile: Profile) -> Any:
    if not names:
        raise refused("tool_choice", "needs 'tools', but the request has none")
    kind = read_string(choice.get("type"), "tool_choice.type")
    if kind in ("auto", "none"):
        return kind
    if kind == "any":
        if profile.required_tool_choice:
            return "required"
        if len(names) == 1:
            return _named(next(iter(names)))
        raise refused(
            "tool_choice.type",
            "is 'any', which is not supported by this model with several tools; "
            "supported are 'auto', 'none' and 'tool'",
        )
    if kind == "tool":
        name = read_name(choice.get("name"), "tool_choice.name")
        if upstream_name(name) in names:
            return _named(upstream_name(name))
        raise refused("tool_choice.name", f"is {quoted(name)}, which is not in 'tools'")
    raise refused(
        "tool_choice.type",
        f"is {quoted(kind)}; supported are 'auto', 'any', 'tool' and 'none'",
    )


def _named(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name}}
