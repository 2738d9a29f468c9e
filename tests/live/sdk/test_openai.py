"""The openai SDK before a daemon before each kind of node: real tokens, and simulated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from anthropic import Anthropic

from tests.covers import covers
from tests.live.sdk.clients import ANSWER_SECONDS, KINDS, said, serving_kind
from tests.live.sdk.openai_sdk import TIDES, WEATHER, Served, asked_of, client, followed_up

UNKNOWN = "no/such-model"


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Run a daemon before a node of one kind, and an SDK client of it."""
    folder = tmp_path_factory.mktemp(f"sdk-{request.param}")
    with serving_kind(client, folder, request) as told:
        yield told


def test_it_lists_the_models(served: Served) -> None:
    """Every model of the node is there once, and the node's pseudo-model is not."""
    listed = list(served.sdk.models.list())
    expected = sorted([*served.node.chat_models, served.node.embedding_model])
    assert expected == [model.id for model in listed]
    assert {("model", "cortex")} == {(model.object, model.owned_by) for model in listed}
    assert {"loaded"} == {(model.model_extra or {})["status"] for model in listed}


def test_the_anthropic_sdk_lists_the_same_models(served: Served) -> None:
    """One list serves both SDKs: Anthropic's reads names, dates and the end of the only page."""
    with Anthropic(
        base_url=served.daemon.base_url, api_key="any", max_retries=0, timeout=ANSWER_SECONDS
    ) as sdk:
        page = sdk.models.list()
        listed = list(page)
        retrieved = sdk.models.retrieve(served.model)
    assert [model.id for model in served.sdk.models.list()] == [model.id for model in listed]
    assert (False, listed[0].id, listed[-1].id) == (page.has_more, page.first_id, page.last_id)
    assert {"model"} == {model.type for model in listed}
    assert (served.model, served.model) == (retrieved.id, retrieved.display_name)
    assert retrieved.created_at.year >= 2020


def test_it_retrieves_a_model_whose_id_has_a_slash(served: Served) -> None:
    """The SDK percent-encodes the slash."""
    assert served.model == served.sdk.models.retrieve(served.model).id


def test_it_chats(served: Served) -> None:
    """A whole answer has text, a finish reason, usage, an id of ours and the model's own name."""
    answer = served.sdk.chat.completions.create(
        model=served.model, messages=said("hello there"), max_tokens=8
    )
    (choice,) = answer.choices
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.id.startswith("chatcmpl-")
    assert served.model == answer.model
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_it_streams_what_it_would_answer_whole(served: Served) -> None:
    """The pieces of a stream make up the whole answer, and one of them has the finish reason."""
    asked: Any = {
        "model": served.model,
        "messages": said("hello there"),
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = served.sdk.chat.completions.create(**asked)
    chunks = list(served.sdk.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert whole.choices[0].message.content == text
    assert [whole.choices[0].finish_reason] == [reason for reason in reasons if reason]
    assert len(chunks) > 2
    assert 1 == len({chunk.id for chunk in chunks})
    assert whole.id != chunks[0].id


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_has_usage_only_where_it_is_asked_for(served: Served, include_usage: bool) -> None:
    """Asked for, usage comes once, on a last chunk without choices; else not at all."""
    stream = served.sdk.chat.completions.create(
        model=served.model,
        messages=said("hello"),
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": include_usage},
    )
    chunks = list(stream)
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    if include_usage:
        assert [chunks[-1]] == with_usage
        assert [] == chunks[-1].choices
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens > 0
    else:
        assert [] == with_usage


def test_the_stream_helper_takes_the_stream(served: Served) -> None:
    """The SDK's own accumulator ends with the whole answer."""
    with served.sdk.chat.completions.stream(
        model=served.model, messages=said("hello"), max_tokens=8
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        accumulated = stream.current_completion_snapshot
    assert "".join(deltas) == accumulated.choices[0].message.content
    assert accumulated.choices[0].finish_reason in ("stop", "length")


@covers("T47", "3 C->C usage chunk")
def test_every_answer_and_chunk_has_what_clients_rely_on(served: Served) -> None:
    """Each has an id, a time, a model and choices, and each choice its index and its reason."""
    asked: Any = {"model": served.model, "messages": said("hello there"), "max_tokens": 5}
    whole = served.sdk.chat.completions.create(**asked)
    options: Any = {"include_usage": True}
    chunks = list(served.sdk.chat.completions.create(**asked, stream=True, stream_options=options))
    for told, kind in [(whole, "chat.completion"), *((c, "chat.completion.chunk") for c in chunks)]:
        assert {"id", "created", "model", "choices"} <= told.model_fields_set
        assert (kind, served.model) == (told.object, told.model)
        assert told.created > 1_600_000_000
        for choice in told.choices:
            assert {"index", "finish_reason"} <= choice.model_fields_set
    assert [1] * (len(chunks) - 1) + [0] == [len(chunk.choices) for chunk in chunks]


def test_several_choices_are_answered(served: Served) -> None:
    """A request for two answers gets two, each with its index, and the tokens of both."""
    asked: Any = {"model": served.model, "messages": said("hello there"), "max_tokens": 6}
    one = served.sdk.chat.completions.create(**asked)
    two = served.sdk.chat.completions.create(**asked, n=2)
    assert [0, 1] == sorted(choice.index for choice in two.choices)
    assert all(choice.message.content for choice in two.choices)
    assert one.usage is not None
    assert two.usage is not None
    assert two.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_it_has_a_tool_called(served: Served, choice: Any, streamed: bool) -> None:
    """A demanded tool is called with arguments that fit its schema; the result is taken back."""
    conversation = said("the weather in Oslo")
    asked: Any = {"model": served.model, "tools": [WEATHER]}
    called = asked_of(
        served.sdk,
        streamed=streamed,
        messages=conversation,
        tool_choice=choice,
        max_tokens=300,
        **asked,
    )
    (call,) = called.message.tool_calls
    assert ("tool_calls", "get_weather") == (called.finish_reason, call.function.name)
    arguments = json.loads(call.function.arguments)
    assert (str, int) == (type(arguments["city"]), type(arguments["days"]))
    followed = served.sdk.chat.completions.create(
        messages=followed_up(conversation, called.message, "rain"), max_tokens=8, **asked
    )
    assert followed.choices[0].message.content


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_that_nothing_demands_are_taken(served: Served, choice: Any) -> None:
    """A request with tools is answered, in words where the model calls none."""
    for streamed in (False, True):
        answered = asked_of(
            served.sdk,
            streamed=streamed,
            model=served.model,
            messages=said("good morning"),
            tools=[WEATHER, TIDES],
            tool_choice=choice,
            max_tokens=2000,
        )
        assert answered.message.content
        assert not answered.message.tool_calls
        assert "stop" == answered.finish_reason


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_held_to_a_schema(served: Served, streamed: bool) -> None:
    """Structured output is JSON of that schema, whole and streamed."""
    schema = {**WEATHER["function"]["parameters"], "additionalProperties": False}
    wanted = {"name": "forecast", "schema": schema, "strict": True}
    choice = asked_of(
        served.sdk,
        streamed=streamed,
        model=served.model,
        messages=said("the weather in Oslo"),
        response_format={"type": "json_schema", "json_schema": wanted},
        max_tokens=300,
    )
    answer = json.loads(choice.message.content)
    assert (str, int) == (type(answer["city"]), type(answer["days"]))


@pytest.mark.parametrize("effort", ["none", "minimal", "high"])
def test_any_effort_is_taken(served: Served, effort: Any) -> None:
    """A request that says how hard to think is answered, by a model that cannot think as well."""
    choice = asked_of(
        served.sdk,
        streamed=False,
        model=served.model,
        messages=said("hello there"),
        reasoning_effort=effort,
        max_tokens=8,
    )
    assert choice.message.content


def test_it_completes_a_text(served: Served) -> None:
    """The old completions route answers whole and streamed."""
    asked: Any = {"model": served.model, "prompt": "once upon", "max_tokens": 6, "temperature": 0}
    whole = served.sdk.completions.create(**asked)
    pieces = list(served.sdk.completions.create(**asked, stream=True))
    assert whole.id.startswith("cmpl-")
    assert whole.choices[0].text
    assert whole.choices[0].text == "".join(c.text for piece in pieces for c in piece.choices)


def test_it_embeds(served: Served) -> None:
    """The SDK's default, base64, and plain floats are the same numbers, one vector per text."""
    asked: Any = {"model": served.node.embedding_model, "input": ["one", "two"]}
    default = served.sdk.embeddings.create(**asked)
    floats = served.sdk.embeddings.create(**asked, encoding_format="float")
    assert [0, 1] == [item.index for item in default.data]
    for ours, plain in zip(default.data, floats.data, strict=True):
        assert len(plain.embedding) > 4
        assert pytest.approx(plain.embedding, abs=1e-5) == ours.embedding
    assert default.usage.prompt_tokens > 0


def test_an_answer_names_its_node_and_the_request(served: Served) -> None:
    """The headers say which node answered, and the client's own request id comes back."""
    raw = served.sdk.chat.completions.with_raw_response.create(
        model=served.model,
        messages=said("hi"),
        max_tokens=2,
        extra_headers={"X-Request-ID": "my-id-1"},
    )
    assert ("node", served.model, "my-id-1") == (
        raw.headers["x-cortex-node"],
        raw.headers["x-cortex-model"],
        raw.headers["x-request-id"],
    )


def test_the_default_is_a_loaded_model(served: Served) -> None:
    """A client that knows no name is answered by a model that it is told of."""
    answer = served.sdk.chat.completions.create(model="default", messages=said("hi"), max_tokens=2)
    assert answer.model in served.node.chat_models


def test_an_unknown_model_is_not_found(served: Served) -> None:
    """Asked of or asked for, a model that nobody has is the SDK's NotFoundError."""
    with pytest.raises(openai.NotFoundError) as asked_of:
        served.sdk.chat.completions.create(model=UNKNOWN, messages=said("hi"))
    with pytest.raises(openai.NotFoundError) as asked_for:
        served.sdk.models.retrieve(UNKNOWN)
    assert {"model_not_found"} == {asked_of.value.code, asked_for.value.code}
    assert UNKNOWN in asked_of.value.message


def test_a_mistake_is_a_bad_request(served: Served) -> None:
    """What the gateway refuses and what the node refuses are both the SDK's BadRequestError."""
    ours: Any = {"messages": 7}
    nodes: Any = {"messages": said("hi"), "temperature": "warm"}
    for wrong in (ours, nodes):
        with pytest.raises(openai.BadRequestError) as raised:
            served.sdk.chat.completions.create(model=served.model, **wrong)
        assert "invalid_request_error" == raised.value.type


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_beyond_the_context_is_a_bad_request(served: Served, streamed: bool) -> None:
    """The code says so, streamed or not: no status had gone out yet."""
    with pytest.raises(openai.BadRequestError) as raised:
        served.sdk.chat.completions.create(
            model=served.model, messages=said("word " * 40_000), max_tokens=2, stream=streamed
        )
    assert "context_length_exceeded" == raised.value.code
