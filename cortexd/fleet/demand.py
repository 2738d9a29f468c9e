"""How much a model is asked for: the times of its last few requests, and what they say."""

from __future__ import annotations

from collections import deque
from typing import Final

REMEMBERED: Final = 4
"""Requests whose times are kept: enough for a pace that follows within minutes."""

REGULAR: Final = 3
"""The request, counted from the last, whose time says since when a model is in regular use."""

LONG_AGO: Final = float("-inf")


class Demand:
    """The last requests for one model, wherever they were answered; times in seconds.

    ``regular_since`` is when the third-last request came, LONG_AGO where there were fewer. By this
    time one request for a model that nobody else wants does not make it look busier than one that
    is asked for all the time (the LRU-K rule of O'Neil and others, 1993).
    """

    __slots__ = ("_asked_at", "regular_since")

    def __init__(self) -> None:
        self._asked_at: deque[float] = deque(maxlen=REMEMBERED)
        self.regular_since = LONG_AGO

    def note(self, now: float) -> None:
        """Note a request."""
        self._asked_at.append(now)
        if len(self._asked_at) >= REGULAR:
            self.regular_since = self._asked_at[-REGULAR]

    def per_second(self, now: float) -> float:
        """Return the pace of the last requests up to ``now``; 0 for a single one.

        A silence longer than the pace lets expect is a slower pace: a burst that is over does not
        count for long.
        """
        if len(self._asked_at) < 2:
            return 0.0
        gaps = len(self._asked_at) - 1
        whole, silent = now - self._asked_at[0], now - self._asked_at[-1]
        return 1.0 / max(whole / gaps, silent, 1e-6)
