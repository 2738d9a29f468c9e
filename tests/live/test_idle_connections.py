"""A server ends an idle connection just as a request goes out on it: on real sockets."""

import sys
from typing import Any, ClassVar

import pytest
from treq import content
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from cortexd.upstream import connections
from cortexd.upstream.connection import Connection
from cortexd.upstream.connections import make_http_client

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
END = b"\r\n\r\n{}"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what is read")


class Server(Protocol):
    """Answers each request whose body is two bytes; ``heard`` has the requests of all of them."""

    heard: ClassVar[list[int]] = []
    dies = False

    def dataReceived(self, data: bytes) -> None:
        """Count a whole request."""
        if data.endswith(END):
            self.heard.append(1)
            if self.dies:
                self.close()
            else:
                self.transport.write(ANSWER)  # type: ignore[union-attr] # connected

    def close(self) -> None:
        """Close the socket in this turn."""
        transport: Any = self.transport
        transport.connectionLost(Failure(ConnectionDone()))


class Servers(Factory):
    """Makes servers, newest last in ``made``."""

    noisy = False

    def __init__(self) -> None:
        self.made: list[Server] = []

    def buildProtocol(self, addr: object) -> Server:
        """Make one."""
        self.made.append(Server())
        return self.made[-1]


async def requests_read(monkeypatch: Any, moment: str) -> tuple[int, int]:
    """Let the second of two POSTs meet the end of its connection at this moment.

    Return how many requests the servers read, and how many connections there were.
    """
    from twisted.internet import reactor

    given: Any = reactor
    monkeypatch.setattr(connections, "LONG_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(Server, "heard", [])
    servers = Servers()
    port = given.listenTCP(0, servers, interface="127.0.0.1")
    http, pool = make_http_client(given, 5.0)
    url = f"http://127.0.0.1:{port.getHost().port}/x"
    was_ended = Connection.was_ended

    async def post() -> bytes:
        body: bytes = await content(await http.post(url, data=b"{}", unbuffered=True))
        return body

    def end(connection: Connection) -> bool:
        if moment == "before":
            servers.made[0].close()
        seen = was_ended(connection)
        if moment == "under way":
            servers.made[0].close()
        return seen

    try:
        assert b"{}" == await post()
        monkeypatch.setattr(Connection, "was_ended", end)
        if moment == "after":
            servers.made[0].dies = True
            with pytest.raises(ResponseNeverReceived):
                await post()
        else:
            assert b"{}" == await post()
    finally:
        await pool.closeCachedConnections()
        await port.stopListening()
    return len(Server.heard), len(servers.made)


async def test_before(monkeypatch: Any) -> None:
    """A connection whose end has arrived is not used: the request goes out on a fresh one."""
    assert (2, 2) == await requests_read(monkeypatch, "before")


async def test_under_way(monkeypatch: Any) -> None:
    """A request that came too late for its connection was read by nobody, and goes out again."""
    assert (2, 2) == await requests_read(monkeypatch, "under way")


async def test_after(monkeypatch: Any) -> None:
    """A request that was read before its connection ended is not read twice."""
    assert (2, 1) == await requests_read(monkeypatch, "after")
