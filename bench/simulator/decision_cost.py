"""The cost of a decision of cortexd's scheduler, in a small fleet and in a large one."""

from __future__ import annotations

import gc
import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from statistics import fmean
from typing import Final

from bench.figures import percentile
from bench.simulator.cortex import SWEEP_SECONDS, CortexPolicy
from bench.simulator.fleets import FleetSpec
from bench.simulator.traces import TRACES, Size
from bench.simulator.world import Action, Load, Run, Trace, play
from cortexd.fleet.states import Observation, ReplicaState, SystemInfo
from cortexd.scheduling.events import (
    Effect,
    Event,
    LeaseEnded,
    LoadDone,
    Observed,
    Submit,
    Sweep,
    SystemRead,
    Tick,
    UnloadDone,
)
from cortexd.scheduling.handlers.sweeps import sweep_parts, tick_parts
from cortexd.tap import YOUNG_OBJECTS
from cortexd.upstream.lifecycle import TICK_SECONDS

HEAD = ("event", "decisions", "mean us", "p50", "p99", "most")
EXPLANATION = """\
CPU time of the scheduler's answer to each event, in microseconds: a request arrives, an answer has
ended, a load or an unload has ended; and what the daemon's timers bring: tick: it looks after who
waits; sweep: it looks at some nodes, or at some queues; poll: a node lists its models; memory: a
node reports its memory. The same trace is run several times, and the least cost of each event
counts: other programs on the machine only ever add to it. Collections of young garbage count where
they fall, with the daemon's settings."""

KINDS: Final[dict[type[object], str]] = {
    Submit: "arrive",
    LeaseEnded: "finished",
    LoadDone: "loaded",
    UnloadDone: "unloaded",
    Tick: "tick",
    Sweep: "sweep",
    Observed: "poll",
    SystemRead: "memory",
}
TIMED: Final = ("tick", "sweep", "poll", "memory")
"""The kinds of events that come by the clock."""

POLL_SECONDS: Final = 5.0
MEMORY_SECONDS: Final = 60.0
RUNS: Final = 3
YARDSTICK_ROUNDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Budget:
    """How many microseconds a decision may take, on a trace of some size."""

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


class DaemonPolicy(CortexPolicy):
    """cortexd's scheduler with the events of a daemon's timers too; `cost_ns` has all costs.

    Polls, readings of memory, ticks and sweeps come at the daemon's intervals, also while nobody
    waits. What follows from them is carried out at the next event of the world.
    """

    def __init__(self, fleet: FleetSpec) -> None:
        self.cost_ns: dict[str, list[int]] = {kind: [] for kind in KINDS.values()}
        super().__init__(fleet)
        self._fleet = fleet
        self._listed: dict[str, dict[str, ReplicaState]] = {name: {} for name in fleet.nodes}
        for model in fleet.models.values():
            for node in model.nodes:
                self._listed[node][model.id] = ReplicaState.UNLOADED
        self._order = count()
        self._due: list[tuple[float, int, float, Callable[[float], Iterator[Event]]]] = []
        self._every(TICK_SECONDS, 0.0, self._ticked)
        self._every(SWEEP_SECONDS, 0.0, self._swept)
        for number, name in enumerate(fleet.nodes):
            share = number / len(fleet.nodes)
            self._every(POLL_SECONDS, share, partial(self._polled, name))
            self._every(MEMORY_SECONDS, share, partial(self._read, name))
        for costs in self.cost_ns.values():
            costs.clear()

    def _every(
        self, seconds: float, share: float, make: Callable[[float], Iterator[Event]]
    ) -> None:
        first = seconds * (1 + share)
        heapq.heappush(self._due, (first, next(self._order), seconds, make))

    def _swept(self, _at: float) -> Iterator[Event]:
        scheduler = self.scheduler
        return sweep_parts(scheduler.fleet.nodes, goes_on=lambda: scheduler.is_sweeping)

    def _ticked(self, _at: float) -> Iterator[Event]:
        return tick_parts(lambda: self.scheduler.is_ticking)

    def _polled(self, name: str, at: float) -> Iterator[Event]:
        yield Observed(name, Observation(1, dict(self._listed[name])), at)

    def _read(self, name: str, at: float) -> Iterator[Event]:
        sizes, total_mb = self._fleet.models, self._fleet.nodes[name].memory_mb
        used_mb = sum(
            sizes[model].size_mb
            for model, state in self._listed[name].items()
            if state is not ReplicaState.UNLOADED
        )
        yield SystemRead(name, SystemInfo("0.8.2", total_mb, total_mb - used_mb), at)

    def _catch_up(self, now: float) -> list[Action]:
        """Dispatch what the timers brought until now."""
        actions: list[Action] = []
        while self._due[0][0] <= now:
            at, number, seconds, make = self._due[0]
            heapq.heapreplace(self._due, (at + seconds, number, seconds, make))
            for event in make(at):
                actions += self._tell(event, at)
        return actions

    def _handle(self, event: Event, now: float) -> list[Action]:
        return [*self._catch_up(now), *self._tell(event, now)]

    def _tell(self, event: Event, now: float) -> list[Action]:
        actions = super()._handle(event, now)
        for action in actions:
            if isinstance(action, Load):
                self._listed[action.node][action.model] = ReplicaState.LOADING
        return actions

    def _decide(self, event: Event, now: float) -> tuple[Effect, ...]:
        handle = self.scheduler.handle
        began = time.thread_time_ns()
        effects = handle(event, now)
        took = time.thread_time_ns() - began
        self.cost_ns[KINDS[type(event)]].append(took)
        return effects

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Report the load."""
        self._listed[node][model] = ReplicaState.LOADED
        return super().loaded(node, model, now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Report the unload."""
        self._listed[node][model] = ReplicaState.UNLOADED
        return super().unloaded(node, model, now)

    def tick(self, now: float) -> list[Action]:
        """Dispatch what is due: the timers bring ticks and sweeps."""
        return self._catch_up(now)


@contextmanager
def _settled_collector() -> Iterator[None]:
    """Collect garbage as the daemon does: the fleet is frozen, young objects are collected."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def measure(trace: Trace, runs: int = 1) -> Run:
    """Run a trace under cortexd's scheduler; `decision_ns` has the least cost of each event."""
    best: Run | None = None
    for _ in range(runs):
        policy = DaemonPolicy(trace.fleet)
        with _settled_collector():
            run = play(trace, policy)
        run.decision_ns = policy.cost_ns
        best = run if best is None else _least(best, run)
        del policy
        gc.collect()
    if best is None:
        raise ValueError(f"found {runs} runs, expected 1 or more")
    return best


def _least(one: Run, other: Run) -> Run:
    """Take the least cost of each event of two equal runs."""
    for kind, costs in one.decision_ns.items():
        pairs = zip(costs, other.decision_ns[kind], strict=True)
        one.decision_ns[kind] = [min(pair) for pair in pairs]
    return one


def yardstick_us() -> float:
    """Return how long a fixed piece of Python takes here, to compare figures of two machines.

    It makes, prices and orders a thousand small tuples, and takes 0.1 ms on a fast core.
    """
    took = []
    for _ in range(50):
        began = time.thread_time_ns()
        prices = [(number % 7, number * 0.5, str(number)) for number in range(YARDSTICK_ROUNDS)]
        heapq.heapify(prices)
        took.append(time.thread_time_ns() - began)
    return min(took) / 1000


def _row(name: str, nanoseconds: Sequence[int]) -> list[str]:
    took_us = [took / 1000 for took in nanoseconds]
    figures = [fmean(took_us), *(percentile(took_us, share) for share in (0.5, 0.99, 1))]
    return [name, f"{len(took_us)}", *(f"{figure:.0f}" for figure in figures)]


def _asked(run: Run) -> list[int]:
    """Return the costs of the events that do not come by the clock."""
    costs = run.decision_ns.items()
    return [took for kind, all_took in costs if kind not in TIMED for took in all_took]


def _all(run: Run) -> list[int]:
    return [took for all_took in run.decision_ns.values() for took in all_took]


def cost_rows(run: Run) -> list[list[str]]:
    """Lay out the costs: one row per kind of event, one for those of requests, one for all."""
    kinds = {kind: took for kind, took in run.decision_ns.items() if took}
    rows = [_row(kind, took) for kind, took in kinds.items() if kind not in TIMED]
    rows.append(_row("all of these", _asked(run)))
    rows += [_row(kind, took) for kind, took in kinds.items() if kind in TIMED]
    rows.append(_row("all", _all(run)))
    return [list(HEAD), *rows]


def verdict(budget: Budget, run: Run) -> str:
    """Return a line that states whether the mean cost is within the budget."""
    mean_us = fmean(_asked(run)) / 1000
    outcome = "pass" if mean_us <= budget.microseconds else "miss"
    return f"{mean_us:.0f} us per decision where {budget.microseconds:g} are allowed: {outcome}"


def misses(budget: Budget, run: Run) -> dict[str, float]:
    """Return the 99th percentiles, in microseconds, of the kinds of events beyond the budget."""
    p99 = {kind: percentile(took, 0.99) / 1000 for kind, took in run.decision_ns.items() if took}
    return {kind: us for kind, us in p99.items() if us > budget.microseconds}


def strict_verdict(budget: Budget, run: Run) -> str:
    """Return a line that states whether each kind of event is within the budget at p99."""
    beyond = misses(budget, run)
    allowed = f"{budget.microseconds:g} us at the 99th percentile of each kind of event"
    if not beyond:
        return f"{allowed}: pass"
    words = ", ".join(f"{kind} takes {us:.0f}" for kind, us in beyond.items())
    return f"{allowed}: miss: {words}"
