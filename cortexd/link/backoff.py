"""How long an agent waits before it connects again: pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0

STEADY_SECONDS: Final = 60.0
"""A link that has lasted so long was a good one: the next attempt comes soon again."""


class Backoff:
    """The waits between attempts: twice as long each time, from FIRST_SECONDS to LONGEST_SECONDS.

    ``jitter`` returns a number from 0 to 1. A wait is between the half of its length and the whole,
    so that the agents of a gateway that restarts do not come back all at once.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._attempts = 0

    def next(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        return longest * (0.5 + self._jitter() / 2)

    def note_link(self, seconds: float) -> None:
        """Take the end of a link that has lasted for so many seconds."""
        if seconds >= STEADY_SECONDS:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the attempts before: the next wait is a short one."""
        self._attempts = 0
