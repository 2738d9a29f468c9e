"""Passes what clients send on open connections to the process that has taken over from this one.

A client that keeps its connection sends its next request there, at any time. If this process closed
an idle connection just then, the client would see its request fail. So the bytes of each request
that begins after the handover go on to our own address, where the successor listens, and the
answers come back, unread by us. Before them goes a PROXY header with the client's address: to the
successor we would otherwise be the client, and might be a trusted proxy. Where clients speak TLS,
the bytes that we have decrypted go over TLS once more, because the successor expects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from cortexd.admission.proxy_header import write_proxy_header
from cortexd.logs import get_logger

log = get_logger("cortexd.http")


class PassingOn:
    """Passes connections on to the listener at ``endpoint``.

    ``token`` makes the successor believe the header; without one it reads no header. ``open``
    counts the connections over which bytes go; ``emptied`` is called when there are no more.
    ``is_tls`` says that the listener speaks TLS.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, token: bytes = b"", *, is_tls: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._is_tls = is_tls
        self._passed: dict[Any, _Passed] = {}
        self._emptied: Callable[[], None] | None = None

    @property
    def open(self) -> int:
        """How many connections have sent a request that was passed on."""
        return len(self._passed)

    def begin(self, channel: Any) -> None:
        """Pass on what comes on a client's idle ``channel`` from now on."""
        channel.dataReceived = lambda data: self._received(channel, data)

    def _received(self, channel: Any, data: bytes) -> None:
        passed = self._passed.get(channel)
        if passed is None:
            passed = self._passed[channel] = _Passed(channel)
            header = b""
            if self._token:
                port = getattr(channel.getPeer(), "port", 0)
                header = write_proxy_header(channel.peer_host, port, self._token)
            factory: Any = Factory.forProtocol(lambda: passed)
            if self._is_tls:
                factory = _OverTLS(factory, header, channel.site.reactor)
            elif header:
                passed.send(header)
            connecting = self._endpoint.connect(factory)
            connecting.addErrback(self._failed, channel)
        passed.send(data)

    def _failed(self, failure: Failure, channel: Any) -> None:
        log.warning("successor_unreachable", reason=failure.getErrorMessage())
        channel.transport.abortConnection()

    def client_left(self, channel: Any) -> None:
        """Close the connection to the successor of a client that has left."""
        passed = self._passed.pop(channel, None)
        if passed is not None:
            passed.close()
        if not self._passed and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied()

    def wait(self) -> Deferred[None]:
        """Return when no connection is passed on any more."""
        waiting: Deferred[None] = Deferred()
        if self._passed:
            self._emptied = lambda: waiting.callback(None)
        else:
            waiting.callback(None)
        return waiting


class _TLSConnection(BufferingTLSTransport):
    """A connection on which a header comes before TLS."""

    factory: _OverTLS

    def makeConnection(self, transport: Any) -> None:  # noqa: N802 - Twisted calls it by this name
        """Write the header, then begin TLS."""
        if self.factory.header:
            transport.write(self.factory.header)
        super().makeConnection(transport)


@implementer(IOpenSSLClientConnectionCreator)
class _OverTLS(TLSMemoryBIOFactory):
    """Speaks TLS to our own listener, after ``header``.

    The listener's certificate is our own, so that there is no name to check.
    """

    protocol: Any = _TLSConnection

    def __init__(self, factory: Factory, header: bytes, reactor: Any) -> None:
        super().__init__(self, True, factory, reactor)
        self.header = header

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Return the TLS of the connection."""
        return SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)


class _Passed(Protocol):
    """The connection to the successor for one client; each side sets the pace of the other."""

    transport: Any

    def __init__(self, channel: Any) -> None:
        self._client = channel.transport
        self._waiting: list[bytes] = []
        self._is_closed = False

    def send(self, data: bytes) -> None:
        """Send bytes of the client."""
        if self.transport is None:
            self._waiting.append(data)
            self._client.pauseProducing()
        else:
            self.transport.write(data)

    def close(self) -> None:
        """Close; the client has left."""
        self._is_closed = True
        if self.transport is not None:
            self.transport.abortConnection()

    def connectionMade(self) -> None:
        """Send what has come meanwhile."""
        if self._is_closed:
            self.transport.abortConnection()
            return
        self._client.unregisterProducer()  # HTTPChannel's, whose parser gets nothing any more
        self._client.registerProducer(self.transport, True)
        self.transport.registerProducer(self._client, True)
        for data in self._waiting:
            self.transport.write(data)
        self._waiting.clear()
        self._client.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes of the successor on to the client."""
        self._client.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the client's connection as the successor closed ours."""
        self.transport = None
        if not self._is_closed:
            self._client.unregisterProducer()
            self._client.loseConnection()
