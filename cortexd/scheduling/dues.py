"""When the queues of models are to be looked after next, so that a tick need not look at all. Pure.

A queue that has changed is looked at in the next tick, and then again once the first of its waits
has been long enough for a decision. One tick may stop before it has looked at all that are due: the
rest is left for the tick that goes on with it.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf


class Dues:
    """The times at which queues are due, by their models."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._times: list[tuple[float, str]] = []
        self._left: deque[str] = deque()
        self._until = -inf

    def begin(self, changed: dict[str, None], now: float) -> None:
        """Begin a tick: the changed queues are due, after those that the last tick left."""
        known = set(self._left)
        self._left.extend(model for model in changed if model not in known)
        self._until = now

    def add(self, model: str, at: float) -> None:
        """Let a queue be due at a time, or earlier if it is due earlier already."""
        if at < self._at.get(model, inf):
            self._at[model] = at
            heappush(self._times, (at, model))

    @property
    def goes_on(self) -> bool:
        """Whether a queue is still due that the last tick has not looked at."""
        return bool(self._left) or bool(self._times and self._times[0][0] <= self._until)

    def next(self) -> str | None:
        """Take the next queue that is due in this tick, ``None`` if there is none."""
        if self._left:
            return self._left.popleft()
        while self._times and self._times[0][0] <= self._until:
            at, model = heappop(self._times)
            if self._at.get(model) == at:
                del self._at[model]
                return model
        return None
