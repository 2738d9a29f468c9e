"""When an engine that has ended is started again: pure."""

from __future__ import annotations

from collections import deque
from typing import Final

FIRST_SECONDS: Final = 0.2
"""The pause before the first start after a process that had settled."""

LONGEST_SECONDS: Final = 60.0
"""The longest pause between two starts."""

SETTLED_SECONDS: Final = 60.0
"""A process that has run so long did not fail at its start: the pauses begin anew."""


class Starts:
    """The starts of one engine: each further one waits longer, and too many are given up.

    ``limit`` starts within ``interval`` seconds are too many. All times are in seconds of one
    clock that does not go back.
    """

    def __init__(self, limit: int, interval: float) -> None:
        self._limit = limit
        self._interval = interval
        self._begun: deque[float] = deque(maxlen=limit)
        self._short_runs = 0

    def began(self, now: float) -> None:
        """Note a start."""
        self._begun.append(now)

    def ended(self, now: float) -> float | None:
        """Note the end of the process; return the pause in seconds, ``None`` to give up."""
        if self._begun and now - self._begun[-1] >= SETTLED_SECONDS:
            self._short_runs = 0
        if len(self._begun) == self._limit and now - self._begun[0] < self._interval:
            return None
        pause = FIRST_SECONDS if not self._short_runs else 2.0 ** min(self._short_runs - 1, 10)
        self._short_runs += 1
        return min(pause, LONGEST_SECONDS)

    def forget(self) -> None:
        """Begin anew, because an operator ordered a start."""
        self._begun.clear()
        self._short_runs = 0
