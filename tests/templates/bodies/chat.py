"""Conversations as bodies of chat completions."""

from typing import Final

from tests.templates.conversation import (
    Assistant,
    Call,
    JsonObject,
    Part,
    Picture,
    Result,
    Shape,
    System,
    Turn,
    User,
)

PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A picture of one pixel, in Base64."""

PICTURE_URL: Final = f"data:image/png;base64,{PNG}"


def body(shape: Shape) -> JsonObject:
    """Return the fields of a request."""
    fields: JsonObject = {"messages": [_message(turn) for turn in shape.turns], "max_tokens": 100}
    if shape.tools is not None:
        fields["tools"] = [{"type": "function", "function": tool} for tool in shape.tools]
    if shape.effort is not None:
        fields["reasoning_effort"] = shape.effort
    return fields


def _message(turn: Turn) -> JsonObject:
    if isinstance(turn, System):
        return {"role": turn.role, "content": _content(turn.texts, in_array=turn.in_array)}
    if isinstance(turn, User):
        message = {"role": "user", "content": _content(turn.parts, in_array=turn.in_array)}
        return message if turn.name is None else message | {"name": turn.name}
    if isinstance(turn, Result):
        content = _content(turn.parts, in_array=turn.in_array)
        return {"role": "tool", "tool_call_id": turn.call, "content": content}
    return _answer(turn)


def _answer(turn: Assistant) -> JsonObject:
    said = _content(turn.texts, in_array=turn.in_array)
    if turn.refusal:
        said = [{"type": "refusal", "refusal": turn.refusal}]
    message: JsonObject = {"role": "assistant", "content": said or None}
    if turn.thoughts:
        message["reasoning_content"] = turn.thoughts
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    return message


def _call(call: Call) -> JsonObject:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _content(parts: tuple[Part, ...], *, in_array: bool) -> str | list[JsonObject]:
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and not in_array:
        return "\n".join(texts)
    return [
        {"type": "image_url", "image_url": {"url": PICTURE_URL}}
        if isinstance(part, Picture)
        else {"type": "text", "text": part}
        for part in parts
    ]
