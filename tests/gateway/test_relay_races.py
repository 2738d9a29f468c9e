"""What comes at the same moment, in any order: clients, nodes and the end of the daemon at odds.

Many requests meet at nodes with few slots. Clients ask, leave and stop reading; nodes answer a
little, all at once, wrongly or not at all, close idle connections and talk unasked; several of that
fall into one turn of the reactor, whose order is drawn too.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from cortexd.fleet.nodes import Lease
from cortexd.gateway.patience import LEFTOVER_SECONDS
from cortexd.testing.answering.streams import abort
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import DONE, NODE_COMMENT, OUT_OF_MEMORY, chunk
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
KEPT = {"id": "resp_7", "object": "response", "status": "completed", "output": []}
HELLO = [{"role": "user", "content": "hi"}]
LARGE = chunk("y" * 20_000)
SECONDS = (0.1, 1.0, LEFTOVER_SECONDS, 5.0, 10.0, 20.0)
"""Some of them are those of timers: of the hold, of the signs of life, of what is left over."""

MISTAKES = frozenset(
    {"request_crashed", "answer_crashed", "responder_crashed", "effect_crashed", "relay_crashed"}
)

ASKED: tuple[tuple[str, dict[str, object]], ...] = (
    (CHAT, {"messages": HELLO}),
    (CHAT, {"messages": HELLO, "n": 2}),
    (CHAT, {"messages": HELLO, "stream": True}),
    (CHAT, {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}),
    (MESSAGES, {"messages": HELLO, "max_tokens": 5}),
    (MESSAGES, {"messages": HELLO, "max_tokens": 5, "stream": True, "stop_sequences": ["zz"]}),
    (RESPONSES, {"input": "hi"}),
    (RESPONSES, {"input": "hi", "stream": True}),
    (RESPONSES, {"input": "hi", "stream": True, "previous_response_id": KEPT["id"]}),
    ("/v1/embeddings", {"input": "hi"}),
    (f"{RESPONSES}/{KEPT['id']}", {}),
)


def event(kind: str, **fields: object) -> bytes:
    """Return an event of a response."""
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


CREATED = event("response.created", response={**KEPT, "status": "in_progress"})
DELTA = event("response.output_text.delta", delta="x")
COMPLETED = event(
    "response.completed",
    response={**KEPT, "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}},
)
OF_CHATS = (chunk("x"), chunk("a zz b"), LARGE, chunk("x", "stop"), DONE, NODE_COMMENT)
OF_RESPONSES = (CREATED, DELTA, DELTA, COMPLETED, DONE, NODE_COMMENT)
WHOLE = {True: CREATED + DELTA + COMPLETED + DONE, False: chunk("x") + chunk("", "stop") + DONE}


class UnhurriedFleet(InMemoryFleet):
    """A fleet whose requests go out only when the test lets bytes flow."""

    is_slow = False

    def flush(self) -> None:
        if not self.is_slow:
            super().flush()


class Traffic:
    """Draws what happens, with ``dice``, and lets it happen."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.nodes = [ScriptedNode(Clock(), name, (MODEL,)) for name in "ab"[: dice.choice((1, 2))]]
        for node in self.nodes:
            node.clock = self.nodes[0].clock
            node.pages[f"{RESPONSES}/{KEPT['id']}"] = json.dumps(KEPT).encode()
        self.fleet = UnhurriedFleet(
            *self.nodes,
            models={MODEL: {"max_concurrency": dice.choice((1, 1, 2, 8))}},
            upstream_timeout=dice.choice((20, 600)),
        )
        self.fleet.is_slow = True
        self.fleet.network.arrange = dice.shuffle
        self.clients: list[Client] = []
        self.released: Counter[int] = Counter()
        self.draining: Deferred[None] | None = None
        release = self.fleet.fleet.release

        def counting(lease: Lease, now: float) -> Any:
            self.released[lease.number] += 1
            return release(lease, now)

        self.fleet.fleet.release = counting  # type: ignore[method-assign] # only counts

    def run(self) -> None:
        """Let things happen for a while."""
        acts: tuple[Callable[[], None], ...] = (
            *[self.ask] * 6,
            *[self.answer] * 9,
            *[self.leave] * 3,
            *[self.read_or_not] * 2,
            self.end_connection,
            self.talk,
        )
        for _ in range(self.dice.randrange(5, 40)):
            for _ in range(self.dice.choice((1, 1, 2, 3))):
                self.dice.choice(acts)()
            match self.dice.choice("ffffttta..s" if self.draining is None else "ffffttta.."):
                case "f":
                    self.fleet.network.flush()
                case "t":
                    for _ in range(self.dice.randrange(1, 4)):
                        self.fleet.network.turn()
                case "a":
                    self.fleet.advance(self.dice.choice(SECONDS))
                case "s" if self.dice.random() < 0.2:
                    self.stop()

    def ask(self) -> None:
        path, fields = self.dice.choice(ASKED)
        if fields:
            client = self.fleet.request("POST", path, json={"model": MODEL, **fields})
        else:
            client = self.fleet.get(path)
        self.clients.append(client)

    def answer(self) -> None:
        node = self.dice.choice(self.nodes)
        waiting = [request for request in node.requests if is_open(request)]
        if not waiting:
            return
        request = self.dice.choice(waiting)
        is_response = request.path == RESPONSES.encode()
        if not request.startedWriting and self.dice.random() < 0.1:
            request.setResponseCode(self.dice.choice((404, 429, 500, 502)))
            request.write(OUT_OF_MEMORY)
            request.finish()
            return
        if self.dice.random() < 0.1:
            abort(request)
            return
        if not request.startedWriting:
            request.setHeader("Content-Type", "text/event-stream")
        pieces = OF_RESPONSES if is_response else OF_CHATS
        is_all = self.dice.random() < 0.2
        request.write(WHOLE[is_response] if is_all else self.dice.choice(pieces))
        if self.dice.random() < (0.7 if is_all else 0.1):
            request.finish()

    def leave(self) -> None:
        staying = [client for client in self.clients if not client.ended]
        if staying:
            self.dice.choice(staying).leave()

    def read_or_not(self) -> None:
        reading = [client for client in self.clients if client.transport and not client.ended]
        if reading:
            transport = self.dice.choice(reading).open_transport
            self.dice.choice((transport.pauseProducing, transport.resumeProducing))()

    def end_connection(self) -> None:
        ends = self.fleet.node_ends(self.dice.choice(self.nodes).name)
        if ends:
            end = self.dice.choice(ends)
            channel = end.protocol._channel
            self.dice.choice((channel.loseConnection, end.abortConnection))()

    def talk(self) -> None:
        for end in self.fleet.node_ends(self.dice.choice(self.nodes).name)[:1]:
            end.write(b"junk")

    def stop(self) -> None:
        self.draining = Deferred.fromCoroutine(self.fleet.answers.drain(self.dice.choice((0, 30))))
        if self.dice.random() < 0.5:
            self.fleet.answers.cut()

    def settle(self) -> None:
        """Let all of it end: by itself, by the daemon's end, or as nobody is there any more."""
        self.fleet.network.flush()
        for client in self.clients:
            if client.transport and not client.ended:
                client.open_transport.resumeProducing()
        how = self.dice.choice(("in time", "cut", "left"))
        if how == "cut":
            self.fleet.answers.cut()
        elif how == "left":
            for client in self.clients:
                if not client.ended:
                    client.leave()
        self.fleet.network.flush()
        # The slowest wait in a queue, and then for a node that is silent.
        self.fleet.advance(1300 if how == "in time" else LEFTOVER_SECONDS)
        self.fleet.network.flush()


def is_open(request: Request) -> bool:
    """Tell whether a node can write to a request."""
    return not request.finished and not request._disconnected


class RaceTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(st.integers(0, 2**32))
    def test_everything_ends_once(self, seed: int) -> None:
        """Every request, lease and connection, in good order or as an error, and by no mistake."""
        traffic = Traffic(random.Random(seed))  # noqa: S311 - reproducible is what it must be
        fleet = traffic.fleet
        try:
            traffic.run()
            traffic.settle()

            assert {""}.isdisjoint(client.ended for client in traffic.clients)
            assert all(times == 1 for times in traffic.released.values()), traffic.released
            assert () == fleet.fleet.leases
            assert 0 == len(fleet.scheduler.waiting)
            assert {} == fleet.dispatcher._requests
            assert {} == fleet.relay._running
            for node in traffic.nodes:
                assert not any(is_open(request) for request in node.requests)
                in_flight = fleet.sample("cortex_requests_in_flight", model=MODEL, node=node.name)
                assert in_flight in (0, None)
            if traffic.draining is not None:
                self.successResultOf(traffic.draining)
            assert [] == [each for each in fleet.log_events if each["event"] in MISTAKES]
            assert [] == self.flushLoggedErrors()
        finally:
            fleet.is_slow = False
            fleet.close()
        assert [] == fleet.clock.getDelayedCalls()
        assert [] == fleet.network.ends
