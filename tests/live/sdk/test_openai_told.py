"""The openai SDK before simulated nodes: what a real model would have to be good enough for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.covers import covers
from tests.engine.processes import RunningNode
from tests.live.sdk.clients import said, serving_messages
from tests.live.sdk.openai_sdk import TIDES, WEATHER, Served, asked_of, client, followed_up, serving

PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


class Forecast(BaseModel):
    """What the model is to answer, as the SDK takes it and gives it back."""

    city: str
    days: int


@pytest.fixture(scope="module")
def mistralrs(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node, which sees, thinks and calls tools when told.

    It takes bodies of 1 MiB.
    """
    folder = tmp_path_factory.mktemp("sdk-told")
    with serving(folder, fast_node, gateway={"max_body_mb": 1}) as told:
        yield told


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a node that is told the same, but speaks the Messages API alone."""
    with serving_messages(client, tmp_path_factory.mktemp("sdk-told-messages")) as told:
        yield told


@pytest.fixture(params=["mistralrs", "messages"])
def served(request: pytest.FixtureRequest) -> Served:
    """Give an SDK client of a daemon before a node of one kind."""
    chosen: Served = request.getfixturevalue(request.param)
    return chosen


def calls_of(choice: Any) -> list[tuple[str, str]]:
    """Return name and arguments of each call."""
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_one_after_the_other(served: Served, streamed: bool) -> None:
    """A call, its result, another call, its result, and the answer: five turns, each taken."""
    asked: Any = {"model": served.model, "tools": [WEATHER, TIDES], "streamed": streamed}
    first = asked_of(served.sdk, messages=said("call:get_weather Oslo"), **asked)
    assert [("get_weather", '{"city":"Oslo","days":1}')] == calls_of(first)
    conversation = followed_up(said("call:get_weather Oslo"), first.message, "rain")
    told = asked_of(served.sdk, messages=conversation, **asked)
    assert ("The tool said: rain", "stop") == (told.message.content, told.finish_reason)
    conversation += [{"role": "assistant", "content": told.message.content}]
    conversation += said("call:get_tides Oslo")
    second = asked_of(served.sdk, messages=conversation, **asked)
    assert [("get_tides", '{"harbour":"Oslo"}')] == calls_of(second)
    assert first.message.tool_calls[0].id != second.message.tool_calls[0].id


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_in_parallel(served: Served, streamed: bool) -> None:
    """Two calls have ids of their own; both results go back, each as a message."""
    conversation = said("call:get_weather call:get_tides Bergen")
    asked: Any = {"model": served.model, "tools": [WEATHER, TIDES], "streamed": streamed}
    choice = asked_of(served.sdk, messages=conversation, **asked)
    assert [
        ("get_weather", '{"city":"Bergen","days":1}'),
        ("get_tides", '{"harbour":"Bergen"}'),
    ] == calls_of(choice)
    assert "tool_calls" == choice.finish_reason
    assert 2 == len({call.id for call in choice.message.tool_calls})
    followed = asked_of(
        served.sdk, messages=followed_up(conversation, choice.message, "rain", "high"), **asked
    )
    assert "The tool said: high" == followed.message.content


def strict(tool: Any) -> Any:
    """Return a tool whose arguments the SDK's helpers parse themselves."""
    function = tool["function"]
    parameters = {**function["parameters"], "additionalProperties": False}
    return {**tool, "function": {**function, "parameters": parameters, "strict": True}}


@covers("T15")
@pytest.mark.parametrize("streamed", [False, True])
def test_the_strict_helpers_parse_parallel_calls(served: Served, streamed: bool) -> None:
    """With strict tools the SDK parses the arguments of both calls, streamed and whole."""
    asked: Any = {
        "model": served.model,
        "messages": said("call:get_weather call:get_tides Bergen"),
        "tools": [strict(WEATHER), strict(TIDES)],
    }
    if streamed:
        choice = asked_of(served.sdk, streamed=True, **asked)
    else:
        (choice,) = served.sdk.chat.completions.parse(**asked).choices
    parsed = [call.function.parsed_arguments for call in choice.message.tool_calls]
    assert [{"city": "Bergen", "days": 1}, {"harbour": "Bergen"}] == parsed


@pytest.mark.parametrize("streamed", [False, True])
def test_no_tool_is_called_where_none_may(served: Served, streamed: bool) -> None:
    """With the choice ``none`` the model answers in words, though it would call."""
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        messages=said("call:get_weather Bergen"),
        tools=[WEATHER],
        tool_choice="none",
    )
    assert ("stop", None) == (choice.finish_reason, choice.message.tool_calls or None)
    assert choice.message.content.startswith("You said: ")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_named_tool_is_called_and_no_other(served: Served, streamed: bool) -> None:
    """Of two tools the one that the client names is called."""
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        messages=said("Bergen"),
        tools=[WEATHER, TIDES],
        tool_choice={"type": "function", "function": {"name": "get_tides"}},
    )
    assert [("get_tides", '{"harbour":"Bergen"}')] == calls_of(choice)


@pytest.mark.parametrize("streamed", [False, True])
def test_images_are_taken(served: Served, streamed: bool) -> None:
    """Images beside text reach the node."""
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        messages=said(PIXEL, {"type": "text", "text": "what is this"}),
    )
    assert "You said: what is this" == choice.message.content


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "high"])
@pytest.mark.parametrize("streamed", [False, True])
@covers("T27", "3 C->C minimal")
def test_thinking_is_asked_for_by_effort(served: Served, effort: Any, streamed: bool) -> None:
    """The reasoning comes beside the answer, as a field of its own; none comes where none may."""
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.thinker,
        messages=said("hello there"),
        reasoning_effort=effort,
    )
    thought = (choice.message.model_extra or {}).get("reasoning_content")
    assert "You said: hello there" == choice.message.content
    assert (None if effort == "none" else "The user said 2 words.") == thought


@pytest.mark.parametrize("streamed", [False, True])
def test_a_helper_parses_structured_output(served: Served, streamed: bool) -> None:
    """The SDK makes a schema of a class, and of the answer an instance of it."""
    asked: Any = {
        "model": served.model,
        "messages": said("Oslo"),
        "response_format": Forecast,
    }
    if streamed:
        choice = asked_of(served.sdk, streamed=True, **asked)
    else:
        (choice,) = served.sdk.chat.completions.parse(**asked).choices
    assert Forecast(city="Oslo", days=1) == choice.message.parsed


@covers("3 C->C developer", "3 C->C text parts", "T29")
def test_a_developer_s_words_are_taken(served: Served) -> None:
    """Of a developer, of a system in parts: each reaches the node, which counts its tokens."""
    asked: Any = {"model": served.model}
    parts = [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]
    counts = []
    for before in (
        [],
        [{"role": "developer", "content": "one two three"}],
        [{"role": "system", "content": parts}],
    ):
        answer = served.sdk.chat.completions.create(messages=[*before, *said("hi")], **asked)
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    alone, developer, system = counts
    assert (alone + 3, alone + 3) == (developer, system)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_ends_the_answer(served: Served, streamed: bool) -> None:
    """The text ends before it."""
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        messages=said("one two three four"),
        stop=["nine", " three"],
    )
    assert ("You said: one two", "stop") == (choice.message.content, choice.finish_reason)


def test_the_token_limit_ends_the_answer(served: Served) -> None:
    """By either of its names an answer that is cut says so."""
    for name in ("max_tokens", "max_completion_tokens"):
        limit: Any = {name: 3}
        answer = served.sdk.chat.completions.create(
            model=served.model, messages=said("one two three four"), **limit
        )
        assert answer.usage is not None
        assert ("length", 3) == (answer.choices[0].finish_reason, answer.usage.completion_tokens)


@pytest.mark.parametrize("streamed", [False, True])
def test_token_probabilities_have_their_shape(mistralrs: Served, streamed: bool) -> None:
    """They are a list of tokens, each with the likelier others, in a stream as in one piece."""
    choice = asked_of(
        mistralrs.sdk,
        streamed=streamed,
        model=mistralrs.model,
        messages=said("hello there"),
        logprobs=True,
        top_logprobs=1,
    )
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert "You said: hello there" == "".join(token.token for token in tokens)
    assert all(token.logprob <= 0 and token.top_logprobs for token in tokens)


def test_a_body_beyond_the_limit_is_too_large(mistralrs: Served) -> None:
    """The status is 413 in the client's own envelope."""
    with pytest.raises(openai.APIStatusError) as raised:
        mistralrs.sdk.chat.completions.create(
            model=mistralrs.model, messages=said("x" * (1024 * 1024))
        )
    assert (413, "request_too_large") == (raised.value.status_code, raised.value.code)


def test_a_route_that_is_not_served_is_not_found(served: Served) -> None:
    """What the SDK asks of a route that nobody serves is told in its own envelope."""
    with pytest.raises(openai.NotFoundError) as raised:
        served.sdk.fine_tuning.jobs.list()
    assert ("unknown_url", "invalid_request_error") == (raised.value.code, raised.value.type)
