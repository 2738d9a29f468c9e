"""The fleet: what is known of nodes, replicas and leases, and how it changes.

Nodes are the truth and the fleet is what was last heard of them. It takes observations (what
one poll saw) and failures (that a poll saw nothing), grants and releases leases, and answers
questions with frozen views. Nothing here reads a clock or writes a log: ``now`` is an argument,
in seconds, and what changed is returned for the caller to tell.

A node's health. It is *unknown* until the first poll ends. An answer makes it *up*, always. A
failure alone changes nothing; ``down_after`` failures in a row make it *down*. While a load runs
there, silence is no failure: a node reads weights with the very threads that answer polls
(upstream notes 2.2), so it is *busy loading*, for at most ``load_timeout`` seconds. A refused
connection is a failure even then: a process that is gone loads nothing.

A replica's state is what the node lists. An id listed both as loaded and as reloading is *stuck*:
a reload of something not unloaded has bricked it (upstream notes 2.3). It still answers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


class NodeHealth(enum.Enum):
    """Whether a node answers."""

    UNKNOWN = "unknown"
    UP = "up"
    BUSY_LOADING = "busy_loading"
    DOWN = "down"


class PollOutcome(enum.Enum):
    """What one poll means for a node's health."""

    ANSWERED = "answered"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed_too_often"
    SILENT_WHILE_LOADING = "silent_while_loading"


class ReplicaState(enum.Enum):
    """What a node says of one of its models."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    STUCK = "stuck"


_H, _P = NodeHealth, PollOutcome

HEALTH_TRANSITIONS: Mapping[tuple[NodeHealth, PollOutcome], NodeHealth] = {
    (_H.UNKNOWN, _P.ANSWERED): _H.UP,
    (_H.UNKNOWN, _P.FAILED): _H.UNKNOWN,
    (_H.UNKNOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UP, _P.ANSWERED): _H.UP,
    (_H.UP, _P.FAILED): _H.UP,
    (_H.UP, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UP, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.ANSWERED): _H.UP,
    (_H.BUSY_LOADING, _P.FAILED): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.BUSY_LOADING, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.DOWN, _P.ANSWERED): _H.UP,
    (_H.DOWN, _P.FAILED): _H.DOWN,
    (_H.DOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
}
"""Every legal step of a node's health; a pair that is not here is a mistake of the caller."""

ANSWERING_HEALTH = frozenset({NodeHealth.UP, NodeHealth.BUSY_LOADING})
"""The healths in which a node is sent requests."""

ANSWERING_STATES = frozenset({ReplicaState.LOADED, ReplicaState.STUCK})
"""The states in which a replica answers requests at once."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one poll of a node saw.

    ``created`` is the start time of the node's process (unix seconds, upstream notes part 1),
    ``None`` where it lists nothing. ``replicas`` has each model's state by its id.
    """

    created: int | None
    replicas: Mapping[str, ReplicaState]


@dataclass(frozen=True, slots=True)
class PollFailure:
    """That a poll saw nothing: ``reason`` in words, ``silent`` if it only took too long."""

    reason: str
    silent: bool


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What a node says of itself; memory in MiB, of the accelerators where it has any."""

    version: str
    memory_total_mb: int | None
    memory_free_mb: int | None


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A node's health is another than before, for this reason."""

    node: str
    before: NodeHealth
    after: NodeHealth
    reason: str


@dataclass(frozen=True, slots=True)
class NodeRestarted:
    """A node's process is another than before."""

    node: str


@dataclass(frozen=True, slots=True)
class ReplicaChanged:
    """A replica's state is another than before; ``None`` where the node does not list it."""

    node: str
    model: str
    before: ReplicaState | None
    after: ReplicaState | None


Change = HealthChanged | NodeRestarted | ReplicaChanged


@dataclass(frozen=True, slots=True)
class Lease:
    """One request holding a replica."""

    number: int
    node: str
    model: str
    request_id: str
    granted_at: float


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One model on one node, as it is now. ``capacity`` is the leases it may hold at once."""

    node: str
    model: str
    health: NodeHealth
    state: ReplicaState
    leases: int
    capacity: int
    node_last_used: float


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as it is now, with its replicas by model id."""

    name: str
    endpoint: str
    memory_budget_mb: int
    health: NodeHealth
    reason: str
    since: float
    restarts: int
    last_answer_at: float | None
    system: SystemInfo | None
    replicas: tuple[ReplicaView, ...]
    leases: int


@dataclass(slots=True)
class _Replica:
    state: ReplicaState
    since: float
    leases: int = 0


@dataclass(slots=True)
class _Node:
    position: int
    name: str
    endpoint: str
    memory_budget_mb: int
    since: float
    health: NodeHealth = NodeHealth.UNKNOWN
    reason: str = "not polled yet"
    failures: int = 0
    created: int | None = None
    restarts: int = 0
    last_answer_at: float | None = None
    last_used: float = 0.0
    system: SystemInfo | None = None
    replicas: dict[str, _Replica] = field(default_factory=dict)
    leases: int = 0


class Fleet:
    """The state of every node, replica and lease.

    ``nodes`` are (name, endpoint, memory budget in MiB); ``capacities`` has the leases one
    replica of a model may hold at once, for models whose number is not ``default_capacity``.
    """

    def __init__(
        self,
        nodes: Iterable[tuple[str, str, int]],
        *,
        now: float,
        down_after: int,
        load_timeout: float,
        default_capacity: int,
        capacities: Mapping[str, int],
    ) -> None:
        self._nodes = {
            name: _Node(position, name, endpoint, budget, since=now)
            for position, (name, endpoint, budget) in enumerate(nodes)
        }
        self._down_after = down_after
        self._load_timeout = load_timeout
        self._default_capacity = default_capacity
        self._capacities = dict(capacities)
        self._nodes_by_model: dict[str, set[str]] = {}
        self._leases: dict[int, Lease] = {}
        self._next_lease = 1

    # What polls bring.

    def observe(self, name: str, observation: Observation, now: float) -> tuple[Change, ...]:
        """Take what a poll of the node saw; return what that changed."""
        node = self._nodes[name]
        changes = self._step(node, PollOutcome.ANSWERED, "answers", now)
        restarted = node.created is not None and observation.created not in (None, node.created)
        if restarted:
            node.restarts += 1
            changes.append(NodeRestarted(name))
        node.failures = 0
        node.reason = "answers"
        node.last_answer_at = now
        node.created = observation.created if observation.created is not None else node.created
        changes += self._take_replicas(node, observation.replicas, now)
        if restarted:
            for replica in node.replicas.values():
                replica.since = now
        return tuple(changes)

    def fail(self, name: str, failure: PollFailure, now: float) -> tuple[Change, ...]:
        """Take that a poll of the node saw nothing; return what that changed."""
        node = self._nodes[name]
        if failure.silent and node.health in ANSWERING_HEALTH and self._loads(node, now):
            return tuple(self._step(node, PollOutcome.SILENT_WHILE_LOADING, failure.reason, now))
        node.failures += 1
        node.reason = failure.reason
        too_often = node.failures >= self._down_after
        outcome = PollOutcome.FAILED_TOO_OFTEN if too_often else PollOutcome.FAILED
        return tuple(self._step(node, outcome, failure.reason, now))

    def _loads(self, node: _Node, now: float) -> bool:
        """Whether a load runs; one that is past its time does not count, for it may be stuck."""
        return any(
            replica.state is ReplicaState.LOADING and now - replica.since <= self._load_timeout
            for replica in node.replicas.values()
        )

    def record_system(self, name: str, system: SystemInfo) -> None:
        """Take what the node says of its version and memory."""
        self._nodes[name].system = system

    def _step(self, node: _Node, outcome: PollOutcome, reason: str, now: float) -> list[Change]:
        before, after = node.health, HEALTH_TRANSITIONS[node.health, outcome]
        if after is before:
            return []
        node.health, node.reason, node.since = after, reason, now
        return [HealthChanged(node.name, before, after, reason)]

    def _take_replicas(
        self, node: _Node, observed: Mapping[str, ReplicaState], now: float
    ) -> list[Change]:
        changes: list[Change] = []
        for model in [model for model in node.replicas if model not in observed]:
            gone = node.replicas.pop(model)
            nodes = self._nodes_by_model[model]
            nodes.discard(node.name)
            if not nodes:
                del self._nodes_by_model[model]
            changes.append(ReplicaChanged(node.name, model, gone.state, None))
        for model, state in observed.items():
            replica = node.replicas.get(model)
            if replica is None:
                held = sum(
                    lease.node == node.name and lease.model == model
                    for lease in self._leases.values()
                )
                node.replicas[model] = _Replica(state, now, held)
                self._nodes_by_model.setdefault(model, set()).add(node.name)
                changes.append(ReplicaChanged(node.name, model, None, state))
            elif replica.state is not state:
                changes.append(ReplicaChanged(node.name, model, replica.state, state))
                replica.state, replica.since = state, now
        return changes

    # Leases.

    def grant(self, node_name: str, model: str, request_id: str, now: float) -> Lease:
        """Give the request a lease on the node's replica of the model, and return it.

        KeyError if the node does not list the model; nothing has changed then.
        """
        node = self._nodes[node_name]
        replica = node.replicas[model]
        lease = Lease(self._next_lease, node_name, model, request_id, now)
        self._next_lease += 1
        self._leases[lease.number] = lease
        replica.leases += 1
        node.leases += 1
        node.last_used = now
        return lease

    def release(self, lease: Lease) -> None:
        """End a lease. The replica may be gone meanwhile; a lease ends only once."""
        del self._leases[lease.number]
        node = self._nodes[lease.node]
        node.leases -= 1
        replica = node.replicas.get(lease.model)
        if replica is not None:
            replica.leases -= 1

    # Views.

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of all models that any node lists, sorted."""
        return tuple(sorted(self._nodes_by_model))

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of all nodes, in the order of the configuration."""
        return tuple(self._nodes)

    def __contains__(self, model: str) -> bool:
        return model in self._nodes_by_model

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that are held, oldest first."""
        return tuple(self._leases.values())

    def replicas(self, model: str) -> tuple[ReplicaView, ...]:
        """Return a view of the model on each node that lists it, by the configuration's order."""
        listed = [self._nodes[name] for name in self._nodes_by_model.get(model, ())]
        listed.sort(key=lambda node: node.position)
        return tuple(self._replica_view(node, model) for node in listed)

    def node(self, name: str) -> NodeView:
        """Return a view of one node. KeyError if there is none of that name."""
        node = self._nodes[name]
        return NodeView(
            name=node.name,
            endpoint=node.endpoint,
            memory_budget_mb=node.memory_budget_mb,
            health=node.health,
            reason=node.reason,
            since=node.since,
            restarts=node.restarts,
            last_answer_at=node.last_answer_at,
            system=node.system,
            replicas=tuple(self._replica_view(node, model) for model in sorted(node.replicas)),
            leases=node.leases,
        )

    def health(self, name: str) -> NodeHealth:
        """Return one node's health. KeyError if there is none of that name."""
        return self._nodes[name].health

    def not_ready_reason(self) -> str | None:
        """Say why no request can be served yet, or ``None`` once one can.

        Ready means that a poll of every node has ended and one of them answers.
        """
        nodes = self._nodes.values()
        waiting = [node.name for node in nodes if node.last_answer_at is None and not node.failures]
        if waiting:
            return f"not polled yet: {', '.join(waiting)}"
        if any(node.health in ANSWERING_HEALTH for node in nodes):
            return None
        return "no node answers: " + "; ".join(f"{node.name}: {node.reason}" for node in nodes)

    def _replica_view(self, node: _Node, model: str) -> ReplicaView:
        replica = node.replicas[model]
        return ReplicaView(
            node=node.name,
            model=model,
            health=node.health,
            state=replica.state,
            leases=replica.leases,
            capacity=self._capacities.get(model, self._default_capacity),
            node_last_used=node.last_used,
        )
