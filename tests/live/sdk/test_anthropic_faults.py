"""The anthropic SDK while a model is loaded, and before nodes that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.covers import covers
from tests.engine.processes import simulated_node
from tests.live.sdk import broken_node
from tests.live.sdk.anthropic_sdk import client, serving
from tests.live.sdk.clients import FAULTS, said, serving_broken

# Models that must be loaded first.


def test_a_stream_shows_signs_of_life_while_the_model_is_loaded(tmp_path: Path) -> None:
    """Of a load that ends after the third the client sees pings, and then one whole answer."""
    names: list[str] = []
    with (
        simulated_node(fast=True, cold=["acme/chat"]) as node,
        node.loads_held() as let_go,
        serving(tmp_path, node, gateway={"hold_seconds": 0.1, "keepalive_seconds": 0.1}) as loading,
        loading.sdk.messages.with_streaming_response.create(
            model=loading.model, max_tokens=20, messages=said("hello there"), stream=True
        ) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if names.count("ping") == 3:
                let_go()
    assert "message_start" == names[0]
    assert 1 == names.count("message_start")
    assert names[1:].index("content_block_start") >= 3
    assert {"ping"} == set(names[1 : names.index("content_block_start")])
    assert ["message_delta", "message_stop"] == names[-2:]


def test_a_model_that_cannot_be_had_in_time_is_overloaded(tmp_path: Path) -> None:
    """Status 529 and when to ask again; a stream that has begun says it in an event."""
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
        with pytest.raises(anthropic.OverloadedError) as whole:
            late.sdk.messages.create(**asked)
        with (
            pytest.raises(anthropic.APIStatusError) as streamed,
            late.sdk.messages.create(**asked, stream=True) as stream,
        ):
            list(stream)
    assert (529, "overloaded_error") == (whole.value.status_code, whole.value.type)
    assert int(whole.value.response.headers["retry-after"]) >= 1
    assert (200, "overloaded_error") == (streamed.value.status_code, streamed.value.type)


# Nodes that fail.


@pytest.fixture(scope="module")
def before_broken_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anthropic]:
    """Run a daemon before a node that breaks its answers, and an SDK client of it."""
    with serving_broken(client, tmp_path_factory.mktemp("anthropic-broken")) as sdk:
        yield sdk


@pytest.mark.parametrize("model", FAULTS)
def test_a_stream_that_breaks_raises(before_broken_node: Anthropic, model: str) -> None:
    """What had come is there, and then the SDK raises: no fault passes for the answer's end."""
    events: list[Any] = []

    def read_all() -> None:
        # Closed by hand: collected as garbage, a stream that broke can lock up the old client.
        with before_broken_node.messages.create(
            model=model, max_tokens=10, messages=said("hi"), stream=True
        ) as stream:
            events.extend(stream)

    with pytest.raises(anthropic.APIStatusError) as raised:
        read_all()
    pieces = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert ["one ", "two "] == pieces
    # An open block that is never stopped is one that no client commits.
    assert not {"content_block_stop", "message_delta", "message_stop"} & {e.type for e in events}
    assert "api_error" == raised.value.type
    if "error" in model:
        assert broken_node.WORDS in raised.value.message


@pytest.mark.parametrize("model", FAULTS)
def test_a_whole_answer_that_breaks_raises(before_broken_node: Anthropic, model: str) -> None:
    """Of an answer in one piece nothing comes but the error, with the status of a fault."""
    with pytest.raises(anthropic.InternalServerError) as raised:
        before_broken_node.messages.create(model=model, max_tokens=10, messages=said("hi"))
    assert "api_error" == raised.value.type


@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_refuses_raises(before_broken_node: Anthropic, streamed: bool) -> None:
    """A node's own 500 keeps its status and its words, streamed or not."""
    with pytest.raises(anthropic.InternalServerError) as raised:
        before_broken_node.messages.create(
            model=broken_node.REFUSES, max_tokens=10, messages=said("hi"), stream=streamed
        )
    assert (500, "api_error") == (raised.value.status_code, raised.value.type)
    assert broken_node.WORDS in raised.value.message


@pytest.fixture(scope="module")
def before_silent_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anthropic]:
    """Run a daemon before such a node, of which it bears little silence, and a client of it."""
    folder = tmp_path_factory.mktemp("anthropic-silent")
    with serving_broken(client, folder, upstream_timeout=0.3) as sdk:
        yield sdk


@covers("5 upstream timeout")
@pytest.mark.parametrize("model", [broken_node.HOLDS_SILENT, broken_node.HOLDS_CONTENT])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_falls_silent_is_timed_out(
    before_silent_node: Anthropic, model: str, streamed: bool
) -> None:
    """The status is 504; a stream that has begun tells it in an event."""
    begun: list[Any] = []
    with pytest.raises(anthropic.APIStatusError) as raised:
        read_to_end(before_silent_node, model, begun, streamed=streamed)
    # On a busy machine the node may be silent from the first.
    status = 200 if begun else 504
    assert (status, "timeout_error") == (raised.value.status_code, raised.value.type)


def read_to_end(sdk: Anthropic, model: str, events: list[Any], *, streamed: bool) -> None:
    """Ask, and add to ``events`` those of a stream."""
    asked: Any = {"model": model, "max_tokens": 10, "messages": said("hi")}
    if streamed:
        with sdk.messages.create(**asked, stream=True) as stream:
            events.extend(stream)
    else:
        sdk.messages.create(**asked)
