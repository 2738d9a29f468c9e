"""How requests end that the gateway answers: crashes of its own, and its stop."""

import json

from twisted.internet.defer import Deferred

from tests.support.fleets import FleetTestCase
from tests.testing.client import CHAT


class CrashTests(FleetTestCase):
    def test_a_crash_is_a_500_by_request_id(self) -> None:
        """The client learns the id, the log has the traceback, and the gateway serves on."""
        fleet = self.fleet(self.node())

        async def crash(*arguments: object) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.relay, "serve", crash)
        for client in (
            fleet.chat(headers={"X-Request-ID": "mine-2"}),
            fleet.stream(headers={"X-Request-ID": "mine-2"}),
        ):
            error = client.error
            assert (500, "internal_error") == (client.status, error["code"])
            assert "internal error; see the log under request id mine-2" == error["message"]
        assert 2 == len(self.flushLoggedErrors(RuntimeError))
        assert ["mine-2"] * 2 == [event["request_id"] for event in fleet.events("request_crashed")]
        assert 200 == fleet.get("/v1/models").status

    def test_a_crash_of_a_route_that_answers_at_once_is_a_500(self) -> None:
        """The catalogue's routes are no exception."""
        fleet = self.fleet(self.node())

        def crash(model: str) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.parts.catalogue, "entry_of", crash)
        client = fleet.get("/v1/models")

        assert (500, "internal_error") == (client.status, client.error["code"])
        assert 1 == len(self.flushLoggedErrors(RuntimeError))

    def test_a_crash_in_the_middle_of_a_stream_breaks_it_off(self) -> None:
        """A stream that has begun gets no page and no clean end."""
        node = self.node(token_seconds=1)
        fleet = self.fleet(node)
        client = fleet.stream()
        assert "You" == client.content()

        def crash(record: object, error: object) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.parts.accountant, "note_failed_attempt", crash)
        node.faults.reset_after_chunks = 1
        fleet.advance(2)

        assert "broken" == client.ended
        assert "<html" not in client.text().lower()
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        (line,) = fleet.events("request")
        assert "broken" == line["outcome"]


class DrainTests(FleetTestCase):
    def test_an_idle_gateway_is_drained_at_once(self) -> None:
        """Without requests there is nothing to wait for."""
        fleet = self.fleet(self.node())

        self.successResultOf(Deferred.fromCoroutine(fleet.answers.drain(30)))

        unready = fleet.get("/ready")
        assert (503, "stopping") == (unready.status, unready.json()["reason"])

    def test_requests_end_whole_within_the_grace(self) -> None:
        """The drain is over when the last of them is, and its timer with it."""
        fleet = self.fleet(self.node(token_seconds=1))
        first, second = fleet.stream(), fleet.chat()

        drained = Deferred.fromCoroutine(fleet.answers.drain(30))
        fleet.advance(1)
        self.assertNoResult(drained)
        fleet.advance(2)

        self.successResultOf(drained)
        assert ("clean", "You said: hi") == (first.ended, first.content())
        assert ("clean", 200) == (second.ended, second.status)

    def test_new_requests_are_refused(self) -> None:
        """With 503, when to come back, and the end of the connection."""
        fleet = self.fleet(self.node(token_seconds=1))
        running = fleet.stream()
        drained = Deferred.fromCoroutine(fleet.answers.drain(30))

        for client in (fleet.chat(), fleet.stream(), fleet.request("POST", CHAT, body=b"no")):
            assert (503, "overloaded") == (client.status, client.error["code"])
            assert "5" == client.headers["retry-after"]
        raw = fleet.connect()
        fleet.send(raw, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in raw.received
        assert "done" == raw.closed
        assert 200 == fleet.get("/health").status
        fleet.advance(3)
        self.successResultOf(drained)
        assert "clean" == running.ended

    def test_after_the_grace_the_rest_fails_in_its_own_dialect(self) -> None:
        """A stream gets an error event and no clean end, a whole answer an error status."""
        fleet = self.fleet(self.node(token_seconds=10))
        stream, whole = fleet.stream(), fleet.chat()

        drained = Deferred.fromCoroutine(fleet.answers.drain(5))
        fleet.advance(5)

        self.successResultOf(drained)
        assert "overloaded" == json.loads(stream.events()[-1])["error"]["code"]
        assert "broken" == stream.ended
        assert (503, "overloaded") == (whole.status, whole.error["code"])
        assert () == fleet.fleet.leases

    def test_a_cut_hastens_the_drain(self) -> None:
        """It need not wait for the grace."""
        fleet = self.fleet(self.node(token_seconds=10))
        stream = fleet.stream()
        drained = Deferred.fromCoroutine(fleet.answers.drain(30))

        fleet.answers.cut()
        fleet.flush()

        self.successResultOf(drained)
        assert "broken" == stream.ended

    def test_a_client_that_leaves_is_not_waited_for(self) -> None:
        """The drain is over when the last client has gone."""
        fleet = self.fleet(self.node(token_seconds=10))
        stream = fleet.stream()
        drained = Deferred.fromCoroutine(fleet.answers.drain(30))

        fleet.leave(stream)

        self.successResultOf(drained)
