"""How much waiting one more copy of a model would have spared, or has: pure.

Copy ``m`` is of use while more requests run and wait than the copies before it have slots: as many
as are left then, and at most those that it has slots for. Each of them would otherwise wait. So the
seconds that the copy spares are the sum of these requests over time. The same sum, by the same
requests, is kept for a copy that is not there yet and for one that is: where the demand stays as it
is, a copy that was worth its load remains worth it.

The sum decays with ``HORIZON_SECONDS``. With a demand that stays it is what the copy will spare in
a time as long.
"""

from __future__ import annotations

from math import exp
from typing import Final

HORIZON_SECONDS: Final = 600.0
"""After so many seconds, seconds of waiting count only 1/e as much."""

LONGEST_STEP_SECONDS: Final = 5.0
"""For so long a look at the queue stands for the time before it, whatever the time was."""

MOST_COPIES: Final = 16
"""For how many copies of a model the seconds are counted."""

UP: Final = 3.0
DOWN: Final = 1.0
"""How many times its price a copy must spare to be loaded, and to be kept."""


class Spared:
    """The seconds of waiting that the copies of one model spare; the first copy does not count."""

    __slots__ = ("_at", "_seconds")

    def __init__(self, now: float) -> None:
        self._at = now
        self._seconds: dict[int, float] = {}

    def note(self, demand: int, capacity: int, now: float) -> None:
        """Note that ``demand`` requests run and wait for a model with so many slots a copy."""
        passed = now - self._at
        if passed <= 0:
            return
        kept = exp(-passed / HORIZON_SECONDS)
        step = min(passed, LONGEST_STEP_SECONDS)
        self._at = now
        top = min(MOST_COPIES, max(-(-demand // capacity), *self._seconds, 1))
        for copy in range(2, top + 1):
            used = min(max(demand - (copy - 1) * capacity, 0), capacity)
            seconds = self._seconds.get(copy, 0.0) * kept + used * step
            self._seconds[copy] = seconds

    def by_copy(self, copy: int) -> float:
        """Return the seconds that copy number ``copy`` of the model spares; 2 is the second one."""
        return self._seconds.get(copy, 0.0)

    @property
    def is_nothing(self) -> bool:
        """Whether no copy has spared as much as a second lately."""
        return all(seconds < 1.0 for seconds in self._seconds.values())


def pays(spared: float, price: float, *, is_loaded: bool) -> bool:
    """Whether a copy is worth its price, both in seconds.

    A copy that is not loaded yet must spare three times as much as one that is, so that a demand
    that changes a little does not load and evict copies in turn.
    """
    return spared >= (DOWN if is_loaded else UP) * price
