"""The results of a trace's runs as a table: one row per policy, with the bounds below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from statistics import fmean, median

from bench.figures import percentile
from bench.simulator.bounds import (
    least_loaded_mb,
    least_loads,
    least_loads_of_fleet,
    least_loads_within,
    loads_with_foresight,
)
from bench.simulator.fleets import GIB, FleetSpec
from bench.simulator.forecasts import loads_with_known_rates
from bench.simulator.hindsight import NextUse, RateAround, loads_knowing
from bench.simulator.world import Run, Trace

HEAD = (
    "policy",
    "answered",
    "not",
    "loads",
    "per hour",
    "per answer",
    "wait s p50",
    "p95",
    "p99",
    "wasted",
    "unfair s",
    "CPU us",
)
FORESIGHT_SECONDS = {"nothing": 0.0, "10 min": 600.0, "1 h": 3600.0, "6 h": 21_600.0}
EQUAL_SIZES_HEAD = ("MIN of its order",)
MIXED_SIZES_HEAD = ("GiB", "least GiB of its order")
EXPLANATION = """\
wait: from arrival to begin, of all requests; who is never answered waits for ever. wasted:
evictions after which the model, then loaded nowhere, was asked again within its own load time, or
for which requests waited at that moment. unfair: by how much the 95th percentile of the waits for
the worst-served model exceeds that for the middle one. CPU: mean per decision, each event being
one, ticks left out. MIN of its order: the loads that Belady's rule, knowing the future, needs to
answer requests in the very order in which this policy began them, the nodes taken as one memory.
Where sizes differ: GiB, what the loads brought; least GiB, MIN where each MiB is a page of its own.

The peers are their rules alone, each as described for it: what else they do is not here."""


def waits_of(run: Run) -> list[float]:
    """Return the waits of all requests in seconds, infinite for a request without an answer."""
    return [wait for _, wait in run.waits]


def unfairness(run: Run) -> float:
    """Return by how many seconds the worst-served model's 95th percentile of waits exceeds the
    median model's; 0 for no requests.
    """
    by_model: dict[str, list[float]] = {}
    for model, wait in run.waits:
        by_model.setdefault(model, []).append(wait)
    worst = [percentile(waits, 0.95) for waits in by_model.values()]
    if not worst or median(worst) == inf:
        return 0.0 if not worst else inf
    return max(worst) - median(worst)


def shown_seconds(seconds: float) -> str:
    """Write a time; "never" for one that never came."""
    return "never" if seconds == inf else f"{seconds:.1f}"


def _mean_us(nanoseconds: Sequence[int]) -> str:
    return f"{fmean(nanoseconds) / 1000:.0f}" if nanoseconds else "-"


def shown_ratio(part: float, whole: float, decimals: int) -> str:
    """Write a ratio; "-" for one to nothing."""
    return f"{part / whole:.{decimals}f}" if whole else "-"


def run_row(name: str, run: Run, fleet: FleetSpec) -> list[str]:
    """Lay out one policy's row."""
    waits = waits_of(run)
    if fleet.has_equal_sizes:
        bound = [f"{least_loads(run.begun, fleet.most_replicas)}"]
    else:
        least_mb = least_loaded_mb(run.begun, fleet.sizes_mb, fleet.memory_mb)
        bound = [f"{run.loaded_mb / GIB:.0f}", f"{least_mb / GIB:.0f}"]
    return [
        name,
        f"{run.answered}",
        f"{run.unanswered}",
        f"{run.loads}",
        shown_ratio(run.loads, run.ended_at / 3600, 1),
        shown_ratio(run.loads, run.answered, 3),
        *(shown_seconds(percentile(waits, share)) for share in (0.5, 0.95, 0.99)),
        f"{run.wasted_evictions}",
        shown_seconds(unfairness(run)),
        _mean_us(run.decisions_ns),
        *bound,
    ]


def bound_lines(name: str, run: Run, fleet: FleetSpec) -> list[str]:
    """Return lines with the least loads for the arrivals under the policy `name`: in that order,
    and in any order in which no request waits longer than under that policy.
    """
    asked = len(run.arrivals)
    least, which = least_loads_of_fleet([model for _, model in run.arrivals], fleet)
    per_answer = shown_ratio(least, asked, 3)
    lines = [
        f"at least {least} loads ({per_answer} per answer) in the order of arrivals under {name}: "
        f"{which}"
    ]
    if not run.unanswered:
        least = least_loads_within(run.arrivals, fleet.most_replicas, run.longest_wait)
        per_answer = shown_ratio(least, asked, 3)
        lines.append(
            f"at least {least} loads ({per_answer} per answer) in any order in which "
            f"none of them waits longer than {run.longest_wait:.0f} s, as long as under {name}"
        )
    return lines


def table_rows(runs: Mapping[str, Run], fleet: FleetSpec) -> list[list[str]]:
    """Lay out the table of a trace: the head, then one row per policy."""
    more = EQUAL_SIZES_HEAD if fleet.has_equal_sizes else MIXED_SIZES_HEAD
    return [[*HEAD, *more], *(run_row(name, run, fleet) for name, run in runs.items())]


def title(trace: Trace, runs: Mapping[str, Run]) -> str:
    """Return a line that describes a trace."""
    fleet = trace.fleet
    asked = max(len(run.arrivals) for run in runs.values())
    nodes, models = len(fleet.nodes), len(fleet.models)
    size = "of 16 GiB" if fleet.has_equal_sizes else "of different sizes"
    return (
        f"{trace.name}: {nodes} node{'s' * (nodes > 1)}, {models} models {size}, room for "
        f"{fleet.memory_mb // GIB} GiB in all; {trace.seconds / 3600:.3g} h, up to {asked} requests"
    )


def window_head(policies: Sequence[str]) -> list[str]:
    """Return the head of the table of windows."""
    foresight = [f"sees {words}" for words in FORESIGHT_SECONDS]
    return [
        "window",
        "calls",
        "models",
        "room",
        "first",
        "MIN",
        "in time",
        "knows rates",
        *foresight,
        "told rates",
        "told next",
        *policies,
    ]


def window_row(trace: Trace, runs: Mapping[str, Run]) -> list[str]:
    """Lay out one window: its size, the bounds of its loads, and the loads of each policy with
    their ratio to MIN.

    The arrivals must not depend on the policy. The bounds: the first load of each model; MIN;
    `least_loads_within` the longest wait of the first policy. Then what a policy loads in one
    memory that knows the models' rates, or foresees so much; and what cortexd's scheduler loads
    when it is told the rates around now, or the next requests.
    """
    run, slots = next(iter(runs.values())), trace.fleet.most_replicas
    order = [model for _, model in run.arrivals]
    least, _ = least_loads_of_fleet(order, trace.fleet)
    return [
        trace.name,
        f"{len(order)}",
        f"{len(trace.fleet.models)}",
        f"{slots}",
        f"{len(set(order))}",
        f"{least}",
        f"{least_loads_within(run.arrivals, slots, run.longest_wait)}",
        f"{loads_with_known_rates(tuple(trace.start().opening()), slots)}",
        *(
            f"{loads_with_foresight(run.arrivals, slots, seconds)}"
            for seconds in FORESIGHT_SECONDS.values()
        ),
        *(f"{loads_knowing(trace, known)}" for known in (RateAround, NextUse)),
        *(f"{each.loads} = {shown_ratio(each.loads, least, 2)}" for each in runs.values()),
    ]
