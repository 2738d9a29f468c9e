"""Which tools a chat may call, in each of the shapes in which clients write it.

The shapes of responses (flat) come from clients that speak both dialects. Nodes reject the chat
dialect's own shape of ``allowed_tools`` with the whole body (nodes.md 4.1.7).
"""

from __future__ import annotations

from typing import Any, Final

from cortexd.dialects.wire.fields import quoted, read_dict, read_list, read_name, refused
from cortexd.dialects.wire.json_values import JsonObject

_FUNCTION: Final = "function"
_ALLOWED: Final = "allowed_tools"
_MODES: Final = ("auto", "required")


def in_chat_shape(choice: Any) -> Any:
    """Return a ``tool_choice`` in the shape of the chat dialect; an unknown shape is unchanged."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == _FUNCTION and _FUNCTION not in choice and "name" in choice:
        return {"type": _FUNCTION, _FUNCTION: {"name": choice["name"]}}
    if kind != _ALLOWED:
        return choice
    allowed = choice.get(_ALLOWED, choice)
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(tools, list):
        return choice
    return {
        "type": _ALLOWED,
        _ALLOWED: {"mode": allowed.get("mode"), "tools": [in_chat_shape(tool) for tool in tools]},
    }


def only_allowed_tools(fields: JsonObject) -> JsonObject:
    """Return the changed fields of a chat whose ``tool_choice`` allows only some of its tools.

    The others are left out, so that nothing remains to choose but whether to call one. A choice in
    another dialect's shape is changed too. Raises BadRequest.
    """
    choice = in_chat_shape(fields.get("tool_choice"))
    if not isinstance(choice, dict):
        return {}
    if choice.get("type") != _ALLOWED:
        return {"tool_choice": choice}
    path = f"tool_choice.{_ALLOWED}"
    allowed = read_dict(choice.get(_ALLOWED), path)
    mode = allowed.get("mode")
    if mode not in _MODES:
        found = f"is {quoted(mode)}" if isinstance(mode, str) else "is missing"
        raise refused(f"{path}.mode", f"{found}; supported are {', '.join(_MODES)}")
    given = fields.get("tools")
    offered = [] if given is None else read_list(given, "tools")
    tools = {_name_of(tool): tool for tool in offered if isinstance(tool, dict)}
    chosen: set[object] = set()
    for index, tool in enumerate(read_list(allowed.get("tools"), f"{path}.tools")):
        name_path = f"{path}.tools[{index}].function.name"
        function = read_dict(tool, f"{path}.tools[{index}]").get(_FUNCTION)
        name = read_name(function.get("name") if isinstance(function, dict) else None, name_path)
        if name not in tools:
            raise refused(name_path, f"is {quoted(name)}, which is not in 'tools'")
        chosen.add(name)
    if not chosen:
        raise refused(f"{path}.tools", "must contain at least one tool")
    return {"tools": [tools[name] for name in tools if name in chosen], "tool_choice": mode}


def _name_of(tool: JsonObject) -> object:
    function = tool.get(_FUNCTION)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
