"""The cost of a decision of cortexd's scheduler, in a small fleet and in a large one."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.figures import percentile
from bench.simulator.cortex import CortexPolicy
from bench.simulator.traces import TRACES, Size
from bench.simulator.world import Run, Trace, play

HEAD = ("event", "decisions", "mean us", "p50", "p99", "most")
EXPLANATION = """\
CPU time of the scheduler's answer to each event, in microseconds: a request arrives, an answer has
ended, a load or an unload has ended; tick: it looks after who waits, every second, and every ten
seconds over all nodes. Collections of garbage are counted where they fall."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many microseconds a decision may take on average, on a trace of some size."""

    trace: str
    nodes: int
    models: int
    microseconds: float

    def make_trace(self, size: Size) -> Trace:
        """Make the trace, by the seed and the listing of `size`."""
        return TRACES[self.trace](
            Size(self.nodes, self.models, size.hours, size.seed, size.listed_on)
        )


BUDGETS = (Budget("zipf", 3, 36, 50), Budget("large", 1000, 10_000, 1000))


def measure(trace: Trace) -> Run:
    """Run a trace under cortexd's scheduler. Its objects are frozen out of garbage collection
    first, as in a daemon that has run for a while.
    """
    policy = CortexPolicy(trace.fleet)
    gc.collect()
    gc.freeze()
    try:
        return play(trace, policy)
    finally:
        gc.unfreeze()


def _row(name: str, nanoseconds: Sequence[int]) -> list[str]:
    took_us = [took / 1000 for took in nanoseconds]
    figures = [fmean(took_us), *(percentile(took_us, share) for share in (0.5, 0.99, 1))]
    return [name, f"{len(took_us)}", *(f"{figure:.0f}" for figure in figures)]


def cost_rows(run: Run) -> list[list[str]]:
    """Lay out the costs: one row per kind of event, and one for all but ticks."""
    kinds = {kind: took for kind, took in run.decision_ns.items() if kind != "tick"}
    rows = [_row(kind, took) for kind, took in kinds.items()]
    rows.append(_row("all of these", run.decisions_ns))
    if "tick" in run.decision_ns:
        rows.append(_row("tick", run.decision_ns["tick"]))
    return [list(HEAD), *rows]


def verdict(budget: Budget, run: Run) -> str:
    """Return a line that states whether the mean cost is within the budget."""
    mean_us = fmean(run.decisions_ns) / 1000
    outcome = "pass" if mean_us <= budget.microseconds else "miss"
    return f"{mean_us:.0f} us per decision where {budget.microseconds:g} are allowed: {outcome}"
