"""How much a model will be requested soon: the price of losing it.

Four counts, each of which decays by half after a time of its own:

- requests, over ``MINUTES`` and over ``HALF_HOUR``: whoever asked a minute ago will ask again;
- visits (``cortexd.fleet.heat.visits``), over the last hundreds and the last thousands of visits to
  all models: which models are popular, however quiet the night was.

The heat is their weighted sum. Weights and times were fitted to recorded traces; they are flat:
other ones within a factor of two give nearly as few loads (docs/scheduling.md).

Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from math import exp, log
from typing import Final, NamedTuple

from cortexd.fleet.heat.visits import Visits

MINUTES: Final = 100.0
HALF_HOUR: Final = 1500.0
"""After so many seconds a request counts half, in the one count and in the other."""

FEW_VISITS: Final = 200.0
MANY_VISITS: Final = 1000.0
"""After so many visits to any model a visit counts half."""

LASTING_WEIGHT: Final = 0.1
FEW_WEIGHT: Final = 0.1
MANY_WEIGHT: Final = 0.1
"""What the counts weigh beside requests of the last minutes, which weigh 1."""

DELAYED: Final = 0.7
"""What a request counts that an eviction delays, beside one that waits already: it comes amid the
two loads that the eviction costs, so that it waits for little more than the half of them."""

SILENCES: Final = 1.3
"""After a silence no more than one request is expected in so many times as long: who asks in turn,
and has just gone over to another model, does not come back at once."""

_MINUTES = -log(2) / MINUTES
_HALF_HOUR = -log(2) / HALF_HOUR
_FEW = -log(2) / FEW_VISITS
_MANY = -log(2) / MANY_VISITS


class HeatRecord(NamedTuple):
    """The four counts of a model as of ``asked_at`` and ``visited_at``, as they outlive a process.

    ``asked_at`` is the time of the last request, ``visited_at`` the number of the last visit among
    those to all models.
    """

    asked_at: float
    recent: float
    lasting: float
    few: float
    many: float
    visited_at: int


class Heat:
    """The four counts of one model, as of its last request and its last visit."""

    __slots__ = ("_asked_at", "_few", "_lasting", "_many", "_recent", "_visited_at", "_visits")

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._recent = self._lasting = self._few = self._many = 0.0
        self._asked_at = 0.0
        self._visited_at = 0

    def note(self, now: float, *, is_visit: bool) -> None:
        """Note a request, which may be a visit: the last one that ``visits`` has counted."""
        silent = now - self._asked_at
        self._recent = 1.0 + self._recent * exp(_MINUTES * silent)
        self._lasting = 1.0 + self._lasting * exp(_HALF_HOUR * silent)
        self._asked_at = now
        if is_visit:
            since = self._visits.count - self._visited_at
            self._few = 1.0 + self._few * exp(_FEW * since)
            self._many = 1.0 + self._many * exp(_MANY * since)
            self._visited_at = self._visits.count

    @property
    def record(self) -> HeatRecord:
        """What ``restore`` needs to go on from here."""
        counts = self._recent, self._lasting, self._few, self._many
        return HeatRecord(self._asked_at, *counts, self._visited_at)

    def restore(self, record: HeatRecord) -> None:
        """Go on from what an earlier process has counted; ``visits`` then counts as far, too."""
        self._asked_at, *counts, self._visited_at = record
        self._recent, self._lasting, self._few, self._many = counts
        self._visits.count = max(self._visits.count, record.visited_at)

    def at(self, now: float) -> float:
        """Return the heat; 0 for a model that was never requested."""
        if not self._recent:
            return 0.0
        silent, since = now - self._asked_at, self._visits.count - self._visited_at
        return (
            self._recent * exp(_MINUTES * silent)
            + LASTING_WEIGHT * self._lasting * exp(_HALF_HOUR * silent)
            + FEW_WEIGHT * self._few * exp(_FEW * since)
            + MANY_WEIGHT * self._many * exp(_MANY * since)
        )

    def per_second(self, now: float) -> float:
        """Return how many requests a second to expect, each counted as ``DELAYED``.

        It is the mean of the paces of the last minutes and of the last half hour: the one follows a
        burst, the other does not forget a model that pauses. A silence lowers it.
        """
        silent = now - self._asked_at
        recent = -_MINUTES * self._recent * exp(_MINUTES * silent)
        lasting = -_HALF_HOUR * self._lasting * exp(_HALF_HOUR * silent)
        pace = (recent + lasting) / 2
        if pace * silent > SILENCES:
            pace = SILENCES / silent
        return DELAYED * pace
