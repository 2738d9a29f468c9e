"""What of a chat is a client's mistake that a node would call a fault of its own.

A node answers 500 to these (nodes.md 4.1), after which clients ask again and again. The rest is the
node's to judge. Here too stands what is common to chats for nodes of either dialect.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cortexd.dialects.wire.contents import unseen
from cortexd.dialects.wire.fields import quoted, read_integer, refused
from cortexd.dialects.wire.json_values import JsonObject, type_name
from cortexd.dialects.wire.profile import Profile
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

_ADDRESSES: Final = ("image_url", "audio_url", "video_url", "file_url")
"""The fields of a content part by which a node is told what to fetch."""

_PARTS_OF_OTHERS: Final = ("input_text", "input_image", "input_file", "output_text", "refusal")
"""Parts of a request for a response, and of what a model says."""

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


def with_template_arguments(fields: JsonObject) -> JsonObject:
    """Return a chat's fields with what it says of thinking by ``chat_template_kwargs`` alone.

    Nodes take it from there where the chat itself does not say it (nodes.md 4.1).
    """
    given = fields.get("chat_template_kwargs")
    if not isinstance(given, dict):
        return fields
    told = (("enable_thinking", bool), ("reasoning_effort", str))
    return {name: given[name] for name, kind in told if isinstance(given.get(name), kind)} | fields


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


def check_choices(fields: JsonObject) -> bool:
    """Return whether several choices are asked for. Raises BadRequest for none, or no number."""
    return read_integer(fields.get("n", 1), "n", 1) != 1


def check_several_streamed(*, several: bool, streams: bool) -> None:
    """Raise BadRequest for several choices in a stream: a node's stream of them is broken."""
    if several and streams:
        raise BadRequest(
            "'n' above 1 cannot be streamed; leave 'stream' out or ask once for each answer",
            param="n",
            code="unsupported_value",
        )


def check_one_grammar(fields: JsonObject) -> None:
    """Raise BadRequest for an answer that is to have two forms at once."""
    if fields.get("grammar") is not None and fields.get("response_format") is not None:
        raise refused("grammar", "cannot be had beside 'response_format'; leave one of them out")


def check_parts(content: object, path: str, profile: Profile) -> None:
    """Raise BadRequest for a part that no node takes, or that may not go to such an upstream.

    ``content`` is that of a user's message, at ``path``.
    """
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        if part.get("type") == "input_audio":
            words = "is 'input_audio', which nodes do not take; send an 'audio_url' of a data: URL"
            raise refused(f"{path}[{index}].type", words)
        if part.get("type") in _PARTS_OF_OTHERS:
            words = f"is {quoted(part['type'])}, which is no part of what a user says in a chat"
            raise refused(f"{path}[{index}].type", words)
        check_media(part, f"{path}[{index}]", profile)


def check_media(part: JsonObject, path: str, profile: Profile) -> None:
    """Raise BadRequest for an image that the model cannot see, and for what may not be fetched.

    ``part`` is one of a content, in the words of a chat or of a request for a response.
    """
    image = part.get("image_url")
    if not profile.vision and (image is not None or part.get("type") == "input_image"):
        raise unseen(path)
    if profile.fetches_images:
        return
    for field in _ADDRESSES:
        address = part.get(field)
        url = address.get("url") if isinstance(address, dict) else address
        if isinstance(url, str) and not url.startswith("data:"):
            words = (
                "must be a data: URL: the operator does not let nodes fetch images or other media"
            )
            raise refused(f"{path}.{field}", words)
