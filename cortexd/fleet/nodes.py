"""Nodes, their replicas and the leases on them: the parts of a fleet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.fleet.breaker import Breaker
from cortexd.fleet.demand import Demand, PastDemand
from cortexd.fleet.sleep.power import Power, PowerTerms
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    RESIDENT_STATES,
    NodeHealth,
    Observation,
    Operation,
    ReplicaState,
    SystemInfo,
)
from cortexd.text import printable
from cortexd.values import value

GIVEN_UP_EJECTIONS: Final = 2
"""How many ejections in a row make another copy worth an eviction."""

ReplicaKey = tuple[str, str]
"""A node's name and a model's id: together they name a replica."""


@dataclass(frozen=True, slots=True)
class NodeTerms:
    """The configuration of a node: memory in MiB, ``max_resident`` 0 for no limit.

    A node that is not managed decides itself which models it loads and unloads, and their memory is
    not booked. ``engine`` is the name of its kind of server. A node with ``power`` may sleep.
    ``labels`` are the words for it in the terms of models.
    """

    name: str
    endpoint: str
    budget_mb: int
    max_resident: int = 0
    pinned: tuple[str, ...] = ()
    is_managed: bool = True
    engine: str = ""
    power: PowerTerms | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """The configuration of a model.

    ``capacity`` is the number of slots of one replica. A model of higher ``priority`` is evicted
    later. ``ttl`` is after how many seconds without use a replica is unloaded, 0 for never.

    At least ``min_copies`` replicas are loaded, and at most ``max_copies``, 0 for any number. With
    ``only_on`` the model is used only on nodes with one of these labels. Of several nodes it is
    loaded on those with a label in ``prefer``, the first label first.
    """

    capacity: int
    priority: int = 0
    ttl: float = 0.0
    min_copies: int = 0
    max_copies: int = 0
    only_on: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()

    def allow(self, labels: Collection[str]) -> bool:
        """Whether the model may be used on a node with these labels."""
        return not self.only_on or any(label in labels for label in self.only_on)

    def distance(self, labels: Collection[str]) -> int:
        """Return how far a node with these labels is from the preferred ones, 0 for the first."""
        for position, label in enumerate(self.prefer):
            if label in labels:
                return position
        return len(self.prefer)


def least_copies(models: Mapping[str, ModelTerms]) -> dict[str, int]:
    """Return the ``min_copies`` of the models that have any."""
    return {model: terms.min_copies for model, terms in models.items() if terms.min_copies}


@value
class Lease:
    """One request that occupies a slot of a replica, and of its ``base`` if it is an adapter's.

    ``is_probe`` marks a question of our own, which is no use of the replica. ``requester`` is for
    whom the request is sent.
    """

    number: int
    node: str
    model: str
    request_id: str
    granted_at: float
    base: str | None = None
    is_probe: bool = False
    requester: Requester = ANYONE

    def __repr__(self) -> str:
        where = f"{printable(self.model)} on {printable(self.node)}"
        return f"<Lease {self.number}: {where} for {printable(self.request_id)}>"


@dataclass(slots=True, eq=False, repr=False)
class Replica:
    """One model on one node.

    ``probes`` are those of its ``leases`` that take no slot from a request. ``ghosts`` counts
    requests whose clients have left while its engine may still be reading their prompts.
    ``loaded_at`` is when it became loaded while the daemon watched, 0 if it was found loaded.
    ``changed_at`` is when we last learned of a change other than by a poll. ``failures`` counts
    failed loads in a row; the next load may be tried at ``retry_at``, the next unload after a
    failed one at ``keep_until``. ``refused_mb`` is how much memory was free when its last load ran
    out of memory. ``stuck_polls`` counts polls in a row that saw it stuck. ``overdue``: the load
    has lasted so long that it counts as hanging. ``lost_load``: the node ceased to answer during
    the load, so that its end is not known yet. ``is_remembered``: an earlier process of ours knew
    it, and its node has not answered this one yet. ``breaker`` has its last faults, ``None`` while
    it is trusted. ``order`` is its place among the replicas of its node. ``is_allowed``:
    the model may be used on the node (``ModelTerms.only_on``). ``dearness`` is how many times
    longer it loads for its size than other models on its node.

    A LoRA adapter is listed like a model while its ``base`` is loaded (nodes.md 1.10). It takes no
    memory of its own, is loaded and unloaded with the base, and its leases hold the base too.
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
    probes: int = 0
    ghosts: int = 0
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
    is_remembered: bool = False
    breaker: Breaker | None = None
    order: int = 0
    is_allowed: bool = True
    dearness: float = 1.0

    @property
    def key(self) -> ReplicaKey:
        """The names of its node and its model."""
        return self.node.name, self.model

    def remember(self, used_at: float, past: PastDemand) -> None:
        """Mark it as remembered, with its last use, and the past demand for the model."""
        self.is_remembered, self.last_used_at = True, used_at
        self.note_odd()
        self.node.last_used_at = max(self.node.last_used_at, used_at)
        if self.base is not None:
            self.node.adapters[self.model] = self.base
        if not self.demand.times:
            self.demand.restore(past, self.model)

    def note_odd(self) -> None:
        """Let its node look at it whenever it is looked for what is odd there."""
        self.node.odd[self.model] = self

    @property
    def is_odd(self) -> bool:
        """Whether it is not just loaded or unloaded and in order.

        It loads or is stuck, its last load ran out of memory, it is ejected, or it is remembered.
        """
        return bool(
            self.state is ReplicaState.LOADING
            or self.listed is ReplicaState.STUCK
            or self.stuck_polls
            or self.refused_mb
            or self.is_ejected
            or self.is_remembered
        )

    @property
    def is_listed(self) -> bool:
        """Whether its node still lists the model."""
        return self.node.replicas.get(self.model) is self

    def take_terms(self, terms: ModelTerms) -> None:
        """Let the terms of its model hold, and the pins and the labels of its node.

        An adapter goes where its base goes.
        """
        self.terms = terms
        self.is_allowed = self.base is not None or terms.allow(self.node.labels)
        self.pinned = self.model in self.node.pins

    def check_listed(self) -> None:
        """Raise KeyError where its node does not list the model any more."""
        if not self.is_listed:
            raise KeyError(f"node {self.node.name} does not list {self.model} any more")

    @property
    def is_resident(self) -> bool:
        """Whether it takes memory that is booked on its node."""
        return self.state in RESIDENT_STATES and self.base is None and self.node.is_managed

    @property
    def has_slot(self) -> bool:
        """Whether one of its slots is free."""
        return self.leases - self.probes < self.terms.capacity

    @property
    def answers(self) -> bool:
        """Whether it may get a request now, if it has a free slot."""
        if self.state not in ANSWERING_STATES or not self.node.takes_work:
            return False
        if self.base is None:
            return self.is_allowed
        base = self.node.replicas.get(self.base)
        return base is not None and base.answers

    @property
    def is_ejected(self) -> bool:
        """Whether it gets no requests because it has failed too many."""
        return self.breaker is not None and self.breaker.is_ejected

    @property
    def is_copy(self) -> bool:
        """Whether it stands for its model, so that nothing is evicted for another copy.

        An ejected replica does until its first trial has failed.
        """
        breaker = self.breaker
        return self.answers and (
            breaker is None or not breaker.is_ejected or breaker.ejections < GIVEN_UP_EJECTIONS
        )

    def __repr__(self) -> str:
        # Short and without nesting: a replica knows its node, which knows all its replicas.
        where = f"{printable(self.model)} on {printable(self.node.name)}"
        notes = [self.state.value, counted(self.leases, "lease")]
        notes += ["pinned"] * self.pinned + ["ejected"] * self.is_ejected
        return f"<Replica {where}: {', '.join(notes)}>"


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """One machine with a mistral.rs server; memory in MiB, times in seconds.

    ``residents`` are the replicas that take memory, ``unsettled`` those of them that load, unload
    or are stuck. ``listed`` has the listed state of each of its models; ``odd`` has each replica
    that ``is_odd``, and may have others. ``moved_at`` is when we last learned that a replica
    appeared or vanished, or that a load or an unload began or ended; memory that was read at
    ``read_at``, after that, counts.
    ``leaked_mb`` is what unloads did not free. ``shortfall_mb`` is how much less memory was free
    than the books say, when the node last reported it at rest, whatever has taken it;
    ``missing_mb`` is the part of it that counts. A node that is not managed decides itself what it
    loads and unloads. ``adapters`` has the base of each adapter that a load of its base brings,
    listed now or not. An ``unreachable`` node did not answer a load, or closed a connection at
    ``doubted_at``; the next poll that was sent after that shows more. ``is_shrinking``: a new
    configuration allows less than is resident, so that idle replicas go until the rest fits.
    ``agent`` is what the node's agent can do, ``None`` while none is connected, and ``report`` its
    last report, of ``reported_at``; at ``ended_at`` it took the node down, because the process that
    was ``ended_created`` had ended. ``others_mb`` is how much of the budget other programs took
    when that was last told. ``closed`` says why the node takes no work for a while, such as a
    restart that we plan; it is empty while the node is open. ``awaits_restart``: it is not closed,
    and a restart is due that requests wait for. ``boot_leaked_mb`` and ``boot_unloads`` are what
    the unloads after its process's start have left behind, and their number: a restart would bring
    both back.
    ``answered_at`` is when a request was last answered whole, noted while any replica is ejected.
    ``power`` says whether its machine sleeps. ``labels`` are the words for it in the terms of
    models.
    ``is_heard``: no poll has failed since the node last answered one, if it ever did.
    ``booked_by`` is the generation of the footprints by which its memory was booked last.
    """

    position: int
    name: str
    endpoint: str
    budget_mb: int
    max_resident: int
    since: float
    is_managed: bool = True
    engine: str = ""
    health: NodeHealth = NodeHealth.UNKNOWN
    reason: str = "not polled yet"
    failures: int = 0
    created: int | None = None
    restarts: int = 0
    is_heard: bool = True
    last_answer_at: float | None = None
    last_used_at: float = 0.0
    system: SystemInfo | None = None
    moved_at: float = float("-inf")
    read_at: float = float("-inf")
    cordoned: bool = False
    pins: dict[str, None] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    listed: dict[str, ReplicaState] = field(default_factory=dict)
    odd: dict[str, Replica] = field(default_factory=dict)
    residents: tuple[Replica, ...] = ()
    unsettled: tuple[Replica, ...] = ()
    leases: int = 0
    resident_mb: int = 0
    leaked_mb: int = 0
    shortfall_mb: int = 0
    missing_mb: int = 0
    unreachable: bool = False
    doubted_at: float = float("-inf")
    unload_cycles: int = 0
    is_shrinking: bool = False
    agent: AgentAbilities | None = None
    report: AgentReport | None = None
    reported_at: float = float("-inf")
    ended_at: float = float("-inf")
    ended_created: int | None = None
    others_mb: int = 0
    closed: str = ""
    awaits_restart: bool = False
    boot_leaked_mb: int = 0
    boot_unloads: int = 0
    answered_at: float = float("-inf")
    power: Power = field(default_factory=Power)
    labels: frozenset[str] = frozenset()
    booked_by: int = -1

    @property
    def resident(self) -> int:
        """How many of its replicas take memory."""
        return len(self.residents)

    @property
    def committed_mb(self) -> int:
        """The memory that is booked, and the memory that is leaked or missing."""
        return self.resident_mb + max(self.leaked_mb, self.missing_mb)

    @property
    def usable_mb(self) -> int:
        """What models may fill now: the budget without what other programs take of it."""
        return self.budget_mb - self.others_mb

    @property
    def free_mb(self) -> int:
        """The memory that is still free; below 0 if another program took more than the budget."""
        leaked_mb, missing_mb = self.leaked_mb, self.missing_mb
        lost_mb = leaked_mb if leaked_mb > missing_mb else missing_mb
        return self.budget_mb - self.others_mb - self.resident_mb - lost_mb

    @property
    def is_doubted(self) -> bool:
        """Whether its process may have ended, as no poll has shown yet."""
        return self.unreachable and self.doubted_at > float("-inf")

    @property
    def takes_work(self) -> bool:
        """Whether requests and loads may go there."""
        if self.health not in ANSWERING_HEALTH:
            return False
        return not (self.cordoned or self.unreachable or self.closed)

    def take_adapters(self, observation: Observation) -> None:
        """Note the adapters that the node lists, and forget those that have gone for good.

        An adapter is listed while its base is loaded only (nodes.md 1.10). One that is missing
        beside its loaded base has gone: it was loaded at runtime, or left the configuration.
        """
        listed = observation.replicas
        known = {**self.adapters, **observation.bases}
        self.adapters = {
            adapter: base
            for adapter, base in known.items()
            if adapter in listed or listed.get(base) not in (None, ReplicaState.LOADED)
        }

    def __repr__(self) -> str:
        notes = [
            self.health.value,
            f"{self.resident} of {counted(len(self.replicas), 'model')} resident",
            f"{self.committed_mb} of {self.usable_mb} MiB",
            counted(self.leases, "lease"),
        ]
        notes += ["cordoned"] * self.cordoned + ["unreachable"] * self.unreachable
        notes += ["closed"] * bool(self.closed)
        return f"<Node {printable(self.name)}: {', '.join(notes)}>"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s where it is not one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
