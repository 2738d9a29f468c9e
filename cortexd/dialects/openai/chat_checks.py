"""Checks of a chat for client errors that a node would report as its own fault.

A node answers these with 500 (nodes.md 4.1), so that clients would retry again and again. All other
errors are left to the node. This module also has the checks for chats to nodes of both dialects.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from cortexd.dialects.fitting.efforts import NO_EFFORT
from cortexd.dialects.fitting.reading import newest_turn, newest_user_turn
from cortexd.dialects.wire.contents import unseen
from cortexd.dialects.wire.fields import quoted, read_integer, read_string, refused
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
"""The nodes' own fields, with which a client lets a node use tools by itself, and follows it."""

_ADDRESSES: Final = ("image_url", "audio_url", "video_url", "file_url")
"""The fields of a content part with a URL that a node fetches."""

_PARTS_OF_OTHERS: Final = ("input_text", "input_image", "input_file", "output_text", "refusal")
"""Types of parts that belong to a response's request or to a model's answer."""

_MAY_SAY_NOTHING: Final = ("assistant", "tool", "function")
"""The roles whose messages may lack a content."""


def read_effort(fields: JsonObject, levels: Collection[str]) -> str | None:
    """Return the ``reasoning_effort`` of a chat, ``None`` if it has none.

    ``levels`` are the upstream's levels in addition to NO_EFFORT. The effort must not contradict
    ``enable_thinking``. Raises BadRequest.
    """
    effort = fields.get("reasoning_effort")
    if effort is None:
        return None
    if not isinstance(effort, str) or (effort not in NO_EFFORT and effort not in levels):
        found = quoted(effort) if isinstance(effort, str) else type_name(effort)
        raise BadRequest(
            "'reasoning_effort' must be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or "
            f"'max'; found {found}",
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
    """Return a chat's fields with the thinking control of its ``chat_template_kwargs``.

    Nodes read it from there if the chat itself has none (nodes.md 4.1).
    """
    given = fields.get("chat_template_kwargs")
    if not isinstance(given, dict):
        return fields
    controls = (("enable_thinking", bool), ("reasoning_effort", str))
    return {
        name: given[name] for name, kind in controls if isinstance(given.get(name), kind)
    } | fields


def check_limit(fields: JsonObject) -> None:
    """Raise BadRequest for a limit of tokens that allows no answer."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if fields.get(name) == 0:
            read_integer(fields[name], name, 1)


def check_tool_choice(fields: JsonObject) -> None:
    """Raise BadRequest for a choice that forces a tool which the request does not have."""
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if choice == "required" and not tools:
        raise refused("tool_choice", "needs 'tools', but the request has none")
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
    """Return whether the chat requests several choices. Raises BadRequest for an invalid ``n``."""
    return read_integer(fields.get("n", 1), "n", 1) != 1


def check_several_streamed(*, several: bool, streams: bool) -> None:
    """Raise BadRequest for several choices in a stream: a node's stream of them is broken."""
    if several and streams:
        raise BadRequest(
            "'n' above 1 cannot be streamed; leave out 'stream', or send one request each",
            param="n",
            code="unsupported_value",
        )


def check_one_grammar(fields: JsonObject) -> None:
    """Raise BadRequest for an answer with two formats at once."""
    if fields.get("grammar") is not None and fields.get("response_format") is not None:
        raise refused("grammar", "cannot be combined with 'response_format'; leave one of them out")


def check_newest_turn(messages: Sequence[object], profile: Profile) -> None:
    """Raise BadRequest for a fault in the newest turn, before which no answer came yet.

    Earlier turns are never refused, because they stay in the conversation.
    """
    newest = newest_user_turn(messages)
    for index in range(newest_turn(messages), len(messages)):
        message, path = messages[index], f"messages[{index}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{path} must be an object; found {type_name(message)}", param=path)
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            words = f"{path}.role must be a string; found {type_name(role)}"
            raise BadRequest(words, param=f"{path}.role")
        content_path = f"{path}.content"
        if content is None and role not in _MAY_SAY_NOTHING:
            raise refused(content_path, "must be a string or an array of content parts")
        if index == newest:
            check_parts(content, content_path, profile)
        elif role in ("system", "developer"):
            _check_texts(content, content_path, role)


def _check_texts(content: object, path: str, role: str) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise BadRequest(
                f"{path}[{index}] must be a text part: only user messages can hold others, "
                f"and this one's role is {role!r}",
                param=f"{path}[{index}]",
            )


def check_parts(content: object, path: str, profile: Profile) -> None:
    """Raise BadRequest for a part that no node accepts, or that the profile does not allow.

    ``content`` is that of a user's message, at ``path``.
    """
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        if part.get("type") == "input_audio":
            words = (
                "is 'input_audio', which nodes do not accept; send an 'audio_url' with a data: URL"
            )
            raise refused(f"{path}[{index}].type", words)
        if part.get("type") in _PARTS_OF_OTHERS:
            words = f"is {quoted(part['type'])}, which is not a part of a user message in a chat"
            raise refused(f"{path}[{index}].type", words)
        if part.get("type", "text") == "text" and not isinstance(part.get("text"), str):
            read_string(part.get("text"), f"{path}[{index}].text")
        check_media(part, f"{path}[{index}]", profile)


def check_media(part: JsonObject, path: str, profile: Profile) -> None:
    """Raise BadRequest for an image to a model without vision, and for a URL that is not allowed.

    ``part`` is a content part of a chat or of a response's request.
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
            words = "must be a data: URL: the operator does not allow nodes to fetch media"
            raise refused(f"{path}.{field}", words)
