from cortexd.errors import Overloaded
from tests.support.fleets import MODEL
from tests.support.relays import DONE, RelayTestCase, chunk


class ReprTests(RelayTestCase):
    def test_it_shows_where_an_attempt_is(self) -> None:
        """In one line: model, node, state, and the seconds since the request came."""
        fleet, node = self.alone()
        client = fleet.stream()
        (attempt,) = fleet.relay._running
        seen = [repr(attempt)]
        fleet.advance(1.5)
        node.stream(chunk("x"))
        fleet.flush()
        seen.append(repr(attempt))
        client.open_transport.pauseProducing()
        node.stream(*(chunk("x" * 40_000) for _ in range(20)))
        fleet.flush()
        seen.append(repr(attempt))
        client.open_transport.resumeProducing()
        node.stream(chunk("", "stop"))
        fleet.flush()
        seen.append(repr(attempt))
        node.stream(DONE, end=True)
        fleet.flush()

        states = ("asked, 0.0 s", "streaming, 1.5 s", "paused, 1.5 s", "finished, 1.5 s")
        assert [f"<Attempt {MODEL} on bad: {state}>" for state in states] == seen
        assert "clean" == client.ended

    def test_it_shows_that_an_attempt_failed(self) -> None:
        """Also where the node had not answered yet."""
        fleet, _ = self.alone()
        fleet.chat()
        (attempt,) = fleet.relay._running
        fleet.relay.stop(Overloaded("we stop"))
        assert f"<Attempt {MODEL} on bad: failed, 0.0 s>" == repr(attempt)
