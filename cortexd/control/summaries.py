"""What control tells of nodes, models, requests and decisions: values that travel as JSON.

Memory is in MiB and spans of time in seconds; a moment is told as its age, so that whoever reads it
needs not the daemon's clock. ``None`` stands for what nobody knows. Fields with a default were
added later: an older daemon does not send them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class SwapSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The change of models under way on a node: ``victims`` are still to go, ``target`` comes.

    ``phase`` is a word of ``cortexd.scheduling.swaps``, ``moving`` the model that is being loaded
    or unloaded right now, ``leases`` the requests that run on victims, and ``decision`` the number
    of the decision that ``Why`` tells.
    """

    phase: str
    target: str | None
    victims: list[str]
    moving: str | None
    leases: int
    age_seconds: float
    decision: int


class NodeSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One node; its ``health`` and ``replica_states`` are in words of ``cortexd.fleet.states``.

    ``since`` is when the health became what it is and ``last_answer_at`` when a poll was last
    answered, both in unix seconds. Total and free memory are the node's own figures, of the
    accelerators where there are any; budget, committed, leaked and missing are those
    of ``cortexd.fleet.nodes``.
    ``replica_states`` counts the replicas in each state. ``unloads`` counts since the node's start;
    ``restart_reason`` says why it should be restarted, where it should be. ``unlisted_pins`` are
    those of ``pins`` that a node that answers does not list. One that is not managed
    speaks Messages alone: it tells neither version nor memory, and what it has loaded is its own
    business.
    """

    name: str
    endpoint: str
    health: str
    reason: str
    since: float
    last_answer_at: float | None
    version: str | None
    memory_total_mb: int | None
    memory_free_mb: int | None
    memory_budget_mb: int
    restarts: int
    leases: int
    replica_states: dict[str, int]
    memory_committed_mb: int = 0
    memory_leaked_mb: int = 0
    memory_missing_mb: int = 0
    cordoned: bool = False
    restart_reason: str | None = None
    swap: SwapSummary | None = None
    unloads: int = 0
    pins: list[str] = []
    is_managed: bool = True
    unlisted_pins: list[str] = []


class ReplicaSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One model on one node; ``leases`` of at most ``capacity`` are held.

    ``footprint_mb`` is what is booked for it, 0 where it is not resident, and no more than assumed
    unless ``footprint_is_known``. Where ``node_health``, that of its node, is no answering one,
    ``state`` is what it was when the node last answered. ``idle_seconds`` is since
    its last use or, if there was none, since it was loaded or found so, ``None`` where it is not
    loaded; ``loaded_seconds`` is since its load, ``None`` where the daemon saw none. ``operation``
    is what the daemon does to it, and ``is_coming`` whether a swap is under way for it.
    ``failures`` are loads that failed in a row, the last one for ``failure``; the next may be tried
    in ``retry_seconds``.
    """

    model: str
    state: str
    leases: int
    capacity: int
    footprint_mb: int = 0
    pinned: bool = False
    idle_seconds: float | None = None
    loaded_seconds: float | None = None
    operation: str | None = None
    is_coming: bool = False
    failures: int = 0
    failure: str = ""
    retry_seconds: float | None = None
    footprint_is_known: bool = True
    node_health: str = "up"


class LeaseSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One request that holds a replica, for ``age_seconds`` so far."""

    request_id: str
    model: str
    node: str
    age_seconds: float


class ModelReplicaSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The state of a model on one of the nodes that list it, as ReplicaSummary has it."""

    node: str
    state: str
    node_health: str = "up"


class ModelSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One model over all nodes that list it, in ``replicas`` by the configuration's order.

    ``waiting`` requests wait for it, the first of them for ``longest_wait_seconds``. Footprint and
    ``load_seconds`` are the largest that are known of any node. ``coming_on`` are the nodes where a
    swap for it is under way.
    """

    id: str
    replicas: list[ModelReplicaSummary] = msgspec.field(name="places")
    leases: int
    waiting: int
    longest_wait_seconds: float | None
    pinned_on: list[str]
    coming_on: list[str]
    footprint_mb: int | None
    load_seconds: float | None


class CandidateSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One node that a decision looked at: what it would have cost, or why it could not be."""

    node: str
    possible: bool
    cost: str
    victims: list[str]


class PlanSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What loading a model does: on which node, after giving up what, and how long it may take.

    ``seconds`` is the load alone, once its victims are idle; ``is_measured`` says whether it was
    learned from loads or is only assumed.
    """

    model: str
    node: str
    victims: list[str]
    seconds: float
    is_measured: bool
    cost: str
    candidates: list[CandidateSummary]


class UnloadSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What unloading a model does: on which nodes, once ``leases`` requests there have ended."""

    model: str
    nodes: list[str]
    leases: int


class DecisionSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One decision to load or unload, or what became of one; ``seconds`` was its expectation."""

    number: int
    age_seconds: float
    action: str
    model: str
    node: str | None
    reason: str
    victims: list[str]
    cost: str
    seconds: float
    candidates: list[CandidateSummary]


class RequestSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What became of one request at the scheduler.

    ``outcome`` is "waiting", a word of ``cortexd.scheduling.decisions``, or why it was rejected. It
    waited for ``queued_seconds``; ``age_seconds`` is since its outcome, or since it came if it
    still waits. ``decision`` is the number of the decision that loads or loaded the model for it.
    """

    request_id: str
    model: str
    outcome: str
    node: str | None
    age_seconds: float
    queued_seconds: float
    decision: int | None


class EventSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the journal; ``at`` in unix seconds. Numbers count up."""

    number: int
    at: float
    kind: str
    node: str | None
    model: str | None
    fields: dict[str, Any]
