"""The first poll of every node, for which early requests wait.

Until it has ended, we do not know which models exist, and on which nodes they are loaded. A request
that was refused then, or loaded a model that another node has, would fail only because we started.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from cortexd.fleet.fleet import Fleet


class FirstPolls:
    """Lets requests wait until the first poll of every node of ``fleet`` has ended.

    A request waits for ``patience`` seconds at most; a reload may replace them.
    """

    def __init__(self, fleet: Fleet, clock: IReactorTime, patience: float) -> None:
        self._fleet = fleet
        self._clock = clock
        self.patience = patience
        self._waiting: set[Deferred[None]] = set()
        self.have_ended = False

    def note(self) -> None:
        """Note that a poll has ended; let the requests go on if it was the last of the first."""
        if self.have_ended or self._fleet.not_polled():
            return
        self.have_ended = True
        for waiting in list(self._waiting):
            self._let_go(waiting)

    async def known(self, name: str | None = None) -> None:
        """Return once the names of models can be resolved. Cancelling ends the wait.

        With the ``name`` of a model that can answer now, return at once.
        """
        if self.have_ended:
            return
        replicas = self._fleet.replicas(name) if name is not None else ()
        if any(replica.answers and replica.has_slot for replica in replicas):
            return
        waiting: Deferred[None] = Deferred(self._waiting.discard)
        self._waiting.add(waiting)
        timer: Any = self._clock.callLater(self.patience, self._let_go, waiting)
        try:
            await waiting
        finally:
            if timer.active():
                timer.cancel()

    def _let_go(self, waiting: Deferred[None]) -> None:
        if waiting in self._waiting:
            self._waiting.discard(waiting)
            waiting.callback(None)
