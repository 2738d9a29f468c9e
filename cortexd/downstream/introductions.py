"""Connections that begin with a PROXY header: their client is not the peer, but the one it names.

Twisted's own wrapper for such connections stays between connection and protocol, where it costs a
call for each chunk and takes the short ways from both; it trusts every peer, and waits for a header
as long as the peer likes. Here the header is read before the protocol has the connection. After
that the protocol has it alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any, Final, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from cortexd.admission.proxies import UNIX, Proxies, host_text
from cortexd.admission.proxy_header import (
    VERSION_2,
    ProxyHeader,
    ProxyHeaderError,
    read_proxy_header,
)
from cortexd.admission.recent import Recent
from cortexd.logs import get_logger

HEADER_SECONDS: Final = 5.0
"""How long a peer may take for its PROXY header; a proxy sends it at once."""

MOST_WAITING: Final = 1024
"""How many connections of a listener may wait for their headers, beside those that it serves."""

log = get_logger("cortexd.http")


class Door(Protocol):
    """The site behind the connections. ``tokens`` are those of daemons that have handed over."""

    proxies: Proxies
    tokens: Collection[bytes]
    reactor: Any


def host_of(address: object) -> str:
    """Return the host of an address of Twisted's, ``unix`` for one without."""
    return host_text(str(getattr(address, "host", UNIX)))


class Introductions:
    """The connections to one listener of ``site`` that begin with a PROXY header.

    ``are_by_proxies`` says that trusted proxies send one if the configuration says so; without it,
    only a daemon that has handed over does. ``waiting`` counts those whose header has not come.
    """

    def __init__(self, site: Door, *, are_by_proxies: bool) -> None:
        self.site = site
        self._are_by_proxies = are_by_proxies
        self._refused = Recent()
        self.waiting = 0

    def before(self, protocol: Any, address: IAddress | None) -> Any:
        """Return the protocol of a new connection from an address, which ends as ``protocol``."""
        is_due = self._are_by_proxies and self.site.proxies.introduces(host_of(address))
        if is_due or self.site.tokens:
            return _Introduction(self, protocol, is_due=is_due)
        return protocol

    def refuse(self, transport: Any, reason: str) -> None:
        """Close a connection, and say why in the log."""
        reactor: IReactorTime = self.site.reactor
        peer = host_of(transport.getPeer())
        if self._refused.note(peer, reactor.seconds()):
            log.warning("proxy_header_refused", peer=peer, reason=reason)
        transport.abortConnection()


class _Introduction(TwistedProtocol):
    """Reads the header of one connection, and gives the connection to ``protocol``.

    The header is due from a proxy. From this machine it may come while a daemon passes connections
    on, and then it has a token; other bytes there are a request.
    """

    transport: Any
    _timer: IDelayedCall | None = None

    def __init__(self, owner: Introductions, protocol: Any, *, is_due: bool) -> None:
        self._owner = owner
        self._protocol = protocol
        self._is_due = is_due
        self._received = b""

    def connectionMade(self) -> None:
        """Wait for the header, if one may come."""
        transport, owner = self.transport, self._owner
        if not (self._is_due or host_of(transport.getPeer()) == host_of(transport.getHost())):
            self._become(b"")
        elif owner.waiting >= MOST_WAITING:
            owner.refuse(transport, "too many connections wait for their PROXY headers")
        else:
            owner.waiting += 1
            self._timer = owner.site.reactor.callLater(HEADER_SECONDS, self._time_out)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Wait no longer."""
        self._stop_waiting()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes until the header is whole."""
        if self._timer is None:
            return  # refused
        self._received = received = self._received + data
        if not self._is_due and received[: len(VERSION_2)] != VERSION_2[: len(received)]:
            self._become(received)
            return
        try:
            header = read_proxy_header(received)
            if header is not None:
                self._take(header)
        except ProxyHeaderError as error:
            self._refuse(str(error))

    def _take(self, header: ProxyHeader) -> None:
        is_passed = header.has_token_of(self._owner.site.tokens)
        if not (is_passed or self._is_due):
            raise ProxyHeaderError("its PROXY header has no valid token")
        if header.source is not None:
            host, port = header.source
            kind = IPv6Address if ipaddress.ip_address(host).version == 6 else IPv4Address
            client = kind("TCP", host, port)
            self.transport.getPeer = lambda: client
        self._become(header.rest)

    def _become(self, rest: bytes) -> None:
        self._stop_waiting()
        transport, protocol = self.transport, self._protocol
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)

    def _time_out(self) -> None:
        if self._is_due:
            self._refuse(f"no whole PROXY header came within {HEADER_SECONDS:g} s")
        else:
            self._become(self._received)

    def _refuse(self, reason: str) -> None:
        self._stop_waiting()
        self._owner.refuse(self.transport, reason)

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            self._owner.waiting -= 1
            if timer.active():
                timer.cancel()
