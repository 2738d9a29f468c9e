"""What a model takes of a node, and how long it takes to load: configured, learned or unknown.

A footprint that the configuration gives counts before any other. Else it is learned: a node's free
memory before and after a load that ran alone. A load measured on another node stands in until the
node's own. Loads of one model differ a little, so what is booked is the mean and one standard
deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


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
        learned: Mapping[tuple[str, str], LearnedLoad],
    ) -> None:
        self._configured = configured
        self._lessons: dict[str, _Lessons] = {}
        self.remember(learned)

    def remember(self, learned: Mapping[tuple[str, str], LearnedLoad]) -> None:
        """Take what was learned before."""
        for (node, model), load in learned.items():
            self._lessons.setdefault(model, _Lessons()).take(node, load)

    def known_mb(self, node: str, model: str) -> int | None:
        """Return the footprint of a model on a node, or ``None`` where nobody knows it."""
        configured = self._configured(node, model)
        if configured is not None:
            return configured
        lessons = self._lessons.get(model)
        if lessons is None:
            return None
        return lessons.footprints_mb.get(node, lessons.largest_mb)

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
