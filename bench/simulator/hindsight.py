"""cortexd's scheduler when it knows the trace: how much a better guess about demand could save.

It is the daemon's own code with the strategy `heat`, but the heat of a model is told from the whole
trace, the future included. So the runs show how much of the distance to Belady's MIN is due to what
no policy knows, and how much to the nodes, the queues and the order of the requests, which MIN
leaves out. They are no proof: another rule that knows the same could do better.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from math import exp
from typing import Final

from bench.simulator.cortex import SWEEP_SECONDS, CortexPolicy
from bench.simulator.world import Trace, play
from cortexd.fleet.heat.heat import Heat
from cortexd.fleet.heat.visits import Visits

AROUND_SECONDS: Final = 600.0
"""A request so far from now, before or after it, counts 1/e as much as one of now."""


class KnownHeat(Heat):
    """The heat of a model whose requests come at known times, earliest first."""

    def __init__(self, times: Sequence[float]) -> None:
        super().__init__(Visits())
        self.times = times


class RateAround(KnownHeat):
    """Tells how often a model is asked around now, and not when the next request comes."""

    def __init__(self, times: Sequence[float]) -> None:
        super().__init__(times)
        self._before = _decayed(times)
        self._after = _decayed([-at for at in reversed(times)])[::-1]

    def at(self, now: float) -> float:
        """Return the number of requests before and after now, the near ones counting more."""
        place = bisect_right(self.times, now)
        rate = 0.0
        if place:
            rate = self._before[place - 1] * exp((self.times[place - 1] - now) / AROUND_SECONDS)
        if place < len(self.times):
            rate += self._after[place] * exp((now - self.times[place]) / AROUND_SECONDS)
        return rate


def _decayed(times: Sequence[float]) -> list[float]:
    """Return, as of each of these times, the decayed count of the requests up to it."""
    counts: list[float] = []
    for place, at in enumerate(times):
        older = counts[-1] * exp((times[place - 1] - at) / AROUND_SECONDS) if place else 0.0
        counts.append(1.0 + older)
    return counts


class NextUse(KnownHeat):
    """Tells when the next request comes, as MIN knows it: the sooner, the hotter."""

    def at(self, now: float) -> float:
        """Return the inverse of the time until the next request; 0 if none comes."""
        place = bisect_right(self.times, now)
        return 1 / (1 + self.times[place] - now) if place < len(self.times) else 0.0


def loads_knowing(trace: Trace, known: type[KnownHeat]) -> int:
    """Return the loads of cortexd's scheduler on a trace by the clock, told the heat of models."""
    times: dict[str, list[float]] = defaultdict(list)
    for call in trace.start().opening():
        times[call.model].append(call.at)
    policy = CortexPolicy(trace.fleet)
    fleet = policy.scheduler.fleet
    for model in fleet.models:
        heat = known(times[model])
        for replica in fleet.replicas(model):
            replica.demand.heat = heat
    return play(trace, policy, idle_tick_seconds=SWEEP_SECONDS).loads
