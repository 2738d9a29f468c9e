"""The log of a running daemon: its level, the lines that wait, and those that were dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd import logs

IDLE_SECONDS: Final = 1.0
"""How often the log is looked at while no line waits."""

WAITING_SECONDS: Final = 0.1
"""How often the lines that wait are tried again."""


class LogLines(Service):
    """Writes the lines of the log that could not be written at once, while it runs.

    ``level`` is the value of ``[gateway] log_level``. ``count`` is called with the number of lines
    that were dropped since its last call.
    """

    def __init__(self, clock: IReactorTime, level: str, count: Callable[[int], object]) -> None:
        self._clock = clock
        self._level = level
        self._count = count
        self._counted = 0
        self._timer: IDelayedCall | None = None

    def set_level(self, level: str) -> None:
        """Let another level hold from now on."""
        self._level = level
        if self.running:
            logs.set_level(level)

    def startService(self) -> None:
        """Set the level, and begin to try again."""
        super().startService()
        logs.set_level(self._level)
        self._counted = logs.dropped_lines()
        self._try_again()

    def stopService(self) -> None:
        """End; from now on each line tries again by itself, and at last the end of the process."""
        super().stopService()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _try_again(self) -> None:
        waits = logs.retry()
        dropped = logs.dropped_lines()
        if dropped > self._counted:
            self._count(dropped - self._counted)
            self._counted = dropped
        self._timer = self._clock.callLater(
            WAITING_SECONDS if waits else IDLE_SECONDS, self._try_again
        )
