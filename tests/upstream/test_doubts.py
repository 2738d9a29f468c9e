"""A node that closes a connection may have restarted: it is polled before it gets more work."""

from twisted.internet.defer import Deferred

from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.doubts import MAX_FAILURES
from tests.support.fleets import FleetTestCase, InMemoryFleet

COLD = "acme/cold"
WARM = "acme/warm"
LISTING = "/v1/models"


class DoubtTests(FleetTestCase):
    """Between two polls, a node's closed connections are the only sign of its restart."""

    def alone(self, **faults: object) -> tuple[InMemoryFleet, SimulatedNode]:
        node = self.node("a", WARM, SimulatedModel(id=COLD, loaded=False, load_seconds=1.0))
        return self.fleet(node), node

    def polls(self, node: SimulatedNode) -> int:
        return len(node.journal.requests(LISTING))

    def test_a_restart_between_two_polls_is_seen(self) -> None:
        """A model that the new process has not loaded gets a load of ours, not the node's own."""
        fleet, node = self.alone()
        loading = fleet.chat(model=COLD)
        fleet.advance(2)
        assert 200 == loading.status
        node.restart()

        client = fleet.chat(model=COLD)
        fleet.advance(2)

        assert 200 == client.status
        assert 1 == fleet.fleet.nodes["a"].restarts
        assert 0 == node.journal.report().stray_requests
        assert client.headers["x-cortex-decision"] in ("loaded", "swapped")

    def test_requests_wait_for_the_poll(self) -> None:
        """No request goes to the node before the poll, and none is refused meanwhile."""
        fleet, node = self.alone()
        node.faults.hang_routes = {LISTING}
        node.restart()
        client = fleet.chat(model=WARM)
        fleet.advance(1)
        assert client.status is None
        assert 0 == len(node.journal.requests("/v1/chat/completions"))

        node.faults.hang_routes = set()
        fleet.advance(1)
        fleet.poll()
        fleet.flush()
        assert 200 == client.status

    def test_a_node_that_closes_every_connection(self) -> None:
        """Polls do not chase each other: those that it closes cause a few more, not one each."""
        fleet, node = self.alone()
        node.faults.fatal_words, node.faults.fatal_down_seconds = b"die", 60.0
        before = fleet.network.connections_made
        fleet.chat("die", model=WARM)
        fleet.advance(1)
        assert fleet.network.connections_made - before <= 2 + MAX_FAILURES

    def test_a_stream_that_breaks_is_a_sign_too(self) -> None:
        """The node is polled although the connection was in use."""
        fleet, node = self.alone()
        fleet.close_idle()
        node.faults.reset_after_chunks = 0
        before = self.polls(node)

        fleet.stream(model=WARM)
        fleet.flush()

        assert before + 1 == self.polls(node)

    def test_our_own_closing_is_no_sign(self) -> None:
        """Neither a client that leaves nor our closing of idle connections causes a poll."""
        fleet, node = self.alone()
        node.faults.holds_answers = lambda: True
        client = fleet.stream(model=WARM)
        fleet.flush()
        before = self.polls(node)

        fleet.leave(client)
        fleet.close_idle()
        fleet.flush()

        assert before == self.polls(node)

    def test_idle_connections_count_once_in_an_interval(self) -> None:
        """A server that closes each idle connection soon is not polled without end."""
        fleet, node = self.alone()
        before = self.polls(node)
        site = node._site
        assert site is not None
        for _ in range(20):
            site.abort_all()
            fleet.flush()

        assert before + 1 == self.polls(node)

    def test_a_node_that_stays_away_goes_down(self) -> None:
        """The failed poll counts as any other, and the request waits until the node is down."""
        fleet, node = self.alone()
        Deferred.fromCoroutine(node.close())
        client = fleet.chat(model=WARM)
        fleet.flush()
        assert client.status is None
        fleet.poll()
        fleet.flush()
        assert 503 == client.status
