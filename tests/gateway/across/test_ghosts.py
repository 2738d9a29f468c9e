"""Clients that leave while a node still reads their prompts, before two copies of a model."""

from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet


class GhostTests(FleetTestCase):
    def before(self, names: str) -> InMemoryFleet:
        """Return a gateway before nodes of these names, which read a prompt for four seconds."""
        return self.fleet(*[self.node(each, prompt_seconds=4, token_seconds=1) for each in names])

    def ghosts(self, fleet: InMemoryFleet) -> dict[str, int]:
        return {each.node.name: each.ghosts for each in fleet.fleet.replicas(MODEL)}

    def leave(self, fleet: InMemoryFleet, seconds: float) -> str:
        """Let a client leave so long after its request, and return the node that it was at."""
        client = fleet.stream()
        (lease,) = fleet.fleet.leases
        fleet.advance(seconds)
        fleet.leave(client)
        return lease.node

    def test_before_the_first_token(self) -> None:
        """The engine that goes on reading counts as busy, and the next request goes elsewhere."""
        fleet = self.before("ab")
        node = self.leave(fleet, 1)
        other = "b" if node == "a" else "a"

        assert {node: 1, other: 0} == self.ghosts(fleet)
        fleet.stream()
        assert [other] == [lease.node for lease in fleet.fleet.leases]

    def test_after_the_first_token(self) -> None:
        """An engine that has begun to answer notices by itself, and is free at once."""
        fleet = self.before("ab")
        self.leave(fleet, 5)

        assert {"a": 0, "b": 0} == self.ghosts(fleet)

    def test_until_it_answers_again(self) -> None:
        """The first token of a later request shows that the prompt before it has been read."""
        fleet = self.before("a")
        self.leave(fleet, 1)
        fleet.stream()

        assert {"a": 1} == self.ghosts(fleet)
        fleet.advance(5)
        assert {"a": 0} == self.ghosts(fleet)
