"""Resolves the host names of nodes: beside each other, once at a time, and never in vain.

The reactor's own resolver has ten threads for everything. A name whose server does not answer takes
one of them for 5 to 30 s, so ten of these names would keep every other node from being reached.
Here lookups have threads of their own, a name has one lookup at a time, and a name that was
resolved before keeps its last addresses while a lookup is under way or has failed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from twisted.internet._resolver import GAIResolver
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorThreads,
    IResolutionReceiver,
)
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

FRESH_SECONDS: Final = 30.0
"""How long the addresses of a name serve without another lookup."""

MAX_LOOKUPS: Final = 256
"""Threads for lookups: more than most fleets have names that are dead at the same time."""

Address = IPv4Address | IPv6Address


@dataclass(slots=True)
class _Known:
    """What is known of a name: its last addresses, when they were found, and what waits."""

    addresses: tuple[Address, ...] = ()
    resolved_at: float = float("-inf")
    is_looked_up: bool = False
    waiting: list[_Waiting] = field(default_factory=list)


@implementer(IHostResolution)
@dataclass(slots=True, eq=False)
class _Waiting:
    """A connection that waits for the addresses of a name."""

    name: str
    receiver: Any
    port: int
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Wait no more; the lookup itself cannot be stopped."""
        self.is_cancelled = True

    def take(self, addresses: Sequence[Address]) -> None:
        """Pass addresses on to the connection; without any, its attempt fails."""
        if self.is_cancelled:
            return
        for address in addresses:
            self.receiver.addressResolved(_with_port(address, self.port))
        self.receiver.resolutionComplete()


@implementer(IHostnameResolver)
class Names:
    """Resolves names by ``resolver``, for connections over ``reactor``."""

    def __init__(self, reactor: Any, resolver: Any = None) -> None:
        self._reactor = reactor
        self._resolver = resolver or _resolver_of(reactor)
        self._known: dict[str, _Known] = {}

    def resolveHostName(  # noqa: N802 - so IHostnameResolver calls it
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803 - so IHostnameResolver calls it
        hostName: str,  # noqa: N803 - so IHostnameResolver calls it
        portNumber: int = 0,  # noqa: N803 - so IHostnameResolver calls it
        addressTypes: Sequence[type[IAddress]] | None = None,  # noqa: N803 - so IHostnameResolver calls it
        transportSemantics: str = "TCP",  # noqa: N803 - so IHostnameResolver calls it
    ) -> IHostResolution:
        """Resolve a name; see IHostnameResolver."""
        waiting = _Waiting(hostName, resolutionReceiver, portNumber)
        resolutionReceiver.resolutionBegan(waiting)
        known = self._known.setdefault(hostName, _Known())
        is_fresh = self._reactor.seconds() - known.resolved_at < FRESH_SECONDS
        addresses = known.addresses
        if not addresses:
            known.waiting.append(waiting)
        if not is_fresh and not known.is_looked_up:
            known.is_looked_up = True
            self._resolver.resolveHostName(
                _Lookup(self._reactor, known), hostName, 0, addressTypes, transportSemantics
            )
        if addresses:
            waiting.take(addresses)
        return waiting


@implementer(IResolutionReceiver)
class _Lookup:
    """Takes the addresses that one lookup finds."""

    def __init__(self, clock: Any, known: _Known) -> None:
        self._clock = clock
        self._known = known
        self._found: list[Address] = []

    def resolutionBegan(  # noqa: N802 - so IResolutionReceiver calls it
        self,
        resolutionInProgress: IHostResolution,  # noqa: N803 - so IResolutionReceiver calls it
    ) -> None:
        """Note nothing: a lookup cannot be stopped."""

    def addressResolved(self, address: IAddress) -> None:  # noqa: N802 - so IResolutionReceiver calls it
        """Note an address."""
        if isinstance(address, IPv4Address | IPv6Address):
            self._found.append(address)

    def resolutionComplete(self) -> None:  # noqa: N802 - so IResolutionReceiver calls it
        """Pass the addresses to all that wait. A lookup that found none changes nothing."""
        known = self._known
        known.is_looked_up = False
        if self._found:
            known.addresses, known.resolved_at = tuple(self._found), self._clock.seconds()
        waiting, known.waiting = known.waiting, []
        for each in waiting:
            each.take(known.addresses)


class _DaemonThread(threading.Thread):
    """A thread that does not hold the process back at its end: no lookup can be interrupted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, daemon=True)


class _Threads(ThreadPool):
    threadFactory = _DaemonThread  # noqa: N815 - Twisted reads it by this name


def _resolver_of(reactor: Any) -> Any:
    """Return a resolver with threads of its own, or that of a reactor without threads."""
    if not IReactorThreads.providedBy(reactor):
        return reactor.nameResolver
    pool = _Threads(0, MAX_LOOKUPS, "names")
    pool.start()
    return threaded_resolver(reactor, pool)


def threaded_resolver(
    reactor: Any, pool: Any, lookup: Callable[..., Any] = socket.getaddrinfo
) -> IHostnameResolver:
    """Return a resolver that calls ``lookup`` in threads of ``pool``.

    Twisted's resolver never ends a lookup that fails with anything but ``gaierror``. But one that
    gets no file descriptor fails with OSError, a name that no server can have with UnicodeError,
    and a process may be forbidden to start a thread. These end as if the name were unknown.
    """
    threads: Any = _Failing(pool)
    return GAIResolver(reactor, lambda: threads, partial(_addresses, lookup))


class _Failing:
    """Threads of ``pool``; where none can be started, the work fails as a lookup does."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def callInThreadWithCallback(  # noqa: N802 - Twisted calls it by this name
        self, on_result: Callable[[bool, Any], None], function: Callable[..., Any], *args: Any
    ) -> None:
        """Call a function in a thread."""
        try:
            self._pool.callInThreadWithCallback(on_result, function, *args)
        except RuntimeError as error:
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error


def _addresses(lookup: Callable[..., Any], *args: Any) -> Any:
    try:
        return lookup(*args)
    except (OSError, UnicodeError) as error:  # gaierror is an OSError too
        raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error


def _with_port(address: Address, port: int) -> Address:
    if isinstance(address, IPv6Address):
        return IPv6Address(address.type, address.host, port, address.flowInfo, address.scopeID)
    return IPv4Address(address.type, address.host, port)
