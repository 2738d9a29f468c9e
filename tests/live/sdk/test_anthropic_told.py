"""The anthropic SDK before simulated nodes: what a real model would have to be good enough for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.covers import covers
from tests.engine.processes import RunningNode
from tests.live.sdk.anthropic_sdk import (
    TIDES,
    WEATHER,
    Served,
    asked_of,
    client,
    followed_up,
    kinds,
    only_text,
    serving,
    text,
)
from tests.live.sdk.clients import said, serving_messages

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


@pytest.fixture(scope="module")
def mistralrs(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node, which sees, thinks and calls tools when told.

    It takes bodies of 1 MiB.
    """
    folder = tmp_path_factory.mktemp("anthropic-told")
    with serving(folder, fast_node, gateway={"max_body_mb": 1}) as told:
        yield told


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a node that is told the same, but speaks the Messages API alone."""
    with serving_messages(client, tmp_path_factory.mktemp("anthropic-told-messages")) as told:
        yield told


@pytest.fixture(params=["mistralrs", "messages"])
def served(request: pytest.FixtureRequest) -> Served:
    """Give an SDK client of a daemon before a node of one kind."""
    chosen: Served = request.getfixturevalue(request.param)
    return chosen


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_in_parallel(served: Served, streamed: bool) -> None:
    """Two calls are two blocks with ids of their own; both results go back in one turn."""
    conversation = said("call:get_weather call:get_tides Bergen")
    message = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
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
    followed = served.sdk.messages.create(
        model=served.model,
        max_tokens=20,
        messages=followed_up(conversation, message.content, *results),
    )
    assert "The tool said: high at noon" == only_text(followed)


@covers("2.3 disable_parallel_tool_use")
def test_parallel_calls_can_be_switched_off(served: Served) -> None:
    """Then the first call is the only one, though the model makes two."""
    for streamed in (False, True):
        message = asked_of(
            served.sdk,
            streamed=streamed,
            model=served.model,
            max_tokens=300,
            messages=said("call:get_weather call:get_tides Bergen"),
            tools=[WEATHER, TIDES],
            tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        )
        assert (["tool_use"], "tool_use") == (kinds(message), message.stop_reason)
        assert "get_weather" == message.content[0].name


@covers("2.3 tool_choice auto or none")
def test_no_tool_is_called_where_none_may(served: Served) -> None:
    """With the choice ``none`` the model answers in words, though it would call."""
    message = served.sdk.messages.create(
        model=served.model,
        max_tokens=40,
        messages=said("call:get_weather Bergen"),
        tools=[WEATHER],
        tool_choice={"type": "none"},
    )
    assert (["text"], "end_turn") == (kinds(message), message.stop_reason)


@covers("2.2 is_error")
def test_a_failed_tool_is_told_to_the_model(mistralrs: Served) -> None:
    """The flag of a failed result becomes words, since a chat has no such flag."""
    conversation = said("call:get_weather Bergen")
    asked: Any = {"model": mistralrs.model, "max_tokens": 300, "tools": [WEATHER]}
    called = mistralrs.sdk.messages.create(messages=conversation, **asked)
    assert called.content[0].type == "tool_use"
    failed = {
        "type": "tool_result",
        "tool_use_id": called.content[0].id,
        "content": "no such city",
        "is_error": True,
    }
    raw = mistralrs.sdk.messages.with_raw_response.create(
        messages=followed_up(conversation, called.content, failed),
        **asked,
    )
    assert "The tool said: Error: no such city" == only_text(raw.parse())
    assert "is_error" in raw.headers["x-cortex-translation"]


@covers("2.2 image base64", "2.2 image url", "2.2 tool_result with images")
def test_images_are_taken(mistralrs: Served) -> None:
    """An image beside text reaches the node, one in a tool's result, and the URL of one."""
    image = {"type": "image", "source": PNG}
    linked = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/cat.png"}}
    asked: Any = {"model": mistralrs.model, "max_tokens": 20}
    beside = mistralrs.sdk.messages.create(messages=said(image, text("what is this")), **asked)
    assert "You said: what is this" == only_text(beside)
    with pytest.raises(anthropic.BadRequestError, match="Could not process image"):
        mistralrs.sdk.messages.create(messages=said(linked), **asked)
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    raw = mistralrs.sdk.messages.with_raw_response.create(
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
    served: Served, thinking: dict[str, Any], streamed: bool
) -> None:
    """It is a signed block of its own, and is taken back in the next turn."""
    conversation = said("hello there")
    asked: Any = {"model": served.thinker, "max_tokens": 2048, "thinking": thinking}
    message = asked_of(served.sdk, streamed=streamed, messages=conversation, **asked)
    assert ["thinking", "text"] == kinds(message)
    assert "The user said 2 words." == message.content[0].thinking
    assert message.content[0].signature
    assert "You said: hello there" == message.content[1].text
    followed: Any = served.sdk.messages.create(
        messages=followed_up(conversation, message.content, "and now"),
        **asked,
    )
    assert "You said: and now" == followed.content[1].text


@covers("2.1 thinking absent", "2.1 thinking disabled")
@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_nobody_thinks_unasked(served: Served, thinking: dict[str, Any] | None) -> None:
    """A node's model thinks by default; a Messages model must be asked to."""
    asked: Any = {} if thinking is None else {"thinking": thinking}
    message = served.sdk.messages.create(
        model=served.thinker, max_tokens=40, messages=said("hello there"), **asked
    )
    assert "You said: hello there" == only_text(message)


@covers("4.3 stop_sequence")
@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_sequence_ends_the_answer_and_is_named(served: Served, streamed: bool) -> None:
    """The text ends before it, and the client is told which of them it was."""
    message = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        max_tokens=100,
        messages=said("one two three four"),
        stop_sequences=["nine", " three"],
    )
    assert "You said: one two" == only_text(message)
    assert ("stop_sequence", " three") == (message.stop_reason, message.stop_sequence)


def test_the_token_limit_ends_the_answer(served: Served) -> None:
    """An answer cut at ``max_tokens`` says so."""
    message = served.sdk.messages.create(
        model=served.model, max_tokens=3, messages=said("one two three four")
    )
    assert ("max_tokens", 3) == (message.stop_reason, message.usage.output_tokens)


@covers("2.1 unknown field")
def test_what_is_approximated_is_named(mistralrs: Served) -> None:
    """A header tells what the translation could only approximate."""
    raw = mistralrs.sdk.messages.with_raw_response.create(
        model=mistralrs.thinker,
        max_tokens=2048,
        messages=said("hi"),
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"a_field_of_next_month": 1},
    )
    assert "approx=thinking_budget,a_field_of_next_month" == raw.headers["x-cortex-translation"]
    assert ("node", mistralrs.thinker) == (
        raw.headers["x-cortex-node"],
        raw.headers["x-cortex-model"],
    )


@covers("5 too large")
def test_a_body_beyond_the_limit_is_too_large(mistralrs: Served) -> None:
    """The status is 413 in the client's own envelope."""
    with pytest.raises(anthropic.RequestTooLargeError) as raised:
        mistralrs.sdk.messages.create(
            model=mistralrs.model, max_tokens=4, messages=said("x" * (1024 * 1024))
        )
    assert ("request_too_large", 413) == (raised.value.type, raised.value.status_code)
