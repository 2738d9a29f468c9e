"""The openai SDK before a daemon before each kind of node: real tokens, and simulated ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.engine.contract import WEATHER_TOOL
from tests.engine.processes import (
    RunningNode,
    engine_node,
    simulated_node,
    write_tiny_models,
)
from tests.live import broken_node
from tests.live.daemons import Daemon, running_daemon

ANSWER_SECONDS = 30.0
UNKNOWN = "no/such-model"


@dataclass(frozen=True)
class Served:
    """An SDK client of a daemon that serves one node."""

    sdk: OpenAI
    node: RunningNode
    daemon: Daemon

    @property
    def model(self) -> str:
        """The id of a chat model; it holds a slash."""
        return self.node.chat_models[0]


@pytest.fixture(scope="module", params=["simulated", "engine"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Run a node of one kind, a daemon before it, and an SDK client of that."""
    folder = tmp_path_factory.mktemp(f"sdk-{request.param}")
    with ExitStack() as stack:
        node = stack.enter_context(
            simulated_node(fast=True)
            if request.param == "simulated"
            else engine_node(write_tiny_models(folder / "models"))
        )
        daemon = stack.enter_context(running_daemon(folder, {"node": node.base_url}))
        sdk = OpenAI(
            base_url=f"{daemon.base_url}/v1",
            api_key="sk-any",
            max_retries=0,
            timeout=ANSWER_SECONDS,
        )
        yield Served(stack.enter_context(sdk), node, daemon)


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


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


@pytest.mark.parametrize("streamed", [False, True])
def test_it_has_a_tool_called(served: Served, streamed: bool) -> None:
    """A demanded tool is called with arguments that fit its schema; the result is taken back."""
    tool: Any = WEATHER_TOOL
    asked: Any = {
        "model": served.model,
        "messages": said("the weather in Oslo"),
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 300,
    }
    if streamed:
        with served.sdk.chat.completions.stream(**asked) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = served.sdk.chat.completions.create(**asked)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert ("tool_calls", "get_weather") == (choice.finish_reason, call.function.name)
    arguments = json.loads(call.function.arguments)
    assert (str, int) == (type(arguments["city"]), type(arguments["days"]))
    followed = served.sdk.chat.completions.create(
        model=served.model,
        messages=[
            *said("the weather in Oslo"),
            choice.message.model_dump(exclude_none=True, include={"role", "tool_calls"}),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ],
        tools=[tool],
        max_tokens=8,
    )
    assert followed.choices[0].message.content


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


@pytest.fixture(scope="module")
def before_broken_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Run a daemon before a node that breaks its answers, and an SDK client of it."""
    folder = tmp_path_factory.mktemp("sdk-broken")
    with (
        broken_node.broken_node() as node,
        running_daemon(folder, {"broken": node.base_url}) as daemon,
        OpenAI(
            base_url=f"{daemon.base_url}/v1",
            api_key="sk-any",
            max_retries=0,
            timeout=ANSWER_SECONDS,
        ) as sdk,
    ):
        yield sdk


FAULTS = [broken_node.EOF, broken_node.PLAIN_ERROR, broken_node.JSON_ERROR, broken_node.RESET]


@pytest.mark.parametrize("model", FAULTS)
def test_a_stream_that_breaks_raises(before_broken_node: OpenAI, model: str) -> None:
    """What had come is there, and then the SDK raises: no fault passes for the answer's end."""
    pieces: list[str] = []

    def read_all() -> None:
        for chunk in before_broken_node.chat.completions.create(
            model=model, messages=said("hi"), stream=True
        ):
            pieces.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError) as raised:
        read_all()
    assert ["one ", "two "] == [piece for piece in pieces if piece]
    assert not isinstance(raised.value, openai.APIConnectionError)
    if "error" in model:
        assert broken_node.WORDS in raised.value.message


@pytest.mark.parametrize("model", FAULTS)
def test_a_whole_answer_that_breaks_raises(before_broken_node: OpenAI, model: str) -> None:
    """Of an answer in one piece nothing comes but the error, with the status of a fault."""
    with pytest.raises(openai.InternalServerError) as raised:
        before_broken_node.chat.completions.create(model=model, messages=said("hi"))
    assert "server_error" == raised.value.type


@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_refuses_raises(before_broken_node: OpenAI, streamed: bool) -> None:
    """A node's own 500 keeps its status and its words, streamed or not."""
    with pytest.raises(openai.InternalServerError) as raised:
        before_broken_node.chat.completions.create(
            model=broken_node.REFUSES, messages=said("hi"), stream=streamed
        )
    assert (500, "node_error") == (raised.value.status_code, raised.value.code)
    assert broken_node.WORDS in raised.value.message
