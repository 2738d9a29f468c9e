"""What policies did on one trace or on several together, and the table that sums it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from bench.figures import percentile
from bench.simulator.bounds import least_loads_of_fleet
from bench.simulator.fleets import FleetSpec
from bench.simulator.report import shown_ratio, shown_seconds, unfairness, waits_of
from bench.simulator.world import Run

HEAD = (
    "trace",
    "policy",
    "answered",
    "not",
    "loads",
    "per answer",
    "over MIN",
    "over LRU",
    "avoidable",
    "wait s p50",
    "p95",
    "p99",
    "longest",
    "unfair s",
)
EXPLANATION = """\
over MIN: loads over those of Belady's MIN, which knows the future, in the order of arrivals. over
LRU: loads per answer over those of plain LRU. avoidable: the loads that are not a model's first
one, over MIN's that are not: a first load no policy without knowledge of the future avoids.
longest: the longest wait. Waits are those of all windows together, unfairness is their mean."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy did on so many traces; waits and unfairness in seconds.

    `least` is the number of loads that Belady's MIN needs for the arrivals in their order, `first`
    the number of models that were asked: each of them needs a first load.
    """

    traces: int
    answered: int
    unanswered: int
    loads: int
    least: int
    first: int
    waits: tuple[float, ...]
    unfair: float

    @property
    def over_least(self) -> float:
        """The loads over those of Belady's MIN."""
        return self.loads / self.least if self.least else inf

    @property
    def over_least_avoidable(self) -> float:
        """The same without each model's first load; infinite where MIN needs no other."""
        avoidable = self.least - self.first
        return (self.loads - self.first) / avoidable if avoidable else inf

    @property
    def per_answer(self) -> float:
        """The loads over the answers."""
        return self.loads / self.answered if self.answered else inf

    def wait(self, share: float) -> float:
        """Return the wait that such a share of the requests does not exceed."""
        return percentile(self.waits, share)


def outcome_of(run: Run, fleet: FleetSpec) -> Outcome:
    """Return what a policy did on one trace."""
    order = [model for _, model in run.arrivals]
    least, _ = least_loads_of_fleet(order, fleet)
    first, waits = len(set(order)), tuple(waits_of(run))
    return Outcome(1, run.answered, run.unanswered, run.loads, least, first, waits, unfairness(run))


def summed(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of several traces together: sums, all waits, the mean unfairness."""
    return Outcome(
        sum(each.traces for each in outcomes),
        sum(each.answered for each in outcomes),
        sum(each.unanswered for each in outcomes),
        sum(each.loads for each in outcomes),
        sum(each.least for each in outcomes),
        sum(each.first for each in outcomes),
        tuple(wait for each in outcomes for wait in each.waits),
        fmean(each.unfair for each in outcomes),
    )


def rows_of(trace: str, outcomes: Mapping[str, Outcome], plain_lru: str) -> list[list[str]]:
    """Lay out a row for each policy; `plain_lru` names the one that the others' loads are set in
    relation to, where it is among them.
    """
    lru = outcomes[plain_lru].per_answer if plain_lru in outcomes else 0.0
    return [
        [
            trace,
            name,
            f"{each.answered}",
            f"{each.unanswered}",
            f"{each.loads}",
            shown_ratio(each.loads, each.answered, 3),
            shown_ratio(each.loads, each.least, 2),
            shown_ratio(each.per_answer, lru, 2),
            shown_ratio(each.loads - each.first, each.least - each.first, 2),
            *(shown_seconds(each.wait(share)) for share in (0.5, 0.95, 0.99, 1)),
            shown_seconds(each.unfair),
        ]
        for name, each in outcomes.items()
    ]
