"""How often clients request a model: the times of its last few requests, and what follows."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from cortexd.fleet.heat.heat import Heat, HeatRecord
from cortexd.fleet.heat.visits import Visits

REMEMBERED: Final = 4
"""How many request times are kept: enough for a pace that adapts within minutes."""

REGULAR: Final = 3
"""Which request, counted back from the last, marks the begin of regular use."""

LONG_AGO: Final = float("-inf")


class PastDemand(NamedTuple):
    """What an earlier process has seen: the ``times`` of the last requests, and the heat if known.

    The times are in seconds, oldest first.
    """

    times: tuple[float, ...] = ()
    heat: HeatRecord | None = None

    def shifted(self, seconds: float, latest: float = float("inf")) -> PastDemand:
        """Return the same by a clock that shows so much more, with no time after ``latest``."""
        times = tuple(min(at + seconds, latest) for at in self.times)
        heat = self.heat
        if heat is not None:
            heat = heat._replace(asked_at=min(heat.asked_at + seconds, latest))
        return PastDemand(times, heat)


class Demand:
    """The last requests for one model, whichever node answered them; times in seconds.

    ``regular_since`` is the time of the third-last request, LONG_AGO if there were fewer. With this
    measure a single request for a rare model does not make it look busier than a model that is
    requested all the time (the LRU-K rule of O'Neil and others, 1993).
    """

    __slots__ = ("_asked_at", "_visits", "heat", "regular_since")

    def __init__(self, visits: Visits | None = None) -> None:
        self._asked_at: deque[float] = deque(maxlen=REMEMBERED)
        self.regular_since = LONG_AGO
        self._visits = visits or Visits()
        self.heat = Heat(self._visits)

    @property
    def times(self) -> tuple[float, ...]:
        """The times of the last requests, oldest first."""
        return tuple(self._asked_at)

    @property
    def past(self) -> PastDemand:
        """What ``restore`` needs to go on from here."""
        return PastDemand(self.times, self.heat.record)

    def restore(self, past: PastDemand, model: str = "") -> None:
        """Go on from what an earlier process has seen; without its heat, the times make one."""
        if past.heat is None:
            for at in past.times:
                self.note(at, model)
        else:
            for at in past.times:
                self._append(at)
            self.heat.restore(past.heat)

    def note(self, now: float, model: str = "", session: str = "", requester: str = "") -> None:
        """Note a request of a session for the model; ``requester`` has named the session."""
        is_visit = self._visits.note(model, session, now, requester)
        self.heat.note(now, is_visit=is_visit)
        self._append(now)

    def _append(self, at: float) -> None:
        self._asked_at.append(at)
        if len(self._asked_at) >= REGULAR:
            self.regular_since = self._asked_at[-REGULAR]

    def per_second(self, now: float) -> float:
        """Return the pace of the last requests up to ``now``; 0 for a single request.

        A silence longer than the usual gap lowers the pace, so that a burst which is over does not
        count for long.
        """
        if len(self._asked_at) < 2:
            return 0.0
        gaps = len(self._asked_at) - 1
        whole, silent = now - self._asked_at[0], now - self._asked_at[-1]
        return 1.0 / max(whole / gaps, silent, 1e-6)
