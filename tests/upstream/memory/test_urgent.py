from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from cortexd.upstream.urgent import MOST_URGENT, UrgentPolls


class UrgentPollsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.polls: dict[str, list[Deferred[None]]] = {}
        self.begun: list[str] = []
        self.urgent = UrgentPolls(self.poll)

    def poll(self, node: str) -> Deferred[None]:
        self.begun.append(node)
        poll: Deferred[None] = Deferred()
        self.polls.setdefault(node, []).append(poll)
        return poll

    def end(self, node: str) -> None:
        self.polls[node].pop(0).callback(None)

    def test_one_node(self) -> None:
        """A poll that is wanted during the node's poll follows it, once."""
        for _ in range(3):
            self.urgent.want("a")
        assert ["a"] == self.begun
        self.end("a")
        assert ["a", "a"] == self.begun
        self.end("a")
        assert ["a", "a"] == self.begun

    def test_many_nodes(self) -> None:
        """Few are polled at the same time, and all of them in their order."""
        nodes = [f"n{number}" for number in range(3 * MOST_URGENT)]
        for node in nodes:
            self.urgent.want(node)
        assert nodes[:MOST_URGENT] == self.begun
        for node in nodes:
            self.end(node)
        assert nodes == self.begun

    def test_clear(self) -> None:
        """What was wanted before the end is not begun after it."""
        nodes = [f"n{number}" for number in range(MOST_URGENT + 1)]
        for node in nodes:
            self.urgent.want(node)
        self.urgent.want("n0")
        self.urgent.clear()
        self.end("n0")
        assert nodes[:-1] == self.begun
