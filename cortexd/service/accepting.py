"""Accepts clients at a pace: some per turn of the reactor, and none while no file can be opened."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.internet.tcp import Port

from cortexd.logs import get_logger
from cortexd.service.stages import Pace

PAUSE_SECONDS: Final = 0.25
"""How long a listener rests after it could accept no client."""

MOST_FILES: Final = 1_048_576
"""The limit of open files where the system sets none (fs.nr_open)."""

log = get_logger("cortexd.services")


def raise_open_files() -> int:
    """Raise this process's limit of open files as far as it may, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("open_files_not_raised", open_files=soft, reason=str(error))
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def pace(reactor: IReactorTime, batch: Callable[[], int]) -> Pace:
    """Return a function that paces a port by ``Accepting``, and returns the one that ends it."""

    def paced(port: IListeningPort) -> Callable[[], None]:
        if isinstance(port, Port):
            return Accepting(port, reactor, batch).stop
        return lambda: None

    return paced


class Accepting:
    """Lets a listening ``port`` of Twisted accept at most ``batch()`` clients in each turn.

    Twisted adapts the number by itself, up to all that wait. But a client that makes room for a new
    one closes only in the next turn, and until then both need an open file.

    A port that could accept no client, because the process or the machine has no file left, rests
    for PAUSE_SECONDS. It would otherwise be called, and would log, in every turn.
    """

    def __init__(self, port: Port, reactor: IReactorTime, batch: Callable[[], int]) -> None:
        self._port = cast("Any", port)
        self._reactor = reactor
        self._batch = batch
        self._accept = port.doRead
        self._rest: IDelayedCall | None = None
        self._is_failing = False
        self._port.doRead = self.accept

    def accept(self) -> None:
        """Accept clients; the reactor calls it, as the port's ``doRead``, when some wait."""
        port = self._port
        port.numberAccepts = self._batch()
        before = port.sessionno
        self._accept()
        if port.sessionno != before:
            self._is_failing = False
            return
        if not self._is_failing:
            self._is_failing = True
            log.warning("nothing_accepted", pause=PAUSE_SECONDS)
        port.stopReading()
        self._rest = self._reactor.callLater(PAUSE_SECONDS, port.startReading)

    def stop(self) -> None:
        """End the rest: the port closes."""
        if self._rest is not None and self._rest.active():
            self._rest.cancel()
