"""How near the told waits come to the real ones, on nodes whose loads take as long as real ones do.

A load from the disk takes three to eight times as long as one from the node's page cache, nodes are
of different speed, and no two loads take equally long. The cache holds so many MiB of what was
loaded last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.simulator.cortex import CortexPolicy
from bench.simulator.fleets import FleetSpec, ModelSpec, seeded
from bench.simulator.world import Action, Request, Trace, World
from cortexd.scheduling.decisions import LOADED, SWAPPED
from cortexd.scheduling.estimating.expectation import Expectation, Phase
from cortexd.scheduling.events import Effect, Event, Grant, LoadDone, StartLoad

CACHE_TIMES: Final = 2.0
"""How many times the memory for models the page cache of a node holds."""

CONTRASTS: Final = (3.0, 8.0)
"""How many times longer a load from the disk takes: drawn for each node, and a little for each
model there."""

SPEEDS: Final = (0.7, 1.0, 1.0, 1.6)
"""How many times longer loads take on a node: drawn for each node."""

NOISE: Final = 0.1
"""By which part a load may take longer or shorter than the same load another time."""

BEGUN: Final = frozenset({Phase.EVICTING, Phase.LOADING, Phase.WAKING, Phase.RESTARTING})
"""The phases in which something brings the model."""

NEAR: Final = 0.2
"""By which part of the real time a told time may be wrong and still be near."""


class RealWorld(World):
    """A world whose loads take different times, by node, page cache and chance."""

    def __init__(self, trace: Trace, policy: CortexPolicy, *, seed: int) -> None:
        super().__init__(trace, policy)
        self._chance = seeded("loads", trace.name, seed)
        self._seed = seed
        self._cached: dict[str, dict[str, int]] = {name: {} for name in trace.fleet.nodes}
        self._cache_mb = {
            name: CACHE_TIMES * node.memory_mb for name, node in trace.fleet.nodes.items()
        }
        self.warm = 0

    def load_seconds(self, node: str, model: ModelSpec) -> float:
        """Return how long a load takes that begins now, and put the model into the page cache."""
        cached = self._cached[node]
        is_warm = cached.pop(model.id, None) is not None
        self.warm += is_warm
        cached[model.id] = model.size_mb
        while sum(cached.values()) > self._cache_mb[node]:
            del cached[next(iter(cached))]
        speed = seeded("speed", node, self._seed).choice(SPEEDS)
        contrast = seeded("contrast", node, self._seed).uniform(*CONTRASTS)
        contrast *= seeded("contrast", node, model.id, self._seed).uniform(1 - NOISE, 1 + NOISE)
        noise = self._chance.uniform(1.0 - NOISE, 1.0 + NOISE)
        return model.load_seconds * speed * noise / (contrast if is_warm else 1.0)


@dataclass(frozen=True, slots=True)
class Told:
    """One wait or one load: the seconds that were told when it began, and the real ones.

    ``is_measured``: the told time rests on loads that were seen. ``is_begun``: something brought
    the model already, so that nothing else could happen before.
    """

    told: float
    real: float
    is_measured: bool = True
    is_begun: bool = True

    @property
    def is_near(self) -> bool:
        """Whether the told time was near the real one."""
        return abs(self.told - self.real) <= NEAR * self.real


@dataclass(slots=True)
class Record:
    """All that was told: of ``loads`` as they began, and of ``waits`` as these began.

    Of the requests that waited for one load, only the one that waited longest counts.
    """

    loads: list[Told] = field(default_factory=list)
    waits: list[Told] = field(default_factory=list)


class TellingPolicy(CortexPolicy):
    """Asks the scheduler what it expects of each request that waits, and of each load."""

    def __init__(self, fleet: FleetSpec) -> None:
        super().__init__(fleet)
        self.record = Record()
        self._told: dict[str, tuple[float, Expectation]] = {}
        self._loading: dict[tuple[str, str], tuple[float, float, bool]] = {}
        self._served: dict[str, float] = {}

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Submit the request, and note what it is told if it waits."""
        name = str(request.number)
        actions = super().arrive(request, now)
        if name in self._requests:
            self._told[name] = now, self.scheduler.expect(request.model, name, now)
        return actions

    def _decide(self, event: Event, now: float) -> tuple[Effect, ...]:
        if isinstance(event, LoadDone):
            began, told, is_measured = self._loading.pop((event.node, event.model))
            self.record.loads.append(Told(told, now - began, is_measured))
        effects = super()._decide(event, now)
        for effect in effects:
            match effect:
                case StartLoad(node, model):
                    replica = self.scheduler.fleet.nodes[node].replicas[model]
                    load = self.scheduler.fleet.load_estimate(replica, now)
                    self._loading[node, model] = now, load.seconds, load.is_measured
                case Grant(lease, decision=decision):
                    self._note(lease.request_id, lease.model, decision, now)
        return effects

    def _note(self, name: str, model: str, decision: str, now: float) -> None:
        asked = self._told.pop(name, None)
        if asked is None or decision not in (LOADED, SWAPPED) or self._served.get(model) == now:
            return
        # The queue is served in its order, so that this one has waited longest for the load.
        self._served[model] = now
        since, expected = asked
        is_begun = expected.phase in BEGUN
        told = Told(expected.seconds(since), now - since, expected.is_measured, is_begun)
        self.record.waits.append(told)


def tell(trace: Trace, seed: int) -> tuple[Record, RealWorld]:
    """Run a trace, and return what was told."""
    policy = TellingPolicy(trace.fleet)
    world = RealWorld(trace, policy, seed=seed)
    world.play()
    return policy.record, world


def share_near(told: Iterable[Told]) -> float:
    """Return the share of what was told that was near, 1 for nothing."""
    found: Sequence[Told] = list(told)
    return sum(each.is_near for each in found) / len(found) if found else 1.0
