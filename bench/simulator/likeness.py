"""How like a recorded trace a made one is: the figures that decide what policies do on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

from bench.simulator.bounds import least_loads, loads_with_foresight
from bench.simulator.fleets import FleetSpec
from bench.simulator.report import shown_ratio
from bench.simulator.traces import Size
from bench.simulator.windows import WINDOW_DAYS, windows_of
from bench.simulator.world import Call, Policy, play

BUSY_CALLS = 700
"""Days with fewer calls are left out: what policies do on them is chance."""

EXPLANATION = f"""\
Means over the days of {BUSY_CALLS} calls or more, and over all weeks. changes: calls for another
model than the call before. Of the loads: MIN's, in the order of arrivals, and the multiples of it
that the policies load, or a policy that foresees 10 minutes or an hour."""


def head(policies: Sequence[str]) -> list[str]:
    """Return the head of the table."""
    return [
        "trace",
        "windows",
        "calls",
        "models",
        "changes",
        "MIN",
        *(f"{name} over MIN" for name in policies),
        "sees 10 min",
        "sees 1 h",
    ]


def rows_of(
    name: str, calls: Sequence[Call], policies: dict[str, Callable[[FleetSpec], Policy]]
) -> list[list[str]]:
    """Return a row for the days of a trace and one for its weeks."""
    rows = []
    for kind, days in WINDOW_DAYS.items():
        counted: list[tuple[int, ...]] = []
        for trace in windows_of(calls, days, name, Size()):
            arrivals = [(call.at, call.model) for call in trace.start().opening()]
            if days == 1 and len(arrivals) < BUSY_CALLS:
                continue
            order, slots = [model for _, model in arrivals], trace.fleet.most_replicas
            counted.append(
                (
                    len(order),
                    len(trace.fleet.models),
                    sum(before != after for before, after in pairwise(order)),
                    least_loads(order, slots),
                    *(play(trace, make(trace.fleet)).loads for make in policies.values()),
                    loads_with_foresight(arrivals, slots, 600.0),
                    loads_with_foresight(arrivals, slots, 3600.0),
                )
            )
        if counted:
            calls_mean, models, changes, least, *loads = map(fmean, zip(*counted, strict=True))
            rows.append(
                [
                    f"{name}, {kind}s",
                    f"{len(counted)}",
                    f"{calls_mean:.0f}",
                    f"{models:.0f}",
                    shown_ratio(changes, calls_mean, 2),
                    f"{least:.0f}",
                    *(shown_ratio(each, least, 2) for each in loads),
                ]
            )
    return rows
