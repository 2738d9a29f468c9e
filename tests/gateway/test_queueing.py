"""Requests that wait for a slot or for a load, and their clients meanwhile."""

import json
from typing import Any

from twisted.internet.defer import Deferred

from cortexd.dialects.openai.chat_answer import ChatStream
from cortexd.errors import Overloaded
from cortexd.testing import SimulatedModel, SimulatedNode
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import OUR_COMMENT, RelayTestCase, error_in, refusal_of
from tests.testing.client import CHAT

COLD = "acme/cold"
ONE_SLOT = {MODEL: {"max_concurrency": 1}}
BOTH_1_000 = {MODEL: {"vram_mb": 1_000}, COLD: {"vram_mb": 1_000}}
HOLDS_ONE = {"a": {"vram_mb": 1_500}}
EXTRA_HEADERS = ("x-cortex-decision", "x-cortex-queue-ms", "x-cortex-load-ms")


def cold(load_seconds: float = 20.0, **fields: Any) -> SimulatedModel:
    return SimulatedModel(id=COLD, loaded=False, load_seconds=load_seconds, **fields)


def told(client: Client) -> tuple[str | None, ...]:
    return tuple(client.headers.get(name) for name in EXTRA_HEADERS)


class QueueTestCase(RelayTestCase):
    def with_cold(
        self, load_seconds: float = 20.0, **settings: Any
    ) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a fleet whose node has MODEL loaded and COLD not, with room for both."""
        node = self.node("a", MODEL, cold(load_seconds))
        return self.fleet(node, **settings), node

    def full(self, **settings: Any) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a fleet with one slot, which a request holds for 20 s."""
        node = self.node("a", token_seconds=10)
        fleet = self.fleet(node, models=ONE_SLOT, **settings)
        fleet.stream()
        return fleet, node

    def assert_nobody_waits(self, fleet: InMemoryFleet) -> None:
        assert 0 == len(fleet.scheduler.waiting)
        assert {} == fleet.dispatcher._requests
        self.assert_at_rest(fleet)


class MistakeTests(QueueTestCase):
    def test_a_mistake_of_ours_in_a_sign_of_life(self) -> None:
        """It ends the wait as one, and the request that has the slot is not disturbed."""

        def crash(responder: object, elapsed: float) -> bytes:
            raise RuntimeError("a mistake of ours")

        waiting = ChatStream.waiting
        for signs in (0, 1):
            node = self.node("a", token_seconds=10)
            fleet = self.fleet(node, models=ONE_SLOT, hold_seconds=5, keepalive_seconds=10)
            before, client = fleet.chat(), fleet.stream()
            fleet.advance(5 * signs)
            self.patch(ChatStream, "waiting", crash)
            fleet.advance(10)
            self.patch(ChatStream, "waiting", waiting)

            if signs:
                assert ("broken", 200) == (client.ended, client.status)
                told = error_in(client)
            else:
                assert ("clean", 500) == (client.ended, client.status)
                told = refusal_of(client)
            assert "internal_error" == told["code"]
            assert client.headers["x-request-id"] in told["message"]
            assert 1 == len(fleet.events("responder_crashed"))
            assert 1 == len(self.flushLoggedErrors(RuntimeError))
            fleet.advance(40)
            assert 200 == before.status
            self.assert_nobody_waits(fleet)
            fleet.close()


class LoadedOnDemandTests(QueueTestCase):
    def test_a_request_for_an_unloaded_model_is_answered_after_its_load(self) -> None:
        """Streamed or not; headers, line and metrics say how that came about."""
        for stream in (False, True):
            node = self.node("a", MODEL, cold())
            fleet = self.fleet(node, hold_seconds=100)
            client = fleet.chat(model=COLD, stream=stream)
            fleet.advance(19.9)
            self.assert_waiting(client)
            fleet.advance(0.1)

            assert (200, "clean") == (client.status, client.ended)
            assert ("loaded", "20000", "20000") == told(client)
            (line,) = fleet.events("request")
            assert ("loaded", 20.0, 20.0, 20.0, 20.0, 1) == tuple(
                line[field]
                for field in ("decision", "queued", "load", "ttft", "duration", "attempts")
            )
            labels = {"model": COLD, "node": "a"}
            assert 20.0 == fleet.sample("cortex_queue_wait_seconds_sum", **labels)
            self.assert_nobody_waits(fleet)
            fleet.close()

    def test_a_request_that_comes_later_has_waited_less(self) -> None:
        """Of the load only what it has seen of it counts."""
        fleet, _ = self.with_cold()
        first = fleet.chat(model=COLD)
        fleet.advance(15)
        second = fleet.chat(model=COLD)
        fleet.advance(5)
        third = fleet.chat(model=COLD)
        assert [
            ("loaded", "20000", "20000"),
            ("loaded", "5000", "5000"),
            ("resident", "0", "0"),
        ] == [told(client) for client in (first, second, third)]

    def test_what_must_go_first_is_told(self) -> None:
        """The model is swapped in for one that nobody uses."""
        node = self.node("a", MODEL, cold(size_mb=1_000), memory_mb=1_500)
        fleet = self.fleet(node, models=BOTH_1_000, node_keys=HOLDS_ONE)
        client = fleet.chat(model=COLD)
        fleet.advance(30)
        assert "swapped" == client.headers["x-cortex-decision"]
        assert (COLD,) == node.loaded_models
        report = node.journal.report()
        assert (0, 0, 0) == (report.cut_answers, report.overfilled, report.stray_requests)

    def test_many_first_requests_cause_one_load(self) -> None:
        """And none reaches the node before it can answer."""
        fleet, node = self.with_cold()
        clients = [ask(model=COLD) for ask in (fleet.chat, fleet.stream) * 10]
        fleet.advance(30)
        assert {200} == {client.status for client in clients}
        assert {"clean"} == {client.ended for client in clients}
        report = node.journal.report()
        assert ({COLD: 1}, 0, 0) == (report.loads, report.stray_requests, report.wrong_reloads)
        assert 1 == len(node.journal.requests("/v1/models/reload"))
        self.assert_nobody_waits(fleet)

    def test_a_loaded_model_is_served_meanwhile(self) -> None:
        """Its requests never wait for somebody else's load."""
        fleet, _ = self.with_cold()
        fleet.chat(model=COLD)
        fleet.advance(5)
        client = fleet.chat()
        assert (200, ("resident", "0", "0")) == (client.status, told(client))
        fleet.advance(30)

    def test_a_load_that_fails_is_tried_elsewhere(self) -> None:
        """The client hears nothing of it."""
        nodes = [self.node(name, MODEL, cold()) for name in "ab"]
        for node in nodes:
            node.faults.fail_load, node.faults.fail_load_times = {COLD: "no"}, {COLD: 1}
        nodes[1].faults.fail_load = {}
        fleet = self.fleet(*nodes)
        client = fleet.chat(model=COLD)
        fleet.advance(40)
        assert (200, "b") == (client.status, client.headers["x-cortex-node"])
        assert [1, 1] == [node.journal.report().loads[COLD] for node in nodes]

    def test_a_load_that_fails_everywhere_is_told_to_all_who_wait(self) -> None:
        """In the node's own words, each in its own way, with the time of the next try."""
        fleet, node = self.with_cold()
        node.faults.fail_load = {COLD: "the weights are damaged"}
        whole, stream = fleet.chat(model=COLD), fleet.stream(model=COLD)
        fleet.advance(30)

        words = (
            f"model '{COLD}' could not be loaded: "
            "node a: failed to load model: the weights are damaged"
        )
        assert (503, "5") == (whole.status, whole.headers["retry-after"])
        assert (words, "model_not_loaded") == (
            refusal_of(whole)["message"],
            refusal_of(whole)["code"],
        )
        assert ("broken", words) == (stream.ended, error_in(stream)["message"])
        assert ["503", "broken"] == [event["outcome"] for event in fleet.events("request")]
        self.assert_nobody_waits(fleet)

    def test_what_no_node_can_ever_hold_is_told_at_once(self) -> None:
        """Waiting would not help, and so no time to come back is given."""
        fleet, node = self.with_cold(models={COLD: {"vram_mb": 50_000}, MODEL: {"vram_mb": 1_000}})
        client = fleet.chat(model=COLD)
        assert (404, "model_not_found") == (client.status, refusal_of(client)["code"])
        assert "retry-after" not in client.headers
        assert {} == node.journal.report().loads

    def test_a_node_that_goes_away_does_not_take_the_request_along(self) -> None:
        """It is decided anew: another node loads the model."""
        nodes = [self.node(name, cold(5.0)) for name in "ab"]
        fleet = self.fleet(*nodes, down_after=1)
        client = fleet.chat(model=COLD)
        Deferred.fromCoroutine(nodes[0].close())
        fleet.poll()
        fleet.advance(10)
        assert (200, "b") == (client.status, client.headers["x-cortex-node"])
        self.assert_nobody_waits(fleet)

    def test_what_somebody_else_loads_is_waited_for(self) -> None:
        """No second load is asked for, here or elsewhere."""
        nodes = [self.node(name, cold()) for name in "ab"]
        fleet = self.fleet(*nodes)
        fleet.poller.startService()
        nodes[1].running_process.reload(COLD)
        fleet.advance(6)
        client = fleet.chat(model=COLD)
        fleet.advance(20)
        assert (200, "b") == (client.status, client.headers["x-cortex-node"])
        assert [{}, {COLD: 1}] == [node.journal.report().loads for node in nodes]


class HoldTests(QueueTestCase):
    def test_a_stream_is_kept_alive_while_it_waits(self) -> None:
        """Its status goes out after hold_seconds, and a comment each keepalive_seconds."""
        fleet, _ = self.with_cold(hold_seconds=5, keepalive_seconds=6)
        client = fleet.stream(model=COLD)
        fleet.advance(4.9)
        self.assert_waiting(client)
        seen = []
        for seconds in (0.1, 5.9, 0.1, 5.9, 0.1):
            fleet.advance(seconds)
            seen.append(len(client.text()) // len(OUR_COMMENT))
        assert (200, [1, 1, 2, 2, 3]) == (client.status, seen)
        assert "text/event-stream" == client.headers["content-type"]
        assert (COLD, None) == (
            client.headers["x-cortex-model"],
            client.headers.get("x-cortex-node"),
        )
        fleet.advance(3)
        assert ("clean", "You said: hi") == (client.ended, client.content())
        assert 3 * OUR_COMMENT == client.text()[: 3 * len(OUR_COMMENT)]
        (line,) = fleet.events("request")
        assert ("200", len(client.body)) == (line["outcome"], line["bytes_out"])

    def test_the_pace_is_kept_after_the_wait(self) -> None:
        """A slow first token after a long load: no silence is longer than keepalive_seconds."""
        node = self.node("a", cold(20.0), prompt_seconds=30)
        fleet = self.fleet(node, hold_seconds=5, keepalive_seconds=10)
        client = fleet.stream(model=COLD)
        for seconds, signs in ((5, 1), (10, 2), (9.9, 2), (0.1, 3), (10, 4)):
            fleet.advance(seconds)
            assert signs * OUR_COMMENT == client.text(), fleet.clock.seconds()
        fleet.advance(30)
        assert "clean" == client.ended

    def test_a_whole_answer_is_not_held(self) -> None:
        """Nothing goes out before it, so that an error can still have its status."""
        fleet, _ = self.with_cold(hold_seconds=5)
        client = fleet.chat(model=COLD)
        fleet.advance(19)
        assert (None, b"") == (client.status, client.body)
        fleet.advance(1)
        assert 200 == client.status

    def test_a_wait_for_a_slot_is_a_wait_like_any_other(self) -> None:
        """With status and comments for a stream."""
        fleet, _ = self.full(hold_seconds=5)
        client = fleet.stream()
        fleet.advance(5)
        assert (200, OUR_COMMENT) == (client.status, client.text())
        fleet.advance(50)
        assert ("clean", "queued") == (client.ended, fleet.events("request")[1]["decision"])


class EndOfWaitTests(QueueTestCase):
    def test_a_full_queue_is_told_at_once(self) -> None:
        """503 with a time to come back; those that wait go on waiting."""
        fleet, _ = self.full(max_queue=2)
        waiting = [fleet.chat(), fleet.stream()]
        refused = [fleet.chat(), fleet.stream()]

        for client in refused:
            assert (503, "queue_full") == (client.status, refusal_of(client)["code"])
            assert "server_error" == refusal_of(client)["type"]
            assert int(client.headers["retry-after"]) > 0
        fleet.advance(100)
        assert [200, 200] == [client.status for client in waiting]
        self.assert_nobody_waits(fleet)

    def test_the_end_of_patience_is_told(self) -> None:
        """A status for who has none yet, else the stream's last event."""
        fleet, _ = self.full(queue_timeout=15.0, hold_seconds=5)
        whole, held = fleet.chat(), fleet.stream()
        fleet.advance(14.9)
        assert (None, 200, "") == (whole.status, held.status, held.ended)
        fleet.advance(0.1)

        assert (503, "queue_timeout") == (whole.status, refusal_of(whole)["code"])
        assert "retry-after" in whole.headers
        assert ("broken", "queue_timeout") == (held.ended, error_in(held)["code"])
        assert "[DONE]" not in held.events()
        lines = fleet.events("request")
        assert [("503", 15.0, 0, None), ("broken", 15.0, 0, None)] == [
            tuple(line[field] for field in ("outcome", "duration", "attempts", "decision"))
            for line in lines
        ]
        assert len(held.body) == lines[1]["bytes_out"]
        fleet.advance(50)
        self.assert_nobody_waits(fleet)

    def test_a_stream_not_held_yet_gets_a_status(self) -> None:
        """Its patience may end before the hold does."""
        fleet, _ = self.full(queue_timeout=3.0, max_wait=1.0)
        client = fleet.stream()
        fleet.advance(3)
        assert (503, "queue_timeout") == (client.status, refusal_of(client)["code"])
        fleet.advance(50)

    def test_who_leaves_leaves_the_queue(self) -> None:
        """Held or not; the slot goes to the next request."""
        fleet, node = self.full(hold_seconds=5)
        gone = [fleet.chat(), fleet.stream()]
        stays = fleet.chat()
        fleet.advance(6)
        for client in gone:
            fleet.leave(client)
        assert 1 == len(fleet.scheduler.waiting)
        fleet.advance(60)
        assert 200 == stays.status
        assert 2 == len(node.journal.requests(CHAT))
        assert ["client_gone"] * 2 == [
            event["outcome"] for event in fleet.events("request") if event["node"] == "none"
        ]
        self.assert_nobody_waits(fleet)

    def test_a_load_that_nobody_waits_for_any_more_does_not_begin(self) -> None:
        """The model that was to make room answers its own requests again."""
        node = self.node("a", MODEL, cold(), memory_mb=1_500, token_seconds=10)
        fleet = self.fleet(
            node,
            models=BOTH_1_000,
            node_keys=HOLDS_ONE,
            max_wait=1.0,
        )
        running = fleet.stream()
        wanted = fleet.chat(model=COLD)
        fleet.advance(2)
        held_back = fleet.chat()
        fleet.advance(1)
        assert 2 == len(fleet.scheduler.waiting)
        fleet.leave(wanted)
        fleet.advance(60)

        assert [200, 200] == [running.status, held_back.status]
        report = node.journal.report()
        assert ({}, {}) == (report.loads, report.unloads)
        self.assert_nobody_waits(fleet)

    def test_a_load_that_has_begun_goes_on(self) -> None:
        """Nothing stops one at the node; the model is there for the next who asks."""
        fleet, node = self.with_cold()
        client = fleet.chat(model=COLD)
        fleet.advance(5)
        fleet.leave(client)
        fleet.advance(15)
        assert (MODEL, COLD) == node.loaded_models
        assert "resident" == fleet.chat(model=COLD).headers["x-cortex-decision"]
        assert {COLD: 1} == node.journal.report().loads

    def test_a_request_id_may_wait_twice(self) -> None:
        """A client that sends its request again under the same id gets two answers."""
        fleet, _ = self.full()
        first, second = (fleet.chat(headers={"X-Request-ID": "mine"}) for _ in range(2))
        fleet.leave(first)
        fleet.advance(60)
        assert (200, "mine") == (second.status, second.headers["x-request-id"])


class StopTests(QueueTestCase):
    def test_a_cut_fails_those_who_wait_too(self) -> None:
        """No request gets the slot of one that was cut before it."""
        fleet, node = self.full(hold_seconds=5)
        whole, held = fleet.chat(), fleet.stream()
        fleet.advance(6)
        fresh = fleet.stream()
        fleet.answers.cut()
        fleet.flush()

        assert (503, 503) == (whole.status, fresh.status)
        assert "overloaded" == refusal_of(whole)["code"]
        assert ("broken", "overloaded") == (held.ended, error_in(held)["code"])
        assert 1 == len(node.journal.requests(CHAT))
        self.assert_nobody_waits(fleet)

    def test_a_drain_lets_those_who_wait_be_served(self) -> None:
        """Within its grace; after it the rest fails."""
        fleet, _ = self.full(hold_seconds=100)
        served, failed = fleet.chat(), fleet.stream()
        drained = Deferred.fromCoroutine(fleet.answers.drain(45))
        fleet.advance(44.9)
        self.assertNoResult(drained)
        assert 200 == served.status
        fleet.advance(0.1)

        self.successResultOf(drained)
        assert ("broken", "overloaded") == (failed.ended, error_in(failed)["code"])
        self.assert_nobody_waits(fleet)

    def test_what_is_cut_while_it_loads_starts_nothing_more(self) -> None:
        """The load goes on at the node; nobody is asked for an answer after it."""
        fleet, node = self.with_cold()
        client = fleet.stream(model=COLD)
        fleet.advance(2)
        fleet.relay.stop(Overloaded("we stop", retry_after=5))
        fleet.flush()
        assert (503, "we stop") == (client.status, refusal_of(client)["message"])
        fleet.advance(30)
        assert [] == node.journal.requests(CHAT)
        self.assert_nobody_waits(fleet)

    def test_the_error_is_one_event_in_the_stream(self) -> None:
        """After the comments, and it is the last."""
        fleet, _ = self.full(hold_seconds=5)
        held = fleet.stream()
        fleet.advance(6)
        fleet.answers.cut()
        fleet.flush()
        (event,) = held.events()
        assert {"error"} == json.loads(event).keys()
