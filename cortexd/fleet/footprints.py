"""How much memory a model takes on a node, and how long it loads: configured, learned or unknown.

A footprint from the configuration takes precedence. Otherwise it is learned from the node's free
memory before and after a load that ran alone. Until a node has a measurement of its own, one from
another node stands in, unless that is more than the node may fill: a node has once held what it
lists (nodes.md 3.4), so the same id must be another size of the model there. Loads of one model
differ a little, so the mean and one standard deviation are booked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cortexd.fleet.nodes import ReplicaKey
from cortexd.values import value

LEAST_LOAD_LIMIT: Final = 60.0
"""Seconds that every load may take, however fast earlier loads of the model were."""

BROKEN_LOAD_TIMES: Final = 3
UNTOLD_LOAD_TIMES: Final = 10
"""How many times the usual duration a load may take: one whose connection broke, as in a panic of
the node, and one that is known only from its node's list of models or from the node's silence."""


def load_limit(usual_seconds: float | None, times: int, load_timeout: float) -> float:
    """Return after how many seconds such a load counts as hanging.

    ``usual_seconds`` is how long loads of the model took, ``None`` if none was seen. The limit is
    needed because a load that panicked stays `reloading` for good, and looks like one that goes on
    (nodes.md 2.2.5).
    """
    if usual_seconds is None:
        return load_timeout
    return min(load_timeout, max(LEAST_LOAD_LIMIT, times * usual_seconds))


@value
class LearnedLoad:
    """What loads of one model on one node have shown.

    ``footprints`` is how many measurements of its footprint there are, ``mean_mb`` their mean and
    ``m2_mb`` the sum of their squared differences from it (Welford's method), in MiB. ``loads`` is
    how many loads there were, ``mean_seconds`` their mean duration.
    """

    footprints: int = 0
    mean_mb: float = 0.0
    m2_mb: float = 0.0
    loads: int = 0
    mean_seconds: float = 0.0

    @property
    def spread_mb(self) -> float:
        """The standard deviation of the measured footprints."""
        return math.sqrt(self.m2_mb / (self.footprints - 1)) if self.footprints > 1 else 0.0

    @property
    def footprint_mb(self) -> int | None:
        """The MiB to book, or ``None`` without a measurement."""
        return math.ceil(self.mean_mb + self.spread_mb) if self.footprints else None

    def with_load(self, seconds: float, footprint_mb: int | None) -> LearnedLoad:
        """Return what is known after one more load, with or without a measurement.

        A load always takes memory. If free memory did not fall, something else freed memory at the
        same time, so that the measurement is worthless.
        """
        loads = self.loads + 1
        mean_seconds = self.mean_seconds + (seconds - self.mean_seconds) / loads
        footprints, mean_mb, m2_mb = self.footprints, self.mean_mb, self.m2_mb
        if footprint_mb is not None and footprint_mb > 0:
            footprints += 1
            before = footprint_mb - mean_mb
            mean_mb += before / footprints
            m2_mb += before * (footprint_mb - mean_mb)
        return LearnedLoad(footprints, mean_mb, m2_mb, loads, mean_seconds)


UNMEASURED = LearnedLoad()


@dataclass(slots=True)
class _Lessons:
    """What is known of one model, by node, and what stands in for a node without own lessons.

    One decision may look these up for every node of a fleet, so that all of them are precomputed.
    """

    loads: dict[str, LearnedLoad] = field(default_factory=dict)
    footprints_mb: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    largest_mb: int | None = None
    slowest: float | None = None

    def take(self, node: str, load: LearnedLoad) -> None:
        """Store what is now known of the model on a node."""
        self.loads[node] = load
        footprint_mb = load.footprint_mb
        if footprint_mb is not None:
            self.footprints_mb[node] = footprint_mb
            self.largest_mb = max(self.footprints_mb.values()) or None
        if load.loads:
            self.seconds[node] = load.mean_seconds
            self.slowest = max(self.seconds.values())


class Footprints:
    """The footprints and load times of every model on every node.

    ``configured`` returns the MiB of the configuration for a node and a model, or ``None``;
    ``learned`` is what an earlier run of the daemon has learned. As long as the ``generation``
    stays the same, so do all footprints.
    """

    def __init__(
        self,
        configured: Callable[[str, str], int | None],
        learned: Mapping[ReplicaKey, LearnedLoad],
    ) -> None:
        self._configured = configured
        self._budgets: dict[str, int] = {}
        self._lessons: dict[str, _Lessons] = {}
        self.generation = 0
        self.remember(learned)

    def reconfigure(self, configured: Callable[[str, str], int | None]) -> None:
        """Take the footprints of another configuration, without budgets; what was learned stays."""
        self._configured = configured
        self._budgets.clear()
        self.generation += 1

    def remember(self, learned: Mapping[ReplicaKey, LearnedLoad]) -> None:
        """Add what was learned earlier."""
        self.generation += 1
        for (node, model), load in learned.items():
            self._lessons.setdefault(model, _Lessons()).take(node, load)

    def note_budget(self, node: str, budget_mb: int) -> None:
        """Store how much a node may fill."""
        self._budgets[node] = budget_mb
        self.generation += 1

    def known_mb(self, node: str, model: str) -> int | None:
        """Return the footprint of a model on a node, or ``None`` if it is unknown."""
        configured = self._configured(node, model)
        if configured is not None:
            return configured
        lessons = self._lessons.get(model)
        if lessons is None:
            return None
        own = lessons.footprints_mb.get(node)
        if own is not None:
            return own
        elsewhere = lessons.largest_mb
        if elsewhere is not None and elsewhere > self._budgets.get(node, elsewhere):
            return None
        return elsewhere

    def measured_mb(self, node: str, model: str) -> int | None:
        """Return the mean MiB that loads of a model took on this node, ``None`` without a load."""
        lessons = self._lessons.get(model)
        here = lessons.loads.get(node) if lessons is not None else None
        return round(here.mean_mb) if here is not None and here.footprints else None

    def load_seconds(self, node: str, model: str) -> float | None:
        """Return the seconds that a load takes, or ``None`` if none was seen."""
        lessons = self._lessons.get(model)
        return lessons.seconds.get(node, lessons.slowest) if lessons is not None else None

    def learn(self, node: str, model: str, seconds: float, footprint_mb: int | None) -> LearnedLoad:
        """Learn from a load, and return what is now known."""
        lessons = self._lessons.get(model)
        if lessons is None:
            lessons = self._lessons[model] = _Lessons()
        load = lessons.loads.get(node, UNMEASURED).with_load(seconds, footprint_mb)
        lessons.take(node, load)
        self.generation += 1
        return load
