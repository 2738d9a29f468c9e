"""What a model takes of a node, and how long it takes to load: configured, learned or unknown.

A footprint that the configuration gives counts before any other. Else it is learned: a node's free
memory before and after a load that ran alone. A load measured on another node stands in until the
node's own, unless it takes more than this node may fill: what a node lists it has held
(nodes.md 3.4), so there the same id is another size of the model. Loads of one model differ a
little, so what is booked is the mean and one standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cortexd.fleet.nodes import ReplicaKey

LEAST_LOAD_LIMIT: Final = 60.0
"""Seconds that every load may take, however quick loads of the model were."""

BROKEN_LOAD_TIMES: Final = 3
UNTOLD_LOAD_TIMES: Final = 10
"""How many times as long as loads took one may go on whose connection broke, as a panic breaks it,
and one of which nothing but its node's listing, or its silence, tells."""


def load_limit(usual_seconds: float | None, times: int, load_timeout: float) -> float:
    """Return after how many seconds such a load is taken to hang; ``None`` for no load seen.

    One that panicked stays `reloading` for good, and looks just as one that goes on
    (nodes.md 2.2.5).
    """
    if usual_seconds is None:
        return load_timeout
    return min(load_timeout, max(LEAST_LOAD_LIMIT, times * usual_seconds))


@dataclass(frozen=True, slots=True)
class LearnedLoad:
    """What loads of one model on one node have shown.

    ``footprints`` measures of its footprint have the mean ``mean_mb`` and the sum of squared
    differences ``m2_mb`` (Welford's method), in MiB; ``loads`` loads took ``mean_seconds``.
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
        """What to book, or ``None`` where nothing was measured."""
        return math.ceil(self.mean_mb + self.spread_mb) if self.footprints else None

    def with_load(self, seconds: float, footprint_mb: int | None) -> LearnedLoad:
        """Return what is known after one more load, which may not have been measured.

        A load always takes memory: where free memory did not fall, something else gave some back,
        and that is no measure either.
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
    """What is known of one model, by node, and what stands in on a node that is not among them.

    These are asked for on every node of a fleet for one decision, so nothing is left to compute.
    """

    loads: dict[str, LearnedLoad] = field(default_factory=dict)
    footprints_mb: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    largest_mb: int | None = None
    slowest: float | None = None

    def take(self, node: str, load: LearnedLoad) -> None:
        """Take what is known now of the model on a node."""
        self.loads[node] = load
        if load.footprint_mb is not None:
            self.footprints_mb[node] = load.footprint_mb
            self.largest_mb = max(self.footprints_mb.values()) or None
        if load.loads:
            self.seconds[node] = load.mean_seconds
            self.slowest = max(self.seconds.values())


class Footprints:
    """Answers for every (node, model).

    ``configured`` gives what the configuration says in MiB, or ``None``; ``learned`` is what was
    learned before.
    """

    def __init__(
        self,
        configured: Callable[[str, str], int | None],
        learned: Mapping[ReplicaKey, LearnedLoad],
    ) -> None:
        self._configured = configured
        self._budgets: dict[str, int] = {}
        self._lessons: dict[str, _Lessons] = {}
        self.remember(learned)

    def remember(self, learned: Mapping[ReplicaKey, LearnedLoad]) -> None:
        """Take what was learned before."""
        for (node, model), load in learned.items():
            self._lessons.setdefault(model, _Lessons()).take(node, load)

    def note_budget(self, node: str, budget_mb: int) -> None:
        """Take what a node may fill."""
        self._budgets[node] = budget_mb

    def known_mb(self, node: str, model: str) -> int | None:
        """Return the footprint of a model on a node, or ``None`` where nobody knows it."""
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
        """Return the mean of what loads of a model on this node took, ``None`` without any."""
        lessons = self._lessons.get(model)
        here = lessons.loads.get(node) if lessons is not None else None
        return round(here.mean_mb) if here is not None and here.footprints else None

    def load_seconds(self, node: str, model: str) -> float | None:
        """Return how long a load takes, or ``None`` where none was seen."""
        lessons = self._lessons.get(model)
        return lessons.seconds.get(node, lessons.slowest) if lessons is not None else None

    def learn(self, node: str, model: str, seconds: float, footprint_mb: int | None) -> LearnedLoad:
        """Take what a load has shown, and return what is known now."""
        lessons = self._lessons.setdefault(model, _Lessons())
        load = lessons.loads.get(node, UNMEASURED).with_load(seconds, footprint_mb)
        lessons.take(node, load)
        return load
