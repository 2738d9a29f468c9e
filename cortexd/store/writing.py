"""A service that writes to the store from time to time, and what is left at its end."""

from __future__ import annotations

from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from cortexd.logs import get_logger

WRITE_SECONDS: Final = 10.0
"""Seconds between two writes: a daemon that is killed forgets the changes of this time."""

log = get_logger("cortexd.store")


class Writing(Service):
    """Calls ``write`` every WRITE_SECONDS on ``clock`` while it runs.

    If that ever fails, the log has the event ``failed`` once, and nothing is written until the end.
    """

    failed: str

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._loop: LoopingCall | None = None

    def write(self) -> int:
        """Write some of what has changed, in a few milliseconds; return how much, 0 for nothing."""
        raise NotImplementedError

    def write_all(self) -> None:
        """Write all that has changed."""
        while self.write():
            pass

    def startService(self) -> None:
        """Write changes from now on."""
        super().startService()
        self._loop = loop = LoopingCall(self.write)
        loop.clock = self._clock
        loop.start(WRITE_SECONDS, now=False).addErrback(
            lambda failure: log.error(self.failed, failure=failure)
        )

    def stopService(self) -> None:
        """Write what is left."""
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is not None and loop.running:
            loop.stop()
        self.write_all()
