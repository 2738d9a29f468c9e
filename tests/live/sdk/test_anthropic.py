"""The anthropic SDK before a daemon before each kind of node: real tokens, and simulated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from tests.covers import covers
from tests.live.sdk.anthropic_sdk import (
    TIDES,
    WEATHER,
    Served,
    asked_of,
    client,
    followed_up,
    kinds,
    only_text,
    text,
)
from tests.live.sdk.clients import KINDS, said, serving_kind

UNKNOWN = "no/such-model"


class Forecast(BaseModel):
    """What the model is to answer, as the SDK takes it and gives it back."""

    city: str
    days: int


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Run a daemon before a node of one kind, and an SDK client of it."""
    folder = tmp_path_factory.mktemp(f"anthropic-{request.param}")
    with serving_kind(client, folder, request) as told:
        yield told


@covers("T16")
def test_it_answers(served: Served) -> None:
    """A whole answer has text, a reason to stop, usage, an id of ours and the model's own name."""
    message = served.sdk.messages.create(
        model=served.model, max_tokens=8, messages=said("hello there")
    )
    assert only_text(message)
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.stop_sequence is None
    assert message.id.startswith("msg_")
    assert ("message", "assistant", served.model) == (message.type, message.role, message.model)
    assert prompt_tokens(message) > 0
    assert 0 < message.usage.output_tokens <= 8
    assert 0 == message.usage.cache_creation_input_tokens


def prompt_tokens(message: anthropic.types.Message) -> int:
    """Return how many tokens the prompt had; the engine may remember some from another test."""
    assert message.usage.cache_read_input_tokens is not None
    return message.usage.input_tokens + message.usage.cache_read_input_tokens


def test_it_streams_what_it_would_answer_whole(served: Served) -> None:
    """The helper's text, its final message and the whole answer are one, usage included."""
    asked: Any = {
        "model": served.model,
        "max_tokens": 12,
        "messages": said("hello there"),
        "extra_body": {"temperature": 0},
    }
    whole = served.sdk.messages.create(**asked)
    with served.sdk.messages.stream(**asked) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert streamed == only_text(whole) == only_text(final)
    assert whole.stop_reason == final.stop_reason
    assert prompt_tokens(whole) == prompt_tokens(final)
    assert whole.usage.output_tokens == final.usage.output_tokens
    assert whole.id != final.id


@covers("T30", "T52")
def test_the_events_of_a_stream_are_in_their_order(served: Served) -> None:
    """One beginning, one block started and stopped with its deltas between, one end."""
    events = list(
        served.sdk.messages.create(
            model=served.model, max_tokens=6, messages=said("hello there"), stream=True
        )
    )
    order = [event.type for event in events if event.type != "content_block_delta"]
    assert [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ] == order
    assert {"content_block_delta"} == {event.type for event in events[2:-3]}
    assert len(events) > 6
    assert events[0].type == "message_start"
    usage = events[0].message.usage
    assert usage.input_tokens > 0
    assert (0, 0, 0) == (
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
    )
    assert events[-2].type == "message_delta"
    assert events[-2].delta.stop_reason in ("end_turn", "max_tokens")
    assert "stop_sequence" in events[-2].delta.model_fields_set
    assert events[-2].usage.input_tokens
    assert events[-2].usage.output_tokens > 0


@covers("2.3 tool_choice any", "2.3 tool_choice tool", "T24")
@pytest.mark.parametrize("choice", ["tool", "any"])
@pytest.mark.parametrize("streamed", [False, True])
def test_it_has_a_tool_called(served: Served, choice: str, streamed: bool) -> None:
    """A demanded tool is called with an input that fits its schema; the result is taken back."""
    conversation = said("the weather in Oslo")
    message = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        max_tokens=300,
        messages=conversation,
        tools=[WEATHER],
        tool_choice={"type": choice, **({"name": "get_weather"} if choice == "tool" else {})},
    )
    assert "tool_use" == message.stop_reason
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert "get_weather" == call.name
    assert (str, int) == (type(call.input["city"]), type(call.input["days"]))
    followed = served.sdk.messages.create(
        model=served.model,
        max_tokens=8,
        tools=[WEATHER],
        messages=followed_up(
            conversation,
            message.content,
            {"type": "tool_result", "tool_use_id": call.id, "content": "rain"},
            text("and tomorrow?"),
        ),
    )
    assert ["text"] == kinds(followed)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_that_nothing_demands_are_taken(served: Served, choice: str) -> None:
    """A request with tools is answered, in words where the model calls none."""
    for streamed in (False, True):
        message = asked_of(
            served.sdk,
            streamed=streamed,
            model=served.model,
            max_tokens=8,
            messages=said("good morning"),
            tools=[WEATHER, TIDES],
            tool_choice={"type": choice},
        )
        assert ["text"] == kinds(message)
        assert message.stop_reason in ("end_turn", "max_tokens")


@covers("2.1 output_config.format")
def test_an_answer_is_held_to_a_schema(served: Served) -> None:
    """Structured output is JSON of that schema, whole and streamed."""
    schema = {**WEATHER["input_schema"], "additionalProperties": False}
    for streamed in (False, True):
        message = asked_of(
            served.sdk,
            streamed=streamed,
            model=served.model,
            max_tokens=300,
            messages=said("the weather in Oslo"),
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
        (block,) = message.content
        answer = json.loads(block.text)
        assert (str, int) == (type(answer["city"]), type(answer["days"]))


def test_a_helper_parses_structured_output(served: Served) -> None:
    """The SDK makes a schema of a class, and of the answer an instance of it."""
    message = served.sdk.messages.parse(
        model=served.model,
        max_tokens=300,
        messages=said("the weather in Oslo"),
        output_format=Forecast,
    )
    assert isinstance(message.parsed_output, Forecast)
    assert message.parsed_output.city


@pytest.mark.parametrize(
    "thinking",
    [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}],
)
def test_any_thinking_is_taken(served: Served, thinking: Any) -> None:
    """A request that says how to think is answered, by a model that cannot think as well."""
    for streamed in (False, True):
        message = asked_of(
            served.sdk,
            streamed=streamed,
            model=served.model,
            max_tokens=2048,
            messages=said("hello there"),
            thinking=thinking,
        )
        assert "text" == kinds(message)[-1]


def test_it_counts_tokens(served: Served) -> None:
    """The count is an estimate that grows with the text and with the tools, and says so."""
    asked: Any = {"model": served.model, "messages": said("hello there")}
    raw = served.sdk.messages.with_raw_response.count_tokens(**asked)
    with_tools = served.sdk.messages.count_tokens(**asked, tools=[WEATHER, TIDES])
    longer = served.sdk.messages.count_tokens(model=served.model, messages=said("word " * 1000))
    assert "estimate" == raw.headers["x-cortex-token-count"]
    few = raw.parse().input_tokens
    assert 0 < few < with_tools.input_tokens < longer.input_tokens
    # As many tokens as words at the least, as bytes at the most: the engine's tiny model has no
    # longer tokens, and what counts show of a model is learned.
    assert 500 < longer.input_tokens < 5100


def test_a_system_prompt_counts_and_is_taken(served: Served) -> None:
    """A system prompt of text blocks reaches the model: the node counts its tokens."""
    asked: Any = {"model": served.model, "max_tokens": 4, "messages": said("hi")}
    system: Any = [text("Answer in Norwegian."), text("Be brief and kind to everybody.")]
    plain = served.sdk.messages.create(**asked)
    told = served.sdk.messages.create(**asked, system=system)
    assert prompt_tokens(told) > prompt_tokens(plain) + 4


def test_an_unknown_model_is_not_found(served: Served) -> None:
    """Asked of or asked for, a model that nobody has is the SDK's NotFoundError."""
    with pytest.raises(anthropic.NotFoundError) as asked:
        served.sdk.messages.create(model=UNKNOWN, max_tokens=4, messages=said("hi"))
    with pytest.raises(anthropic.NotFoundError):
        served.sdk.models.retrieve(UNKNOWN)
    assert "not_found_error" == asked.value.type
    assert UNKNOWN in asked.value.message
    assert asked.value.request_id


def test_a_mistake_is_a_bad_request(served: Served) -> None:
    """What the gateway refuses and what the node refuses are both the SDK's BadRequestError."""
    ours: Any = {"messages": [{"role": "wizard", "content": "hi"}]}
    top: Any = {"messages": said("hi"), "extra_body": {"top_k": -1}}
    for wrong in (ours, top):
        with pytest.raises(anthropic.BadRequestError) as raised:
            served.sdk.messages.create(model=served.model, max_tokens=4, **wrong)
        assert "invalid_request_error" == raised.value.type


@covers("T36", "5 context overflow")
@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_beyond_the_context_is_told_in_the_words_clients_know(
    served: Served, streamed: bool
) -> None:
    """The status is 400, streamed or not, and the words are those Claude Code compacts at."""
    with pytest.raises(anthropic.BadRequestError) as raised:
        served.sdk.messages.create(
            model=served.model, max_tokens=2, messages=said("word " * 40_000), stream=streamed
        )
    assert "prompt is too long: " in raised.value.message
    assert " maximum" in raised.value.message
