"""The openai SDK while a model is loaded, and before nodes that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.covers import covers
from tests.engine.processes import simulated_node
from tests.live.sdk import broken_node
from tests.live.sdk.clients import FAULTS, said, serving_broken
from tests.live.sdk.openai_sdk import client, serving

# Models that must be loaded first.


def test_a_model_that_cannot_be_had_in_time_is_overloaded(tmp_path: Path) -> None:
    """Status 503 and when to ask again; a stream that has begun says it in an event."""
    with (
        simulated_node(fast=True, cold=["acme/chat"]) as node,
        node.loads_held(),
        serving(
            tmp_path,
            node,
            gateway={"hold_seconds": 0.2},
            extra="[scheduling]\nqueue_timeout = 0.6",
        ) as late,
    ):
        asked: Any = {"model": late.model, "max_tokens": 4, "messages": said("hi")}
        with pytest.raises(openai.InternalServerError) as whole:
            late.sdk.chat.completions.create(**asked)
        with (
            pytest.raises(openai.APIError) as streamed,
            late.sdk.chat.completions.create(**asked, stream=True) as stream,
        ):
            list(stream)
    assert (503, "queue_timeout") == (whole.value.status_code, whole.value.code)
    assert int(whole.value.response.headers["retry-after"]) >= 1
    assert ("server_error", "queue_timeout") == (streamed.value.type, streamed.value.code)


# Nodes that fail.


@pytest.fixture(scope="module")
def before_broken_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Run a daemon before a node that breaks its answers, and an SDK client of it."""
    with serving_broken(client, tmp_path_factory.mktemp("sdk-broken")) as sdk:
        yield sdk


@pytest.mark.parametrize("model", FAULTS)
def test_a_stream_that_breaks_raises(before_broken_node: OpenAI, model: str) -> None:
    """What had come is there, and then the SDK raises: no fault passes for the answer's end."""
    pieces: list[str] = []

    def read_all() -> None:
        # Closed by hand: collected as garbage, a stream that broke can lock up the old client.
        with before_broken_node.chat.completions.create(
            model=model, messages=said("hi"), stream=True
        ) as stream:
            for chunk in stream:
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


@pytest.fixture(scope="module")
def before_silent_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Run a daemon before such a node, of which it bears little silence, and a client of it."""
    folder = tmp_path_factory.mktemp("sdk-silent")
    with serving_broken(client, folder, upstream_timeout=0.3) as sdk:
        yield sdk


@covers("5 upstream timeout")
@pytest.mark.parametrize("model", [broken_node.HOLDS_SILENT, broken_node.HOLDS_CONTENT])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_falls_silent_is_timed_out(
    before_silent_node: OpenAI, model: str, streamed: bool
) -> None:
    """The status is 504; a stream that has begun tells it in an event."""
    begun: list[Any] = []
    with pytest.raises(openai.APIError) as raised:
        read_to_end(before_silent_node, model, begun, streamed=streamed)
    assert ("server_error", "timeout") == (raised.value.type, raised.value.code)
    # On a busy machine the node may be silent from the first.
    assert (None if begun else 504) == getattr(raised.value, "status_code", None)


def read_to_end(sdk: OpenAI, model: str, chunks: list[Any], *, streamed: bool) -> None:
    """Ask, and add to ``chunks`` those of a stream."""
    if streamed:
        with sdk.chat.completions.create(model=model, messages=said("hi"), stream=True) as stream:
            chunks.extend(stream)
    else:
        sdk.chat.completions.create(model=model, messages=said("hi"))


@pytest.mark.parametrize("model", [broken_node.EOF, broken_node.RESET])
def test_a_streamed_response_that_breaks_has_failed(before_broken_node: OpenAI, model: str) -> None:
    """A response ends with an event of its own kind: clients do not heed a bare error there."""
    with before_broken_node.responses.create(model=model, input="hi", stream=True) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert ["response.created", "response.in_progress"] == kinds[:2]
    assert "response.output_text.delta" in kinds
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message
