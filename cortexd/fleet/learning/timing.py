"""How long something takes that happens again and again: its mean and its spread."""

from __future__ import annotations

from math import sqrt
from typing import Final

from cortexd.values import value

WINDOW: Final = 12
"""Over how many times the mean is taken: older ones fade, so that it follows a change."""


@value
class Timing:
    """What ``count`` times have shown: their mean and their variance, the latest ones most.

    A time may be in seconds, or in seconds for each MiB.
    """

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation; 0 with fewer than two times."""
        if self.count < 2:
            return 0.0
        most = min(self.count, WINDOW)
        return sqrt(self.variance * most / (most - 1))

    def with_time(self, taken: float) -> Timing:
        """Return what is known after one more time."""
        count = self.count + 1
        share = 1.0 / (count if count < WINDOW else WINDOW)
        difference = taken - self.mean
        variance = (1.0 - share) * (self.variance + share * difference * difference)
        return Timing(count, self.mean + share * difference, variance)


UNTIMED: Final = Timing()


class Timings:
    """The times of one kind of operation, by the name of a node.

    A node without a time of its own is expected to take the mean of all, and without any time at
    all so long as the question assumes.
    """

    def __init__(self) -> None:
        self._by_node: dict[str, Timing] = {}
        self._all = UNTIMED

    def learn(self, node: str, taken: float) -> None:
        """Learn from one operation on a node."""
        self._by_node[node] = self._by_node.get(node, UNTIMED).with_time(taken)
        self._all = self._all.with_time(taken)

    def expected(self, node: str, assumed: float) -> float:
        """Return how long an operation on a node is expected to take."""
        own = self._by_node.get(node, self._all)
        return own.mean if own.count else assumed

    def forget(self, node: str) -> None:
        """Forget a node that has left the configuration."""
        self._by_node.pop(node, None)
