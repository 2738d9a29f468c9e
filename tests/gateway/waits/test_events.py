"""The events of GET /api/events, and the clients that read them."""

from __future__ import annotations

import json
from typing import Any

from cortexd.access.callers import ANYBODY
from cortexd.access.keys import Scope
from cortexd.gateway.waits.events import HEARTBEAT_SECONDS, MOST_READERS_OF_A_KEY
from cortexd.gateway.waits.reader import MOST_BYTES
from cortexd.telemetry.accounting import RequestRecord
from cortexd.testing import SimulatedModel
from tests.access.making import given
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

COLD = "acme/cold"
INFER = frozenset({Scope.INFER})
READ = frozenset({Scope.READ})


def told(client: Client) -> list[dict[str, Any]]:
    """Return the events so far."""
    lines = client.text().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def of_kind(client: Client, kind: str) -> list[dict[str, Any]]:
    return [event for event in told(client) if event["type"] == kind]


def statuses(client: Client, kind: str) -> list[str]:
    """Return the statuses of one kind of event, those that say the same again left out."""
    found: list[str] = []
    for event in of_kind(client, kind):
        if found[-1:] != [event["status"]]:
            found.append(event["status"])
    return found


class EventsTestCase(FleetTestCase):
    def made(self, **settings: Any) -> InMemoryFleet:
        cold = SimulatedModel(id=COLD, loaded=False, load_seconds=20.0)
        self.a = self.node("a", MODEL, cold)
        return self.fleet(self.a, allow_http_control=True, **settings)


class TellingTests(EventsTestCase):
    def test_a_load_and_the_request_that_wants_it(self) -> None:
        """From its begin to its end, with what is expected of it."""
        fleet = self.made()
        reader = fleet.get("/api/events")
        assert (200, "text/event-stream") == (reader.status, reader.headers["content-type"])
        assert "no-cache" == reader.headers["cache-control"]
        fleet.chat(model=COLD, headers={"X-Request-ID": "mine"})
        fleet.advance(5.0)
        (event, *_) = of_kind(reader, "request_status")
        assert ("mine", COLD, "waiting", 1) == tuple(
            event[field] for field in ("request_id", "model", "status", "place")
        )
        assert event["expected_seconds"] > 0
        progress = of_kind(reader, "model_status")[-1]["progress"]
        assert 0 < progress["elapsed_seconds"] <= 5.0
        fleet.advance(30.0)
        assert ["loading", "loaded"] == statuses(reader, "model_status")
        assert ["waiting", "granted"] == statuses(reader, "request_status")

    def test_an_unload(self) -> None:
        """Whoever causes it."""
        fleet = self.made()
        reader = fleet.get("/api/events")
        fleet.request("POST", f"/api/models/unload/{MODEL}", body=b"")
        fleet.advance(30.0)
        assert "unloaded" == statuses(reader, "model_status")[-1]

    def test_each_state_is_told_once(self) -> None:
        """Also one that passes within a turn, or lasts long: only loads make progress."""
        node = self.node("a", MODEL, token_seconds=5.0)
        fleet = self.fleet(node, allow_http_control=True)
        reader = fleet.get("/api/events")
        chat = fleet.chat(stream=True)
        fleet.advance(1.0)
        fleet.request("POST", f"/api/models/unload/{MODEL}", body=b"")
        for _ in range(12):
            fleet.advance(5.0)
        assert "clean" == chat.ended
        states = [event["status"] for event in of_kind(reader, "model_status")]
        assert ["draining", "unloading", "unloaded"] == states

    def test_a_load_that_fails(self) -> None:
        """In the node's own words; the request leaves the queue."""
        fleet = self.made()
        self.a.faults.fail_load = {COLD: "the weights are damaged"}
        reader = fleet.get("/api/events")
        fleet.chat(model=COLD)
        fleet.advance(30.0)
        failed = of_kind(reader, "model_status")[-1]
        assert "failed" == failed["status"]
        assert "the weights are damaged" in failed["failure"]
        assert ["waiting", "left"] == statuses(reader, "request_status")

    def test_who_comes_later_gets_what_is_under_way(self) -> None:
        """The load, and the requests that wait for it."""
        fleet = self.made()
        fleet.chat(model=COLD)
        fleet.advance(4.0)
        reader = fleet.get("/api/events")
        assert ["loading"] == statuses(reader, "model_status")
        assert ["waiting"] == statuses(reader, "request_status")
        fleet.advance(30.0)

    def test_it_never_loads_a_model(self) -> None:
        """No node is asked anything; a HEAD gets the headers and no stream."""
        fleet = self.made()
        before = len(self.a.journal.requests())
        fleet.get("/api/events")
        head = fleet.request("HEAD", "/api/events")
        assert (200, "clean") == (head.status, head.ended)
        fleet.advance(60.0)
        assert before == len(self.a.journal.requests())


class BrowserTests(EventsTestCase):
    def test_pages_of_another_origin(self) -> None:
        """They may read both answers where their origin is allowed, and the told wait."""
        origin = "https://app.example"
        fleet = self.made(cors_origins=[origin])
        for path in ("/api/events", f"/api/models/{COLD}/load-status"):
            for asking, allowed in ((origin, origin), ("https://evil.example", None)):
                client = fleet.get(path, Origin=asking)
                assert 200 == client.status
                assert allowed == client.headers.get("access-control-allow-origin")
            exposed = fleet.get(path, Origin=origin).headers["access-control-expose-headers"]
            assert "X-Cortex-Eta-Ms" in exposed

    def test_other_methods(self) -> None:
        """405, with the methods that there are."""
        fleet = self.made()
        for path in ("/api/events", f"/api/models/{COLD}/load-status"):
            client = fleet.request("POST", path, body=b"")
            assert (405, "GET, HEAD") == (client.status, client.headers["allow"])


class SightTests(EventsTestCase):
    def test_only_the_requests_of_the_own_key(self) -> None:
        """Unless the key may read the state of the fleet; its holder sees all of them."""
        alice, bob = given("alice", scopes=INFER), given("bob", scopes=INFER)
        boss = given("boss", scopes=READ)
        fleet = self.made(keys=[alice.key, bob.key, boss.key])
        readers = {
            key.key.name: fleet.get("/api/events", **key.bearer) for key in (alice, bob, boss)
        }
        fleet.chat(model=COLD, headers={**alice.bearer, "X-Request-ID": "hers"})
        fleet.advance(30.0)
        for name, sees in (("alice", True), ("bob", False), ("boss", True)):
            assert sees is ("hers" in readers[name].text()), name
            assert ["loading", "loaded"] == statuses(readers[name], "model_status")

    def test_a_model_that_is_not_there_for_the_reader(self) -> None:
        """No event names it."""
        narrow = given("narrow", scopes=frozenset(Scope), models=("other/*",))
        wide = given("wide", scopes=frozenset(Scope))
        fleet = self.made(keys=[narrow.key, wide.key])
        reader = fleet.get("/api/events", **narrow.bearer)
        fleet.chat(model=COLD, headers=wide.bearer)
        fleet.advance(30.0)
        assert [] == told(reader)

    def test_a_key_that_is_revoked(self) -> None:
        """Its streams end at the next heartbeat."""
        alice, bob = given("alice", scopes=INFER), given("bob", scopes=INFER)
        fleet = self.made(keys=[alice.key, bob.key])
        readers = [fleet.get("/api/events", **key.bearer) for key in (alice, bob)]
        fleet.parts.ring.take([bob.key])
        fleet.advance(HEARTBEAT_SECONDS)
        assert ["clean", ""] == [reader.ended for reader in readers]


class ReaderTests(EventsTestCase):
    def test_heartbeats(self) -> None:
        """A comment every now and then, which no client takes for an event."""
        fleet = self.made()
        reader = fleet.get("/api/events")
        before = len(reader.body)
        fleet.advance(HEARTBEAT_SECONDS)
        assert len(reader.body) > before
        assert [] == told(reader)

    def test_a_reader_that_leaves(self) -> None:
        """It is forgotten, and with the last one the timers stop."""
        fleet = self.made()
        readers = [fleet.get("/api/events") for _ in range(2)]
        assert any("Events" in str(call) for call in self.clock.getDelayedCalls())
        for reader in readers:
            fleet.leave(reader)
        assert [] == [call for call in self.clock.getDelayedCalls() if "Events" in str(call)]
        assert ["client_gone"] * 2 == [line["outcome"] for line in fleet.events("request")]

    def test_a_reader_that_does_not_read(self) -> None:
        """It is dropped once too much waits for it; others get everything."""
        fleet = self.made()
        slow, quick = fleet.get("/api/events"), fleet.get("/api/events")
        slow.open_transport.pauseProducing()
        ids = 0
        while not fleet.events("event_reader_dropped") and ids < 5_000:
            ids += 1
            fleet.relay._waits.begin(f"r{ids}", COLD, _record(f"r{ids}"))
            if not ids % 200:
                fleet.flush()
        fleet.flush()
        assert 1 == len(fleet.events("event_reader_dropped"))
        fleet.flush()
        assert ids == len(of_kind(quick, "request_status"))
        assert len(slow.body) < 10 * MOST_BYTES
        fleet.relay._waits.waiting.clear()

    def test_the_readers_have_a_bound(self) -> None:
        """One key can not take the place of all."""
        alice, bob = given("alice", scopes=INFER), given("bob", scopes=INFER)
        fleet = self.made(keys=[alice.key, bob.key])
        for _ in range(MOST_READERS_OF_A_KEY):
            assert 200 == fleet.get("/api/events", **alice.bearer).status
        refused = fleet.get("/api/events", **alice.bearer)
        assert (503, "gateway_overloaded") == (refused.status, refused.error["code"])
        assert "retry-after" in refused.headers
        assert 200 == fleet.get("/api/events", **bob.bearer).status

    def test_the_end_of_the_gateway(self) -> None:
        """The streams end in good order, so that clients come back to the next process."""
        fleet = self.made()
        reader = fleet.get("/api/events")
        fleet.parts.events.stop()
        fleet.flush()
        assert "clean" == reader.ended
        assert 503 == fleet.get("/api/events").status


def _record(request_id: str) -> RequestRecord:
    return RequestRecord(request_id, "/v1/chat/completions", "c", 0.0, ANYBODY, model=COLD)
