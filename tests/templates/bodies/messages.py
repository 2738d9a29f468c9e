"""Conversations as bodies of Anthropic Messages."""

import json
from itertools import takewhile

from tests.templates.bodies.chat import PNG
from tests.templates.conversation import (
    Assistant,
    JsonObject,
    Part,
    Picture,
    Result,
    Shape,
    System,
    Turn,
)


def body(shape: Shape) -> JsonObject:
    """Return the fields of a request; the first system messages are its ``system``."""
    leading = list(takewhile(lambda turn: isinstance(turn, System), shape.turns))
    texts = [text for turn in leading if isinstance(turn, System) for text in turn.texts]
    fields: JsonObject = {"max_tokens": 100, "messages": []}
    if texts:
        fields["system"] = texts[0] if len(texts) == 1 else _blocks(tuple(texts))
    for turn in shape.turns[len(leading) :]:
        _add(turn, fields["messages"])
    if shape.tools is not None:
        fields["tools"] = [_tool(tool) for tool in shape.tools]
    if shape.effort == "none":
        fields["thinking"] = {"type": "disabled"}
    elif shape.effort is not None:
        fields["thinking"] = {"type": "adaptive"}
        fields["output_config"] = {"effort": shape.effort}
    return fields


def _tool(tool: JsonObject) -> JsonObject:
    described = {name: value for name, value in tool.items() if name != "parameters"}
    return {**described, "input_schema": tool["parameters"]}


def _add(turn: Turn, messages: list[JsonObject]) -> None:
    """Add a turn; results stand in one turn of the user, also with what the user says then."""
    if isinstance(turn, System):
        messages.append({"role": "system", "content": turn.texts[0]})
    elif isinstance(turn, Assistant):
        messages.append({"role": "assistant", "content": _answer(turn)})
    elif isinstance(turn, Result):
        block = {
            "type": "tool_result",
            "tool_use_id": turn.call,
            "content": _content(turn.parts, in_array=turn.in_array),
            **({"is_error": True} if turn.is_error else {}),
        }
        if messages and messages[-1]["role"] == "user" and _has_results(messages[-1]):
            messages[-1]["content"].append(block)
        else:
            messages.append({"role": "user", "content": [block]})
    elif messages and messages[-1]["role"] == "user" and _has_results(messages[-1]):
        messages[-1]["content"] += _blocks(turn.parts)
    else:
        content = _content(turn.parts, in_array=turn.in_array)
        messages.append({"role": "user", "content": content})


def _has_results(message: JsonObject) -> bool:
    content = message["content"]
    return isinstance(content, list) and content[0].get("type") == "tool_result"


def _answer(turn: Assistant) -> str | list[JsonObject]:
    thoughts = [{"type": "thinking", "thinking": turn.thoughts, "signature": "cortex"}]
    return [
        *(thoughts if turn.thoughts else ()),
        *_blocks(turn.texts),
        *(
            {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": json.loads(call.arguments or "{}"),
            }
            for call in turn.calls
        ),
    ]


def _content(parts: tuple[Part, ...], *, in_array: bool) -> str | list[JsonObject]:
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and not in_array:
        return "\n".join(texts)
    return _blocks(parts)


def _blocks(parts: tuple[Part, ...]) -> list[JsonObject]:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    return [
        {"type": "image", "source": source}
        if isinstance(part, Picture)
        else {"type": "text", "text": part}
        for part in parts
    ]
