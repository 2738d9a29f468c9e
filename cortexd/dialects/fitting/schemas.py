"""The tools of a chat, in the form that every chat template can show.

Many templates walk the properties of a tool's parameters, or add up its description, and raise
where a tool has none.
"""

from __future__ import annotations

from typing import Any

from cortexd.dialects.wire.json_values import JsonObject


def fit_tools(tools: Any) -> Any:
    """Return the tools of a chat request; each function has a description, and properties.

    Returns an unexpected format unchanged: the node rejects it.
    """
    return [_fitted(tool) for tool in tools] if isinstance(tools, list) else tools


def _fitted(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    missing: JsonObject = {}
    if function.get("description") is None:
        missing["description"] = ""
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object"}
    if isinstance(parameters, dict) and "properties" not in parameters:
        missing["parameters"] = {**parameters, "properties": {}}
    return {**tool, "function": {**function, **missing}} if missing else tool
