"""Responses in the background: queued, leased, polled, cancelled, and ended with the daemon."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from cortexd.store.responses import FLUSH_SECONDS
from cortexd.testing import SimulatedModel
from tests.support.conversations import (
    RESPONSES,
    ConversationTestCase,
    cancel,
    events_of,
    respond,
    said,
    shown,
    status_of,
)
from tests.support.fleets import MODEL, InMemoryFleet

WORK = "/v1/responses (background)"


class BackgroundTestCase(ConversationTestCase):
    def slow(self, **settings: Any) -> InMemoryFleet:
        """Return a fleet with one slot at one node, whose tokens take a second each."""
        models = {MODEL: {"max_concurrency": 1}}
        return self.stored(self.node("a", token_seconds=1.0), models=models, **settings)

    def start(self, fleet: InMemoryFleet, text: str = "a b c", **fields: object) -> str:
        client = respond(fleet, text, background=True, **fields)
        assert 200 == client.status, client.body
        queued = client.json()
        assert ("queued", True, []) == (queued["status"], queued["background"], queued["output"])
        name: str = queued["id"]
        return name


class BackgroundTests(BackgroundTestCase):
    def test_the_course_of_two(self) -> None:
        """Each waits for the slot, holds a lease while it works, and is shown in every state."""
        fleet = self.slow()
        first, second = self.start(fleet), self.start(fleet, "d e f")
        fleet.advance(1)
        assert ["in_progress", "queued"] == [status_of(fleet, name) for name in (first, second)]
        assert 1 == len(fleet.fleet.leases)
        fleet.advance(6)
        assert ["completed", "in_progress"] == [status_of(fleet, name) for name in (first, second)]
        fleet.advance(10)

        assert "You said: d e f" == said(shown(fleet, second).json())
        third = respond(fleet, "on", previous_response_id=first, background=True).json()["id"]
        fleet.advance(10)
        assert ["a b c", "You said: a b c", "on"] == self.prompts(fleet, "a")[-1]
        assert first == shown(fleet, third).json()["previous_response_id"]

    def test_it_is_measured_like_a_request(self) -> None:
        """Under a label of its own, with its tokens and its times; the order has its own line."""
        fleet = self.slow()
        self.start(fleet)
        fleet.advance(10)

        order, work = fleet.events("request")
        assert (RESPONSES, 200) == (order["route"], order["status"])
        assert (WORK, "a", 1, "200") == (
            work["route"],
            work["node"],
            work["attempts"],
            work["outcome"],
        )
        assert work["completion_tokens"] > 0
        assert 9 > work["duration"] > 3
        assert order["request_id"] == work["request_id"]

    def test_store_false_stores_it_nevertheless(self) -> None:
        """Otherwise its client could never get it."""
        fleet = self.slow()
        name = self.start(fleet, store=False)
        fleet.advance(10)

        assert "completed" == status_of(fleet, name)

    def test_cancelled(self) -> None:
        """It leaves its node or the queue at once; a response in its end stays as it is."""
        fleet = self.slow()
        names = [self.start(fleet, text) for text in ("a b c", "d e f", "g h i")]
        fleet.advance(2)
        for name in (names[1], names[0]):
            assert "cancelled" == cancel(fleet, name).json()["status"]
            assert "cancelled" == status_of(fleet, name)
        fleet.advance(20)

        assert "completed" == status_of(fleet, names[2])
        assert "completed" == cancel(fleet, names[2]).json()["status"]
        assert "cancelled" == cancel(fleet, names[0]).json()["status"]
        assert () == fleet.fleet.leases
        node: Any = fleet.nodes["a"]
        ends = [entry.detail["reason"] for entry in node.journal.of("stream_ended")]
        assert ["client_gone", "finished"] == ends

    def test_deleted_while_it_works(self) -> None:
        """The work ends, and leaves no response."""
        fleet = self.slow()
        name = self.start(fleet)
        fleet.advance(2)
        fleet.request("DELETE", f"{RESPONSES}/{name}")

        assert () == fleet.fleet.leases
        for _ in range(2):
            assert 404 == shown(fleet, name).status
            fleet.advance(10)

    def test_it_cannot_be_continued_before_its_end(self) -> None:
        """That is 400 with the field, not a conversation with a hole."""
        fleet = self.slow()
        client = respond(fleet, previous_response_id=self.start(fleet))

        assert (400, "previous_response_id") == (client.status, client.error["param"])

    def test_a_full_queue_refuses_it(self) -> None:
        """As it refuses any request; no response is left behind."""
        fleet = self.slow(max_queue=1)
        for _ in range(2):
            self.start(fleet)
        client = respond(fleet, "one too many", background=True)

        assert (503, "queue_full") == (client.status, client.error["code"])

    def test_a_node_that_fails(self) -> None:
        """The response says why, also after the daemon was restarted."""
        node = self.node("a", token_seconds=1.0)
        fleet = self.stored(node)
        name = self.start(fleet)
        fleet.advance(2)
        node.restart()
        fleet.advance(10)
        response = shown(fleet, name).json()

        assert ("failed", "server_error") == (response["status"], response["error"]["code"])
        fleet.responses.stopService()
        assert response == shown(self.restarted(), name).json()

    def test_a_stop_of_the_daemon_waits_for_it(self) -> None:
        """And fails it after the grace period, with words that say so."""
        fleet = self.slow()
        short, long = self.start(fleet, "a"), self.start(fleet, "a b c d e f g h i j k l")
        drained = Deferred.fromCoroutine(fleet.answers.drain(12.0))
        self.assertNoResult(drained)
        fleet.advance(13)
        self.successResultOf(drained)
        fleet.responses.stopService()

        again = self.restarted()
        assert "completed" == status_of(again, short)
        cut = shown(again, long).json()
        assert "failed" == cut["status"]
        assert "stopping" in cut["error"]["message"]

    def test_a_kill_of_the_daemon_fails_it(self) -> None:
        """The next daemon finds it unfinished, and says that it was restarted."""
        killed = self.slow()
        name = self.start(killed)
        killed.advance(FLUSH_SECONDS)
        again = self.restarted()

        response = shown(again, name).json()
        assert "failed" == response["status"]
        assert "restarted" in response["error"]["message"]

    def test_a_model_that_is_loaded_for_it(self) -> None:
        """It waits in the queue meanwhile, however long no client asks."""
        model = SimulatedModel(id=MODEL, loaded=False, load_seconds=60)
        fleet = self.stored(self.node("a", model))
        name = self.start(fleet)
        fleet.advance(30)
        assert "queued" == status_of(fleet, name)
        fleet.advance(60)

        assert "completed" == status_of(fleet, name)


class StreamedTests(BackgroundTestCase):
    def test_a_stream_may_break_off_while_the_work_goes_on(self) -> None:
        """Another client follows it from the next event on; both together have got all of it."""
        fleet = self.slow()
        first = respond(fleet, "a b c d", background=True, stream=True)
        fleet.advance(2)
        fleet.leave(first)
        begun = events_of(first)
        name = begun[0]["response"]["id"]
        assert "in_progress" == status_of(fleet, name)
        fleet.advance(1)
        query = f"?stream=true&starting_after={begun[-1]['sequence_number']}"
        second = shown(fleet, name, query)
        fleet.advance(20)

        both = [*begun, *events_of(second)]
        assert list(range(len(both))) == [event["sequence_number"] for event in both]
        assert "response.completed" == both[-1]["type"]
        assert "You said: a b c d" == "".join(event.get("delta", "") for event in both)
        assert both[-1]["response"] == shown(fleet, name).json()
        assert "clean" == second.ended

    def test_after_its_end(self) -> None:
        """The last event is sent again, which has the whole response."""
        fleet = self.slow()
        first = respond(fleet, "a b", background=True, stream=True)
        fleet.advance(20)
        last = events_of(first)[-1]
        name = last["response"]["id"]
        (event,) = events_of(
            shown(fleet, name, f"?stream=true&starting_after={last['sequence_number'] - 1}")
        )

        assert last == event
        error = shown(fleet, name, "?stream=true&starting_after=x").error
        assert "starting_after" == error["param"]

    def test_cancelled(self) -> None:
        """The stream of each client that follows it breaks off, and later ones get none."""
        fleet = self.slow()
        client = respond(fleet, "a b c d", background=True, stream=True)
        fleet.advance(3)
        name = events_of(client)[0]["response"]["id"]
        assert "cancelled" == cancel(fleet, name).json()["status"]
        fleet.flush()

        assert client.ended not in ("", "clean")
        assert () == fleet.fleet.leases
        assert "stream" == shown(fleet, name, "?stream=true").error["param"]

    def test_a_failure_is_an_event(self) -> None:
        """As in any stream; a refusal at once still has its own status."""
        node = self.node("a", token_seconds=1.0)
        fleet = self.stored(node, models={MODEL: {"max_concurrency": 1}}, max_queue=1)
        client = respond(fleet, "a b c d", background=True, stream=True)
        respond(fleet, "in the queue", background=True, stream=True)
        refused = respond(fleet, "one too many", background=True, stream=True)
        assert (503, "queue_full") == (refused.status, refused.error["code"])
        fleet.advance(3)
        node.restart()
        fleet.flush()

        last = events_of(client)[-1]
        assert ("response.failed", "clean") == (last["type"], client.ended)
        assert "failed" == status_of(fleet, last["response"]["id"])

    def test_work_that_was_not_requested_as_a_stream(self) -> None:
        """It has no events before its end, and the error says so."""
        fleet = self.slow()
        client = shown(fleet, self.start(fleet), "?stream=true")

        assert (400, "stream") == (client.status, client.error["param"])
