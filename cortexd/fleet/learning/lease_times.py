"""How long leases of a model usually last, and how long one that runs will still last.

Answers differ a hundredfold in length, so that a mean says little of them. Each model has a
histogram instead, of a fixed size, in which older leases fade. Within one bucket all durations are
equally likely, so that what is expected of a lease never comes nearer as time passes.

Pure, and in bounded memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate, pairwise
from typing import Final

EDGES: Final = (0.0, *(0.1 * 1.5**step for step in range(26)))
"""The edges of the buckets in seconds: up to 0.1 s, then each half as wide again, to 2,500 s."""

BUCKETS: Final = len(EDGES) - 1

FADE: Final = 1.02
"""How much heavier each lease is than the one before it: 50 leases make up most of the weight."""

HEAVIEST: Final = 1e12
"""At which weight of a lease all weights are made smaller."""

MOST_MODELS: Final = 10_000
"""How many models are remembered: the newest."""

ASSUMED_SECONDS: Final = 10.0
"""How long a lease is assumed to last where none was seen."""

LINGER: Final = 0.5
"""The part of its age that a lease is expected to go on which is older than any before it."""

FEW_WEIGHT: Final = FADE**20
"""The weight of a lease from which on a model has enough leases of its own."""

LEAST: Final = 1e-9
"""The part of the weight below which a rest of a bucket counts as nothing."""

STEPS: Final = 16
"""How often the time of the next free slot is narrowed down by half."""

_WIDTHS: Final = tuple(high - low for low, high in pairwise(EDGES))
_MIDDLES: Final = tuple((high + low) / 2 for low, high in pairwise(EDGES))


class Lasting:
    """How long leases of one model last."""

    __slots__ = ("_weight", "_weights")

    def __init__(self) -> None:
        self._weights = [0.0] * BUCKETS
        self._weight = 1.0

    @property
    def is_young(self) -> bool:
        """Whether it has only a few leases."""
        return self._weight < FEW_WEIGHT

    def note(self, seconds: float) -> None:
        """Note a lease that has ended."""
        at = min(bisect_right(EDGES, seconds) - 1, BUCKETS - 1)
        self._weights[max(0, at)] += self._weight
        self._weight *= FADE
        if self._weight > HEAVIEST:
            self._weights = [each / self._weight for each in self._weights]
            self._weight = 1.0

    @property
    def mean(self) -> float:
        """The mean of all, in seconds."""
        return self.rest(0.0)

    def rest(self, age: float) -> float:
        """Return how many seconds a lease that has lasted for ``age`` is expected to go on."""
        at = min(bisect_right(EDGES, age) - 1, BUCKETS - 1)
        total = weighed = 0.0
        for bucket in range(at + 1, BUCKETS):
            weight = self._weights[bucket]
            total += weight
            weighed += weight * _MIDDLES[bucket]
        high = EDGES[at + 1]
        if age < high:
            weight = self._weights[at] * (high - age) / _WIDTHS[at]
            total += weight
            weighed += weight * (high + age) / 2
        # What is left over of the last bucket may be too little to divide by.
        if total > LEAST * self._weight:
            return max(weighed / total - age, 0.0)
        assumed = 0.0 if any(self._weights) else ASSUMED_SECONDS - age
        return max(assumed, LINGER * age)

    def next_end(self, ages: Collection[float], place: int) -> float:
        """Return in how many seconds so many of the leases of these ages are expected to end.

        ``place`` is at most the number of the leases.
        """
        above = [*accumulate(reversed(self._weights), initial=0.0)][::-1]

        def survival(seconds: float) -> float:
            at = bisect_right(EDGES, seconds) - 1
            if at >= BUCKETS:
                return 0.0
            return above[at + 1] + self._weights[at] * (EDGES[at + 1] - seconds) / _WIDTHS[at]

        least = LEAST * self._weight
        alive = [(age, left) for age in ages if (left := survival(age)) > least]
        lingering = [self.rest(age) for age in ages if survival(age) <= least]
        if not alive:
            return sorted(lingering)[place - 1]
        wanted = place - 0.5
        low, high = 0.0, EDGES[-1]
        for _ in range(STEPS):
            middle = (low + high) / 2
            ended = sum(1.0 - survival(age + middle) / left for age, left in alive)
            ended += sum(middle >= each for each in lingering)
            if ended < wanted:
                low = middle
            else:
                high = middle
        return high


class LeaseTimes:
    """How long leases last, by model; a model without leases is like all models with few leases."""

    def __init__(self) -> None:
        self._young = Lasting()
        self._by_model: dict[str, Lasting] = {}

    def note(self, model: str, seconds: float) -> None:
        """Note a lease of a model that has ended."""
        known = self._by_model.get(model)
        if known is None:
            if len(self._by_model) >= MOST_MODELS:
                del self._by_model[next(iter(self._by_model))]
            known = self._by_model[model] = Lasting()
        if known.is_young:
            self._young.note(seconds)
        known.note(seconds)

    def of(self, model: str) -> Lasting:
        """Return how long leases of a model last."""
        return self._by_model.get(model, self._young)
