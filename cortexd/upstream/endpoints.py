"""Where connections to nodes go: endpoints by scheme, host and port, and TLS over them."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IHostnameResolver, IStreamClientEndpoint

from cortexd.config.node_tls import NO_FILES, NodeTLS
from cortexd.upstream.names import Names
from cortexd.upstream.tls import Creator, TLSEndpoint


class Endpoints:
    """Makes endpoints on ``reactor``; a connection may take ``connect_timeout`` seconds.

    A TLS handshake may take as long again. ``files`` are those of the nodes that these endpoints
    lead to. A reload may replace the time, for the endpoints that are made from then on.
    """

    def __init__(self, reactor: Any, connect_timeout: float, files: NodeTLS = NO_FILES) -> None:
        self._reactor = reactor
        self.connect_timeout = connect_timeout
        self._files = files
        self._names: Names | None = None

    def make(self, scheme: bytes, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint of a node's host and port, inside TLS for https."""
        endpoint = self._make_plain(host, port)
        if scheme == b"https":
            creator = Creator(host, self._files)
            endpoint = TLSEndpoint(endpoint, creator, self._reactor, self.connect_timeout)
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
