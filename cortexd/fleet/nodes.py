"""Nodes, their replicas and the leases on them: what the fleet is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from cortexd.config.addresses import printable
from cortexd.fleet.demand import Demand
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    RESIDENT_STATES,
    NodeHealth,
    Operation,
    ReplicaState,
    SystemInfo,
)

ReplicaKey = tuple[str, str]
"""A node's name and a model's id: together they name a replica."""


@dataclass(frozen=True, slots=True)
class NodeTerms:
    """What the configuration says of a node: memory in MiB, ``max_resident`` 0 for no limit.

    The models of a node that is not managed come and go as it likes, and nobody counts what they
    take.
    """

    name: str
    endpoint: str
    budget_mb: int
    max_resident: int = 0
    pinned: tuple[str, ...] = ()
    is_managed: bool = True


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """What the configuration says of a model.

    ``capacity`` is the leases one replica may hold at once, ``priority`` is higher for what is
    kept longer, ``ttl`` the seconds without use after which it goes, 0 for never.
    """

    capacity: int
    priority: int = 0
    ttl: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Lease:
    """One request holding a replica, and with an adapter's its ``base``."""

    number: int
    node: str
    model: str
    request_id: str
    granted_at: float
    base: str | None = None

    def __repr__(self) -> str:
        where = f"{printable(self.model)} on {printable(self.node)}"
        return f"<Lease {self.number}: {where} for {printable(self.request_id)}>"


@dataclass(slots=True, eq=False, repr=False)
class Replica:
    """One model on one node.

    ``loaded_at`` is when it became loaded while we looked, 0 where it was found so.
    ``changed_at`` is when we last learned of it otherwise than by a poll. ``failures`` are loads
    that failed in a row, the next of which may be tried at ``retry_at``; an unload that failed is
    not tried again before ``keep_until``. ``refused_mb`` is with how much free memory its last load
    ran out of it. ``stuck_polls`` are polls in a row that saw it stuck, and one that is ``overdue``
    loads for so long that it is taken to hang. Of a ``lost_load`` nobody knows the end yet: during
    it the node ceased to answer.

    A LoRA adapter is listed like a model while its ``base`` is loaded (nodes.md 1.10). It takes no
    memory of its own, comes and goes with the base, and its leases hold the base.
    """

    node: Node
    model: str
    terms: ModelTerms
    listed: ReplicaState
    state: ReplicaState
    since: float
    changed_at: float = float("-inf")
    operation: Operation | None = None
    leases: int = 0
    last_used_at: float = 0.0
    loaded_at: float = 0.0
    pinned: bool = False
    footprint_mb: int = 0
    demand: Demand = field(default_factory=Demand)
    failures: int = 0
    failure: str = ""
    retry_at: float = 0.0
    stuck_polls: int = 0
    load_began_at: float = 0.0
    keep_until: float = 0.0
    refused_mb: int = 0
    overdue: bool = False
    lost_load: bool = False
    base: str | None = None

    @property
    def key(self) -> ReplicaKey:
        """The names of its node and its model."""
        return self.node.name, self.model

    @property
    def is_listed(self) -> bool:
        """Whether its node still lists the model."""
        return self.node.replicas.get(self.model) is self

    @property
    def is_resident(self) -> bool:
        """Whether it takes memory of its node, as far as that is for us to share out."""
        return self.state in RESIDENT_STATES and self.base is None and self.node.is_managed

    @property
    def answers(self) -> bool:
        """Whether it may be given a request now, if it has a free slot."""
        if self.state not in ANSWERING_STATES or not self.node.takes_work:
            return False
        if self.base is None:
            return True
        base = self.node.replicas.get(self.base)
        return base is not None and base.answers

    def __repr__(self) -> str:
        # Short and without nesting: a replica knows its node, which knows all its replicas.
        where = f"{printable(self.model)} on {printable(self.node.name)}"
        notes = [self.state.value, counted(self.leases, "lease")]
        notes += ["pinned"] * self.pinned
        return f"<Replica {where}: {', '.join(notes)}>"


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """One machine with a mistral.rs server; memory in MiB, times in seconds.

    ``residents`` are those of its replicas that take memory, ``unsettled`` those of them that
    load, unload or are stuck. ``moved_at`` is when we last learned that a replica came or went,
    or began to. ``leaked_mb`` is what unloads did not give back. ``shortfall_mb`` is how much
    less than what is booked was free when the node last said so at rest, whoever has it, and
    ``missing_mb`` what of that is believed. One that is not managed loads and unloads as it
    likes. A node that is ``unreachable`` did not answer a load; the next poll says more.
    """

    position: int
    name: str
    endpoint: str
    budget_mb: int
    max_resident: int
    since: float
    is_managed: bool = True
    health: NodeHealth = NodeHealth.UNKNOWN
    reason: str = "not polled yet"
    failures: int = 0
    created: int | None = None
    restarts: int = 0
    last_answer_at: float | None = None
    last_used_at: float = 0.0
    system: SystemInfo | None = None
    moved_at: float = float("-inf")
    cordoned: bool = False
    pins: dict[str, None] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    residents: tuple[Replica, ...] = ()
    unsettled: tuple[Replica, ...] = ()
    leases: int = 0
    resident_mb: int = 0
    leaked_mb: int = 0
    shortfall_mb: int = 0
    missing_mb: int = 0
    unreachable: bool = False
    unload_cycles: int = 0

    @property
    def resident(self) -> int:
        """How many of its replicas take memory."""
        return len(self.residents)

    @property
    def committed_mb(self) -> int:
        """What is taken, and what is not there for other reasons."""
        return self.resident_mb + max(self.leaked_mb, self.missing_mb)

    @property
    def free_mb(self) -> int:
        """What may still be filled; below 0 where somebody else filled more than the budget."""
        return self.budget_mb - self.committed_mb

    @property
    def takes_work(self) -> bool:
        """Whether requests and loads may be sent there."""
        return self.health in ANSWERING_HEALTH and not (self.cordoned or self.unreachable)

    def __repr__(self) -> str:
        notes = [
            self.health.value,
            f"{self.resident} of {counted(len(self.replicas), 'model')} resident",
            f"{self.committed_mb} of {self.budget_mb} MiB",
            counted(self.leases, "lease"),
        ]
        notes += ["cordoned"] * self.cordoned + ["unreachable"] * self.unreachable
        return f"<Node {printable(self.name)}: {', '.join(notes)}>"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s where it is not one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
