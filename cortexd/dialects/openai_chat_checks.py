"""What of a chat is a client's mistake that a node would call a fault of its own.

A node answers 500 to these (upstream notes 4.1), after which clients ask again and again. The rest
is the node's to judge. Here too stands what is common to chats for nodes of either dialect.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cortexd.dialects.contents import unseen
from cortexd.dialects.fields import quoted, read_integer, refused
from cortexd.dialects.json_values import JsonObject, type_name
from cortexd.errors import BadRequest

AGENTIC_FIELDS: Final = (
    "agent_permission",
    "code_execution_permission",
    "enable_code_execution",
    "enable_shell",
    "files",
    "max_tool_rounds",
    "session_id",
)
"""Fields that only nodes have: by these a client has one use tools by itself, and follows it."""

NO_EFFORT: Final = ("off", "none")
"""The efforts that mean no thinking."""


def read_effort(fields: JsonObject, levels: Collection[str]) -> str | None:
    """Return the ``reasoning_effort`` of a chat, ``None`` where it has none.

    ``levels`` are those that the upstream knows beside NO_EFFORT. It must not contradict
    ``enable_thinking`` either. Raises BadRequest.
    """
    effort = fields.get("reasoning_effort")
    if effort is None:
        return None
    if not isinstance(effort, str) or (effort not in NO_EFFORT and effort not in levels):
        found = quoted(effort) if isinstance(effort, str) else type_name(effort)
        raise BadRequest(
            "'reasoning_effort' must be 'none', 'minimal', 'low', 'medium', 'high' or 'xhigh'; "
            f"found {found}",
            param="reasoning_effort",
            code="unsupported_value",
        )
    enabled = fields.get("enable_thinking")
    if isinstance(enabled, bool) and enabled is (effort in NO_EFFORT):
        raise BadRequest(
            f"'reasoning_effort' is {quoted(effort)}, which contradicts 'enable_thinking'; "
            "leave one of them out",
            param="reasoning_effort",
            code="invalid_value",
        )
    return effort


def check_limit(fields: JsonObject) -> None:
    """Raise BadRequest for a limit that leaves no room for an answer."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if fields.get(name) == 0:
            read_integer(fields[name], name, 1)


def check_tool_choice(fields: JsonObject) -> None:
    """Raise BadRequest for a choice that forces a tool that is not there."""
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if choice == "required" and not tools:
        raise refused("tool_choice", "needs 'tools', of which there are none")
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return
    name = _function_name(choice)
    names = [_function_name(tool) for tool in tools] if isinstance(tools, list) else []
    if isinstance(name, str) and name not in names:
        raise refused("tool_choice.function.name", f"is {quoted(name)}, which is not in 'tools'")


def _function_name(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def check_parts(content: object, path: str, *, vision: bool, fetches: bool) -> None:
    """Raise BadRequest for a part that no node takes, and for an image that may not go there.

    That is one that the model cannot see, or that a node would have to fetch and may not.

    ``content`` is that of a user's message, at ``path``.
    """
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        if part.get("type") == "input_audio":
            words = "is 'input_audio', which nodes do not take; send an 'audio_url' of a data: URL"
            raise refused(f"{path}[{index}].type", words)
        image = part.get("image_url")
        if image is None:
            continue
        if not vision:
            raise unseen(f"{path}[{index}]")
        url = image.get("url") if isinstance(image, dict) else image
        if not fetches and isinstance(url, str) and not url.startswith("data:"):
            words = "must be a data: URL: the operator does not let nodes fetch images"
            raise refused(f"{path}[{index}].image_url", words)
