from twisted.internet.protocol import Factory, Protocol

from cortexd.agent.asking import MAX_ANSWER_BYTES, EngineClient, Unanswered
from cortexd.engines.engine import Ask
from tests.agent.machine import ENGINE, PORT, MachineTestCase

HEALTH = ENGINE.health()


class Raw(Protocol):
    """A server that answers each request with the same bytes, and then closes if it should."""

    answer = b""
    closes = True
    seen: list[bytes]

    def dataReceived(self, data: bytes) -> None:
        self.seen.append(data)
        assert self.transport is not None
        self.transport.write(self.answer)
        if self.closes:
            self.transport.loseConnection()


class EngineClientTests(MachineTestCase):
    def raw(self, answer: bytes, closes: bool = True) -> EngineClient:
        """Return a client of a server that answers with these bytes."""
        kind = type("R", (Raw,), {"answer": answer, "closes": closes, "seen": []})
        self.seen: list[bytes] = kind.seen  # type: ignore[attr-defined] # made above
        self.network.listenTCP(4321, Factory.forProtocol(kind))
        return EngineClient(self.network, "http://127.0.0.1:4321", {"Authorization": "Bearer k"})

    def failure(self, client: EngineClient, ask: Ask[object] = HEALTH) -> Unanswered:
        asking = client.ask(ask, 5.0)
        self.network.flush()
        error = self.failureResultOf(asking, Unanswered).value
        assert isinstance(error, Unanswered)
        return error

    def test_answers(self) -> None:
        """Health, models and hardware of a real engine are read, over one connection."""
        assert self.run_until_done(self.client.ask(HEALTH, 5.0)) is not None
        listing = self.run_until_done(self.client.ask(ENGINE.listing(), 5.0))
        hardware = self.run_until_done(self.client.ask(ENGINE.hardware(), 5.0))

        assert {"org/a"} == set(listing.replicas)
        assert listing.created is not None
        assert (1, 24_576) == (hardware.accelerators, hardware.system.memory_total_mb)
        assert 1 == self.network.connections_made

    def test_credentials(self) -> None:
        """Each request has the engine's API key."""
        client = self.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

        self.run_until_done(client.ask(HEALTH, 5.0))

        assert b"Authorization: Bearer k\r\n" in self.seen[0]

    def test_refused(self) -> None:
        """A port where nothing listens is told apart."""
        self.run_until_done(self.node.close())

        error = self.failure(self.client)

        assert error.is_refused
        assert "its port refuses connections" == str(error)

    def test_silent(self) -> None:
        """An engine that does not answer within the limit is silent; its connection is cut."""
        self.node.faults.hang = True
        asking = self.client.ask(HEALTH, 5.0)
        self.network.advance(4.9)
        self.assertNoResult(asking)
        self.network.advance(0.2)

        error = self.failureResultOf(asking, Unanswered).value
        assert isinstance(error, Unanswered)
        assert error.is_silent
        assert "GET /health: no answer within 5 s" == str(error)
        self.network.advance(1.0)
        assert [] == self.network.open_ends(PORT)

    def test_bad_answers(self) -> None:
        """Another status, no HTTP, an early end or an endless body are told in one line."""
        for port, (answer, closes, words) in enumerate(
            [
                (
                    b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
                    True,
                    "GET /health answered with status 503: no message",
                ),
                (b"\x00garbage\r\n\r\n", True, "GET /health: "),
                (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", True, "GET /health: "),
                (b"", True, "GET /health: "),
                (
                    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
                    False,
                    "GET /health: the answer is larger than 2 MiB",
                ),
            ]
        ):
            client = self.raw(answer, closes)
            error = self.failure(client)
            assert str(error).startswith(words), (port, str(error))
            assert str(error).isprintable()
            self.network.advance(1.0)
            assert [] == self.network.open_ends(4321)
            self.network.ports.pop(4321)

    def test_cancelled(self) -> None:
        """Whoever does not wait any longer cuts the connection."""
        self.node.faults.hang = True
        asking = self.client.ask(HEALTH, 5.0)
        self.network.flush()
        asking.addErrback(lambda _: None)
        asking.cancel()
        self.network.advance(1.0)

        assert [] == self.network.open_ends(PORT)
        assert [] == self.network.getDelayedCalls()
