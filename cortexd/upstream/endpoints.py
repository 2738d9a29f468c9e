"""Where connections to nodes go: endpoints by scheme, host and port, and TLS over them."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import (
    IHostnameResolver,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from cortexd.upstream.names import Names


class Endpoints:
    """Makes endpoints on ``reactor``; a connection may take ``connect_timeout`` seconds.

    A reload may replace that time, for the endpoints that are made from then on.
    """

    def __init__(self, reactor: Any, connect_timeout: float) -> None:
        self._reactor = reactor
        self.connect_timeout = connect_timeout
        self._names: Names | None = None

    def make(self, scheme: bytes, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint of a node's host and port, inside TLS for https."""
        endpoint = self._make_plain(host, port)
        if scheme == b"https":
            endpoint = _TLSEndpoint(endpoint, host, self._reactor)
        return endpoint

    def _make_plain(self, host: str, port: int) -> IStreamClientEndpoint:
        timeout = self.connect_timeout
        if isIPAddress(host):
            return TCP4ClientEndpoint(self._reactor, host, port, timeout)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port, timeout)
        if self._names is None:  # an address needs no resolver
            self._names = Names(self._reactor)
        return _NamedEndpoint(self._reactor, self._names, host, port, timeout)


class _NamedEndpoint(HostnameEndpoint):
    """The endpoint of a host name, which ``names`` resolves."""

    def __init__(
        self, reactor: Any, names: IHostnameResolver, host: str, port: int, timeout: float
    ) -> None:
        self._names = names
        # Twisted reports the refusal of a name's last address only after this delay.
        super().__init__(reactor, host, port, timeout, attemptDelay=0.02)
        # Twisted does not resolve names that are invalid in DNS, such as "gpu_1"; home networks and
        # containers use them.
        self._badHostname = False

    def _getNameResolverAndMaybeWarn(self, reactor: object) -> IHostnameResolver:  # noqa: N802 - Twisted calls it by this name
        return self._names


class _NodeTLS(BufferingTLSTransport):
    """TLS to a node that closes without waiting for the node.

    Twisted's transport waits for the node's close_notify. A node that does not read never sends it
    and continues an answer that has no reader; TLS does not require the wait (RFC 8446 6.1).
    """

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Send close_notify, and close the connection."""
        super().loseConnection()
        transport: Any = self.transport
        transport.loseConnection()


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = _NodeTLS


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """Adds TLS with ``host`` to the connections of another endpoint."""

    def __init__(self, endpoint: IStreamClientEndpoint, host: str, reactor: Any) -> None:
        self._endpoint = endpoint
        self._options = optionsForClientTLS(host)
        self._reactor = reactor

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - so IStreamClientEndpoint calls it
    ) -> Deferred[IProtocol]:
        """Connect; the Deferred fires with the protocol inside TLS."""
        factory = _TLSFactory(self._options, True, protocolFactory, self._reactor)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda wrapping: wrapping.wrappedProtocol)
