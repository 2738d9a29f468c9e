"""Nodes that fail requests, hang or go down, beside nodes that work."""

from typing import Any

from cortexd.fleet.states import NodeHealth
from cortexd.testing.answering.streams import abort
from cortexd.testing.faults import Faults
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import RelayTestCase, chunk, error_in, refusal_of
from tests.support.scripted import ScriptedNode

CLIENTS = 8
SICK_SECONDS = 4.0
MOST_FAILED = 5
"""The faults that eject a replica, and some that were under way meanwhile."""

UP, DOWN = NodeHealth.UP, NodeHealth.DOWN


class Halves(Faults):
    """The faults of a node that fails every other request."""

    requests = 0

    def take_error_response(self) -> bool:
        """Fail the requests with an odd number."""
        self.requests += 1
        return bool(self.requests % 2)


class SickNodeTests(RelayTestCase):
    """Eight clients in a loop before a sick node and a good one."""

    def served(
        self, slots: int = 4, *, is_half: bool = False, **faults: Any
    ) -> tuple[InMemoryFleet, list[Client]]:
        """Return the requests that ended; each node has ``slots``, the sick one ``faults``.

        With ``is_half`` the sick one fails every other request.
        """
        good, sick = self.node("good"), self.node("bad")
        sick.faults = Halves() if is_half else sick.faults
        for fault, value in faults.items():
            setattr(sick.faults, fault, value)
        good.faults.slow_seconds = 0.1
        fleet = self.fleet(sick, good, models={MODEL: {"max_concurrency": slots}})
        done: list[Client] = []
        clients = [fleet.chat() for _ in range(CLIENTS)]
        while self.clock.seconds() < SICK_SECONDS:
            fleet.advance(0.05)
            for number, client in enumerate(clients):
                if client.ended:
                    done.append(client)
                    clients[number] = fleet.chat()
        return fleet, done

    def assert_served(self, requests: list[Client]) -> None:
        failed = [request for request in requests if request.status != 200]
        assert len(requests) > 80
        assert len(failed) <= MOST_FAILED, f"{len(failed)} of {len(requests)}"

    def test_fails_at_once(self) -> None:
        """A node that answers 500 at once gets a handful of requests, not nearly all."""
        fleet, requests = self.served(error_responses=1_000)
        self.assert_served(requests)

        (told,) = fleet.events("replica_ejected")
        assert ("bad", MODEL) == (told["node"], told["model"])
        assert 1.0 == fleet.sample("cortex_replica_ejections_total", model=MODEL, node="bad")

    def test_resets(self) -> None:
        """No client notices a node that resets each connection."""
        _, requests = self.served(CLIENTS, reset_after_chunks=0)

        assert {200} == {request.status for request in requests}

    def test_fails_half(self) -> None:
        """A node that fails every other request is ejected too."""
        self.assert_served(self.served(is_half=True)[1])


class AloneTests(RelayTestCase):
    def test_refusal(self) -> None:
        """If all replicas are ejected, a client gets 503, the reason, and when to come back."""
        bad = self.scripted("bad")
        fleet = self.fleet(bad)
        for number in range(3):
            fleet.chat(f"request {number}")
            bad.answer(500, b'{"message":"the engine fell over"}')
            fleet.flush()
        client = fleet.chat()

        assert 503 == client.status
        assert "1" == client.headers["retry-after"]
        assert "node bad: the engine fell over" in refusal_of(client)["message"]

    def test_one_request_that_always_fails(self) -> None:
        """A client that repeats a request of which its node fails takes no other's answers."""
        bad = self.scripted("bad")
        fleet = self.fleet(bad)
        for _ in range(5):
            again = fleet.chat("again")
            bad.answer(500, b'{"message":"the engine fell over"}')
            fleet.flush()
            assert 500 == again.status
        fleet.stream("other")

        assert 1 == len(bad.waiting)

    def test_one_request_that_always_ends_its_connection(self) -> None:
        """The same, if the node answers its polls and closes only that request's connection."""
        bad = self.scripted("bad")
        fleet = self.fleet(bad)
        for _ in range(5):
            again = fleet.chat("again")
            abort(bad.waiting[-1])
            fleet.advance(0.5)
            fleet.poll()
            assert 502 == again.status
        fleet.stream("other")

        assert 1 == len(bad.waiting)

    def test_back(self) -> None:
        """The first content of the trial lets those in that wait for it."""
        bad = self.scripted("bad")
        fleet = self.fleet(bad)
        for number in range(3):
            fleet.chat(f"request {number}")
            bad.answer(500, b"broken")
            fleet.flush()
        fleet.advance(1)
        trial, other = fleet.stream(), fleet.stream()
        assert 1 == len(bad.waiting)
        bad.stream(chunk("a"))
        fleet.flush()

        assert "a" == trial.content()
        assert 2 == len(bad.waiting)
        bad.stream(chunk("b"))
        fleet.flush()
        assert "b" == other.content()


class DownTests(RelayTestCase):
    """A node that goes down while it has requests, beside one that works."""

    def down(self, fleet: InMemoryFleet, bad: ScriptedNode) -> None:
        """Let the polls of a node fail until it is down."""
        bad.hangs = True
        for _ in range(2):
            fleet.poll()

    def test_moved(self) -> None:
        """A request of which nothing has gone out goes to another node, or into its queue."""
        fleet, bad = self.bad_and_good(models={MODEL: {"max_concurrency": 1}})
        hung = fleet.chat()
        assert 1 == len(bad.waiting)
        other = fleet.chat()
        assert 200 == other.status
        self.down(fleet, bad)

        assert DOWN is fleet.fleet.nodes["bad"].health
        fleet.advance(1)
        assert (200, "good") == (hung.status, hung.headers["x-cortex-node"])
        assert None is fleet.sample("cortex_replica_ejections_total", model=MODEL, node="x")

    def test_spoken(self) -> None:
        """A stream of which something has gone out goes on: it may still be answered."""
        fleet, bad = self.bad_and_good()
        client = fleet.stream()
        bad.stream(chunk("half"))
        fleet.flush()
        self.down(fleet, bad)
        assert DOWN is fleet.fleet.nodes["bad"].health
        bad.stream(chunk(" done", "stop"), b"data: [DONE]\n\n", end=True)
        fleet.flush()

        assert ("clean", "half done") == (client.ended, client.content())

    def test_not_twice(self) -> None:
        """A request that must not be repeated stays, whatever becomes of its node."""
        bad, other = self.scripted("bad"), self.scripted("other")
        fleet = self.fleet(bad, other)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nx\r\n--b--\r\n'
        client = fleet.request("POST", "/v1/files", body=form, headers=headers)
        assert 1 == len(bad.waiting)
        self.down(fleet, bad)

        assert [] == other.requests
        self.assert_waiting(client)
        bad.answer(200, b'{"id":"file-1"}')
        fleet.flush()
        assert 200 == client.status

    def test_nowhere_to_go(self) -> None:
        """Without another node the request waits on: a slow node may still answer it."""
        fleet, bad = self.alone()
        client = fleet.chat()
        self.down(fleet, bad)
        assert DOWN is fleet.fleet.nodes["bad"].health
        self.assert_waiting(client)
        bad.stream(chunk("late", "stop"), b"data: [DONE]\n\n", end=True)
        fleet.flush()

        assert 200 == client.status


class HeardTests(RelayTestCase):
    def test_bytes_are_life(self) -> None:
        """A node that is too slow to list its models is not down while it streams."""
        fleet, bad = self.alone()
        client = fleet.stream()
        bad.stream(chunk("a"))
        bad.hangs = True
        for _ in range(4):
            polling = fleet.poller.poll_all()
            fleet.advance(1)
            bad.stream(b":\n\n")
            fleet.advance(1)
            assert polling.called

        assert UP is fleet.fleet.nodes["bad"].health
        assert 4.0 == fleet.sample("cortex_polls_total", node="bad", outcome="timed_out")
        for _ in range(2):
            fleet.poll()
        assert DOWN is fleet.fleet.nodes["bad"].health
        bad.reset()
        fleet.flush()
        assert "bad_gateway" == error_in(client)["code"]

    def test_a_client_that_reads_again_is_no_life(self) -> None:
        """Only bytes of the node count."""
        fleet, bad = self.alone()
        client = fleet.stream()
        bad.stream(chunk("a"))
        fleet.flush()
        (attempt,) = fleet.relay._running
        polled_at = self.clock.seconds()
        fleet.advance(1)
        body: Any = attempt
        body._body.pauseProducing()
        body._body.resumeProducing()

        assert not fleet.relay.has_heard("bad", polled_at)
        fleet.advance(1)
        bad.stream(chunk("b"))
        fleet.flush()
        assert fleet.relay.has_heard("bad", polled_at)
        bad.reset()
        fleet.flush()
        assert client.ended
