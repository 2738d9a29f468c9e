"""Our own client of a node, at the real engine and at the simulation of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from cortexd.engines.mistralrs import MistralRs
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import make_http_client
from tests.engine.contract import ANSWER_SECONDS, Caller

LOADED, UNLOADED = Outcome(LifecycleStatus.LOADED), Outcome(LifecycleStatus.UNLOADED)


@pytest.fixture
def reactor() -> Any:
    """Give the reactor that runs."""
    from twisted.internet import reactor

    return reactor


@asynccontextmanager
async def client_of(caller: Caller, reactor: Any) -> AsyncIterator[NodeClient]:
    """Give a client of the caller's node; leaving the block closes its connections."""
    http, pool = make_http_client(reactor, connect_timeout=ANSWER_SECONDS)
    try:
        yield NodeClient("node", caller.node.base_url, http, reactor, MistralRs())
    finally:
        await pool.closeCachedConnections()


async def until(reactor: Any, client: NodeClient, model: str, status: LifecycleStatus) -> None:
    """Ask for a model's status until it is this one; AssertionError after ANSWER_SECONDS."""
    deadline = reactor.seconds() + ANSWER_SECONDS
    while (await client.status(model, ANSWER_SECONDS)).status is not status:
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0.01)


async def test_a_model_goes_and_comes_back(spare: Caller, reactor: Any) -> None:
    """Status, unload and load report it, and the listing agrees."""
    model = spare.node.chat_models[1]
    async with client_of(spare, reactor) as client:
        assert await client.status(model, ANSWER_SECONDS) == LOADED
        assert await client.unload(model, ANSWER_SECONDS) == UNLOADED
        assert await client.status(model, ANSWER_SECONDS) == UNLOADED
        assert await client.load(model, ANSWER_SECONDS) == LOADED
        unknown = await client.status("no/such", ANSWER_SECONDS)
    assert Outcome(LifecycleStatus.NOT_FOUND) == unknown


async def test_too_little_memory_is_understood(tight: Caller, reactor: Any) -> None:
    """The node's words are known for what they are, and its free memory can be read."""
    here, other = tight.node.chat_models
    async with client_of(tight, reactor) as client:
        refused = await client.load(other, ANSWER_SECONDS)
        before = await client.system_info(ANSWER_SECONDS)
        await client.unload(here, ANSWER_SECONDS)
        assert await client.load(other, ANSWER_SECONDS) in (LOADED, refused)
    assert (LifecycleStatus.INTERNAL_ERROR, True) == (refused.status, refused.out_of_memory)
    assert before.memory_free_mb is not None
    assert before.memory_total_mb is not None
    assert 0 < before.memory_free_mb < before.memory_total_mb


async def test_requests_in_flight_are_the_node_s_own_count(spare: Caller, reactor: Any) -> None:
    """Another client's stream counts for its model, and our own questions for none."""
    model = spare.node.chat_models[0]
    async with client_of(spare, reactor) as client:
        body = spare.chat_body(max_tokens=40, ignore_eos=True)
        with spare.node.answers_held(), spare.streaming(body) as events:
            next(events)
            assert await client.status(model, ANSWER_SECONDS) == LOADED
            assert await client.requests_in_flight(ANSWER_SECONDS) == {model: 1}


async def test_a_load_that_nobody_waits_for_goes_on(spare: Caller, reactor: Any) -> None:
    """Cancelling a load closes our side, and the node loads all the same."""
    model = spare.node.chat_models[0]
    async with client_of(spare, reactor) as client:
        await client.unload(model, ANSWER_SECONDS)
        with spare.node.loads_held():
            load = Deferred.fromCoroutine(client.load(model, ANSWER_SECONDS))
            await until(reactor, client, model, LifecycleStatus.RELOADING)
            load.cancel()
            with pytest.raises(CancelledError):
                await load
        await until(reactor, client, model, LifecycleStatus.LOADED)
