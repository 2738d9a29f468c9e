"""Mistakes of clients, asked of both kinds of node: in the body, and found by the engine."""

from __future__ import annotations

import pytest

from tests.engine.contract import Caller, Json, assert_message, assert_text


def schema_of(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


SAID: Json = {"role": "user", "content": "hi"}
CALL: Json = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        SAID | {"reasoning": "a", "reasoning_content": "a"},
        SAID | {"content": [{"type": "text", "text": "hi", "cache_control": None}]},
        SAID | {"content": [{"type": "text", "text": "hi", "index": 0}]},
        SAID | {"content": [{"type": "text", "text": "hi", "annotations": []}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": CALL["function"]}]},
        {
            "role": "assistant",
            "tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}],
        },
    ],
    ids=["reasoning", "null", "number", "array", "type", "arguments"],
)
def test_a_message_of_another_shape_is_refused_without_its_cause(
    caller: Caller, message: Json
) -> None:
    """One value of a wrong type has the whole body refused, as if all of it were wrong."""
    response = caller.chat(messages=[message])
    assert_text(response, 422)
    assert "messages: data did not match any variant of untagged enum Either" in response.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": schema_of({"type": "wat"})}, "Invalid grammar. Invalid type: wat"),
        (
            {"response_format": schema_of({"type": "object", "not": {}})},
            'Invalid grammar. Unimplemented keys: ["not"]',
        ),
    ],
    ids=["type", "key"],
)
def test_a_mistake_that_the_engine_finds_is_a_422_or_an_error_inside_a_stream(
    caller: Caller, fields: Json, words: str
) -> None:
    """The same words come with a status of their own, or as a fault of the server inside a 200."""
    response = caller.chat(**fields)
    assert_message(response, 422)
    assert words == response.json()["message"]
    stream = caller.stream(caller.chat_body(**fields))
    errors = stream.plain_lines + [chunk["error"]["message"] for chunk in stream.chunks]
    assert [words] == errors
