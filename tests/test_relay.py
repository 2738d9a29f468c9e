"""How an answer gets from a node to a client."""

from tests.fleets import FleetTestCase


class StreamTests(FleetTestCase):
    def test_one(self) -> None:
        """One."""
        fleet = self.fleet(self.node(token_seconds=1))
        client = fleet.stream()
        self.assertEqual("You", client.content())
        fleet.advance(1)
        self.assertEqual("You said:", client.content())
        fleet.advance(1)
        self.assertEqual("You said: hi", client.content())
        self.assertEqual("clean", client.ended)
