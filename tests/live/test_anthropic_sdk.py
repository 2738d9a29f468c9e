"""The anthropic SDK before a daemon before each kind of node: real tokens, and simulated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.engine.processes import RunningNode, engine_node, write_tiny_models
from tests.live.anthropic_sdk import (
    TIDES,
    WEATHER,
    Served,
    asked_of,
    followed_up,
    kinds,
    only_text,
    said,
    serving,
    text,
)

UNKNOWN = "no/such-model"
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


@pytest.fixture(scope="module")
def simulated(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node, which sees, thinks and calls tools when told.

    It takes bodies of 1 MiB.
    """
    folder = tmp_path_factory.mktemp("anthropic-simulated")
    with serving(folder, fast_node, gateway={"max_body_mb": 1}) as told:
        yield told


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before the real engine with tiny models."""
    folder = tmp_path_factory.mktemp("anthropic-engine")
    with (
        engine_node(write_tiny_models(folder / "models")) as node,
        serving(folder, node) as told,
    ):
        yield told


@pytest.fixture(params=["simulated", "real"])
def served(request: pytest.FixtureRequest) -> Served:
    """Give an SDK client of a daemon before a node of one kind."""
    chosen: Served = request.getfixturevalue(request.param)
    return chosen


# Before both kinds of node.


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
    assert message.usage.input_tokens > 0
    assert 0 < message.usage.output_tokens <= 8
    assert (0, 0) == (
        message.usage.cache_creation_input_tokens,
        message.usage.cache_read_input_tokens,
    )


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
    assert whole.usage.input_tokens == final.usage.input_tokens
    assert whole.usage.output_tokens == final.usage.output_tokens
    assert whole.id != final.id


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
    assert events[0].message.usage.input_tokens > 0
    assert 0 == events[0].message.usage.output_tokens


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


def test_it_counts_tokens(served: Served) -> None:
    """The count is an estimate that grows with the text and with the tools, and says so."""
    asked: Any = {"model": served.model, "messages": said("hello there")}
    raw = served.sdk.messages.with_raw_response.count_tokens(**asked)
    with_tools = served.sdk.messages.count_tokens(**asked, tools=[WEATHER, TIDES])
    longer = served.sdk.messages.count_tokens(model=served.model, messages=said("word " * 1000))
    assert "estimate" == raw.headers["x-cortex-token-count"]
    few = raw.parse().input_tokens
    assert 0 < few < with_tools.input_tokens < longer.input_tokens
    assert 500 < longer.input_tokens < 2500


def test_a_system_prompt_counts_and_is_taken(served: Served) -> None:
    """A system prompt of text blocks reaches the model: the node counts its tokens."""
    asked: Any = {"model": served.model, "max_tokens": 4, "messages": said("hi")}
    system: Any = [text("Answer in Norwegian."), text("Be brief and kind to everybody.")]
    plain = served.sdk.messages.create(**asked)
    told = served.sdk.messages.create(**asked, system=system)
    assert told.usage.input_tokens > plain.usage.input_tokens + 4


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


# What only the simulated node can be told to do.


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_in_parallel(simulated: Served, streamed: bool) -> None:
    """Two calls are two blocks with ids of their own; both results go back in one turn."""
    conversation = said("call:get_weather call:get_tides Bergen")
    message = asked_of(
        simulated.sdk,
        streamed=streamed,
        model=simulated.model,
        max_tokens=300,
        messages=conversation,
        tools=[WEATHER, TIDES],
    )
    assert ["tool_use", "tool_use"] == kinds(message)
    first, second = message.content
    assert ("get_weather", {"city": "Bergen", "days": 1}) == (first.name, first.input)
    assert ("get_tides", {"harbour": "Bergen"}) == (second.name, second.input)
    assert first.id != second.id
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [text(words)]}
        for block, words in ((first, "rain"), (second, "high at noon"))
    ]
    followed = simulated.sdk.messages.create(
        model=simulated.model,
        max_tokens=20,
        messages=followed_up(conversation, message.content, *results),
    )
    assert "The tool said: high at noon" == only_text(followed)


def test_parallel_calls_can_be_switched_off(simulated: Served) -> None:
    """Then the first call is the only one, though the model makes two."""
    for streamed in (False, True):
        message = asked_of(
            simulated.sdk,
            streamed=streamed,
            model=simulated.model,
            max_tokens=300,
            messages=said("call:get_weather call:get_tides Bergen"),
            tools=[WEATHER, TIDES],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        )
        assert (["tool_use"], "tool_use") == (kinds(message), message.stop_reason)
        assert "get_weather" == message.content[0].name


def test_no_tool_is_called_where_none_may(simulated: Served) -> None:
    """With the choice ``none`` the model answers in words, though it would call."""
    message = simulated.sdk.messages.create(
        model=simulated.model,
        max_tokens=40,
        messages=said("call:get_weather Bergen"),
        tools=[WEATHER],
        tool_choice={"type": "none"},
    )
    assert (["text"], "end_turn") == (kinds(message), message.stop_reason)


def test_a_failed_tool_is_told_to_the_model(simulated: Served) -> None:
    """The flag of a failed result becomes words, since a chat has no such flag."""
    conversation = said("call:get_weather Bergen")
    asked: Any = {"model": simulated.model, "max_tokens": 300, "tools": [WEATHER]}
    called = simulated.sdk.messages.create(messages=conversation, **asked)
    assert called.content[0].type == "tool_use"
    failed = {
        "type": "tool_result",
        "tool_use_id": called.content[0].id,
        "content": "no such city",
        "is_error": True,
    }
    raw = simulated.sdk.messages.with_raw_response.create(
        messages=followed_up(conversation, called.content, failed),
        **asked,
    )
    assert "The tool said: Error: no such city" == only_text(raw.parse())
    assert "is_error" in raw.headers["x-cortex-translation"]


def test_images_are_taken(simulated: Served) -> None:
    """An image beside text, by data or by URL, reaches the node, and one in a tool's result."""
    image = {"type": "image", "source": PNG}
    linked = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/cat.png"}}
    asked: Any = {"model": simulated.model, "max_tokens": 20}
    beside = simulated.sdk.messages.create(
        messages=said(image, text("what is this"), linked), **asked
    )
    assert "You said: what is this" == only_text(beside)
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    raw = simulated.sdk.messages.with_raw_response.create(
        messages=followed_up(said("look around"), [call], result, text("and what is that")),
        **asked,
    )
    assert "You said: and what is that" == only_text(raw.parse())
    assert "tool_result_image" in raw.headers["x-cortex-translation"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}]
)
def test_thinking_comes_before_the_answer(
    simulated: Served, thinking: dict[str, Any], streamed: bool
) -> None:
    """It is a signed block of its own, and is taken back in the next turn."""
    conversation = said("hello there")
    asked: Any = {"model": simulated.thinker, "max_tokens": 2048, "thinking": thinking}
    message = asked_of(simulated.sdk, streamed=streamed, messages=conversation, **asked)
    assert ["thinking", "text"] == kinds(message)
    assert "The user said 2 words." == message.content[0].thinking
    assert message.content[0].signature
    assert "You said: hello there" == message.content[1].text
    followed: Any = simulated.sdk.messages.create(
        messages=followed_up(conversation, message.content, "and now"),
        **asked,
    )
    assert "You said: and now" == followed.content[1].text


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_nobody_thinks_unasked(simulated: Served, thinking: dict[str, Any] | None) -> None:
    """A node's model thinks by default; a Messages model must be asked to."""
    asked: Any = {} if thinking is None else {"thinking": thinking}
    message = simulated.sdk.messages.create(
        model=simulated.thinker, max_tokens=40, messages=said("hello there"), **asked
    )
    assert "You said: hello there" == only_text(message)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_sequence_ends_the_answer_and_is_named(simulated: Served, streamed: bool) -> None:
    """The text ends before it, and the client is told which of them it was."""
    message = asked_of(
        simulated.sdk,
        streamed=streamed,
        model=simulated.model,
        max_tokens=100,
        messages=said("one two three four"),
        stop_sequences=["nine", " three"],
    )
    assert "You said: one two" == only_text(message)
    assert ("stop_sequence", " three") == (message.stop_reason, message.stop_sequence)


def test_the_token_limit_ends_the_answer(simulated: Served) -> None:
    """An answer cut at ``max_tokens`` says so."""
    message = simulated.sdk.messages.create(
        model=simulated.model, max_tokens=3, messages=said("one two three four")
    )
    assert ("max_tokens", 3) == (message.stop_reason, message.usage.output_tokens)


def test_the_beta_resource_is_served_as_well(simulated: Served) -> None:
    """The SDK's beta calls go to the same route, with headers and fields of their own."""
    message = simulated.sdk.beta.messages.create(
        model=simulated.model,
        max_tokens=20,
        messages=said("hello there"),
        betas=["context-management-2025-06-27"],
        extra_query={"beta": "true"},
    )
    assert "You said: hello there" == only_text(message)


def test_what_is_approximated_is_named(simulated: Served) -> None:
    """A header tells what the translation could only approximate."""
    raw = simulated.sdk.messages.with_raw_response.create(
        model=simulated.thinker,
        max_tokens=2048,
        messages=said("hi"),
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"a_field_of_next_month": 1},
    )
    assert "approx=thinking_budget,a_field_of_next_month" == raw.headers["x-cortex-translation"]
    assert ("node", simulated.thinker) == (
        raw.headers["x-cortex-node"],
        raw.headers["x-cortex-model"],
    )


def test_a_body_beyond_the_limit_is_too_large(simulated: Served) -> None:
    """The status is 413 in the client's own envelope."""
    with pytest.raises(anthropic.RequestTooLargeError) as raised:
        simulated.sdk.messages.create(
            model=simulated.model, max_tokens=4, messages=said("x" * (1024 * 1024))
        )
    assert ("request_too_large", 413) == (raised.value.type, raised.value.status_code)
