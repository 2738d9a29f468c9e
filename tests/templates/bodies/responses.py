"""Conversations as bodies of Responses."""

from collections.abc import Iterator

from tests.templates.bodies.chat import PICTURE_URL
from tests.templates.conversation import (
    Assistant,
    JsonObject,
    Part,
    Picture,
    Result,
    Shape,
    System,
    Turn,
    User,
)


def body(shape: Shape) -> JsonObject:
    """Return the fields of a request; a first message of the role system is `instructions`."""
    turns = shape.turns
    fields: JsonObject = {"store": False, "max_output_tokens": 100}
    first = turns[0]
    if isinstance(first, System) and first.role == "system" and not first.in_array:
        fields["instructions"] = first.texts[0]
        turns = turns[1:]
    fields["input"] = [item for index, turn in enumerate(turns) for item in _items(turn, index)]
    if shape.tools is not None:
        fields["tools"] = [{"type": "function", **tool} for tool in shape.tools]
    if shape.effort is not None:
        fields["reasoning"] = {"effort": shape.effort}
    return fields


def _items(turn: Turn, index: int) -> Iterator[JsonObject]:
    if isinstance(turn, System):
        content = _content(turn.texts, in_array=turn.in_array)
        yield {"type": "message", "role": turn.role, "content": content}
    elif isinstance(turn, User):
        content = _content(turn.parts, in_array=turn.in_array)
        yield {"type": "message", "role": "user", "content": content}
    elif isinstance(turn, Result):
        output = _content(turn.parts, in_array=turn.in_array)
        yield {"type": "function_call_output", "call_id": turn.call, "output": output}
    else:
        yield from _answer(turn, index)


def _answer(turn: Assistant, index: int) -> Iterator[JsonObject]:
    if turn.thoughts:
        summary = [{"type": "summary_text", "text": turn.thoughts}]
        yield {"type": "reasoning", "id": f"rs_{index}", "summary": summary}
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in turn.texts]
    if turn.refusal:
        parts = [{"type": "refusal", "refusal": turn.refusal}]
    if parts or not turn.calls:
        yield {
            "type": "message",
            "id": f"msg_{index}",
            "status": "completed",
            "role": "assistant",
            "content": parts,
        }
    for call in turn.calls:
        yield {
            "type": "function_call",
            "id": f"fc_{index}",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }


def _content(parts: tuple[Part, ...], *, in_array: bool) -> str | list[JsonObject]:
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and not in_array:
        return "\n".join(texts)
    return [
        {"type": "input_image", "image_url": PICTURE_URL, "detail": "auto"}
        if isinstance(part, Picture)
        else {"type": "input_text", "text": part}
        for part in parts
    ]
