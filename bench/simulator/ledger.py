"""A simulated policy's view of the fleet, from the events it received and the actions it chose."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf

from bench.simulator.fleets import FleetSpec, ModelSpec
from bench.simulator.world import Action, Begin, Load, Request, Unload


class Phase(enum.Enum):
    """What a replica is doing."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(slots=True, eq=False)
class Replica:
    """A model in a node's memory; last used at `used_at`."""

    node: Node
    model: ModelSpec
    used_at: float
    phase: Phase = Phase.LOADING
    running: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether it could be unloaded now."""
        return self.phase is Phase.READY and not self.running

    @property
    def has_seat(self) -> bool:
        """Whether a request could be begun on it now."""
        return self.phase is Phase.READY and self.running < self.model.seats


@dataclass(slots=True, eq=False)
class Node:
    """A node: what is free in MiB, its replicas by model, and whether it loads one."""

    name: str
    free_mb: int
    replicas: dict[str, Replica] = field(default_factory=dict)
    loading: bool = False

    @property
    def oldest_use(self) -> float:
        """When the least recently used of its loaded replicas was used; infinite for none."""
        return min(
            (each.used_at for each in self.replicas.values() if each.phase is Phase.READY),
            default=inf,
        )

    def least_recently_used(self, need_mb: int) -> list[Replica] | None:
        """Return loaded replicas, busy or idle, least recently used first, whose eviction frees
        `need_mb`; `None` where all together are too small.
        """
        victims: list[Replica] = []
        free_mb = self.free_mb
        ready = [each for each in self.replicas.values() if each.phase is Phase.READY]
        for replica in sorted(ready, key=lambda each: each.used_at):
            if free_mb >= need_mb:
                break
            victims.append(replica)
            free_mb += replica.model.size_mb
        return victims if free_mb >= need_mb else None


class Ledger:
    """The fleet as a policy knows it; its methods note what happens and gather `actions`."""

    def __init__(self, fleet: FleetSpec) -> None:
        self.models = fleet.models
        self.nodes = {name: Node(name, node.memory_mb) for name, node in fleet.nodes.items()}
        self.actions: list[Action] = []
        self._replicas: dict[str, dict[str, Replica]] = {name: {} for name in fleet.models}
        self._answering: dict[int, Replica] = {}

    def replicas(self, model: str) -> Collection[Replica]:
        """Return the replicas of a model, whatever they are doing."""
        return self._replicas[model].values()

    def nodes_of(self, model: str) -> list[Node]:
        """Return the nodes that list a model."""
        return [self.nodes[name] for name in self.models[model].nodes]

    def ready_replica(self, model: str) -> Replica | None:
        """Return the replica with a free seat that has the fewest requests, if there is one."""
        free = [each for each in self.replicas(model) if each.has_seat]
        return min(free, key=lambda each: each.running, default=None)

    def take_actions(self) -> list[Action]:
        """Return the pending actions, and clear them."""
        actions, self.actions = self.actions, []
        return actions

    # Actions of the policy.

    def begin(self, request: Request, replica: Replica, now: float) -> None:
        """Let a replica answer a request."""
        replica.running += 1
        replica.used_at = now
        self._answering[request.number] = replica
        self.actions.append(Begin(request, replica.node.name))

    def load(self, model: str, node: Node, now: float) -> None:
        """Load a model on a node."""
        replica = Replica(node, self.models[model], now)
        node.replicas[model] = self._replicas[model][node.name] = replica
        node.free_mb -= replica.model.size_mb
        node.loading = True
        self.actions.append(Load(node.name, model))

    def unload(self, replica: Replica) -> None:
        """Unload a replica."""
        replica.phase = Phase.UNLOADING
        self.actions.append(Unload(replica.node.name, replica.model.id))

    # Events of the simulation.

    def finished(self, request: Request, now: float) -> Replica:
        """Note the end of an answer; return the replica that gave it."""
        replica = self._answering.pop(request.number)
        replica.running -= 1
        replica.used_at = now
        return replica

    def loaded(self, node: str, model: str, now: float) -> Replica:
        """Note the end of a load; return the replica."""
        replica = self._replicas[model][node]
        replica.phase = Phase.READY
        replica.used_at = now
        replica.node.loading = False
        return replica

    def unloaded(self, node: str, model: str) -> Node:
        """Note the end of an unload; return the node."""
        replica = self._replicas[model].pop(node)
        del replica.node.replicas[model]
        replica.node.free_mb += replica.model.size_mb
        return replica.node
