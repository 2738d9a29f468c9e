"""Summaries of nodes, models, requests and decisions, which control sends as JSON.

Memory is in MiB and durations are in seconds. A time is given as an age, so that a client need not
know the daemon's clock. ``None`` means unknown. Fields with a default were added later: an older
daemon does not send them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class SwapSummary(msgspec.Struct, kw_only=True, frozen=True):
    """A node's swap: ``victims`` are still to be unloaded, ``target`` is to be loaded.

    ``phase`` is a value of ``cortexd.scheduling.swaps``, ``moving`` the model that is being loaded
    or unloaded now, ``leases`` the number of requests on the victims, and ``decision`` the number
    of the decision, as in ``Why``. A load that runs is expected to end in ``expected_seconds``.
    """

    phase: str
    target: str | None
    victims: list[str]
    moving: str | None
    leases: int
    age_seconds: float
    decision: int
    expected_seconds: float | None = None


class RestartSummary(msgspec.Struct, kw_only=True, frozen=True):
    """A restart of a node's engine that is planned or under way.

    ``phase`` is a value of ``cortexd.scheduling.repairs.restarts``, and lasts for ``age_seconds``
    so far. ``waits_for`` says why a restart that is due has not begun. ``number`` is that of the
    decision, as in ``Why``.
    """

    number: int
    phase: str
    reason: str
    age_seconds: float
    waits_for: str = ""
    is_ordered: bool = False
    leases: int = 0


class NodeSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One node; ``health`` and ``replica_states`` have the values of ``cortexd.fleet.states``.

    ``since`` is the time of the last change of health, and ``last_answer_at`` that of the last
    answered poll, both in unix seconds. Total and free memory are the node's own figures, those of
    its accelerators if it has any. Budget, committed, leaked and missing memory are defined in
    ``cortexd.fleet.nodes``. ``replica_states`` counts the replicas in each state. ``unloads``
    counts since the node's start. ``restart_reason`` says why the node is due for a restart, if it
    is. ``unlisted_pins`` are those of ``pins`` that the node does not list although it answers. A
    node that is not managed speaks only Messages: it reports neither version nor memory, and loads
    and unloads models by itself. ``ejected`` are models that get no requests there because they
    failed, each with the reason of its last failure. ``agent`` is the version of the node's agent,
    ``None`` without one, and ``engine_given_up`` why that agent no longer starts the engine.
    ``closed`` says why the node takes no work for a while, empty if it does. Models may fill the
    budget less ``others_mb``, which other programs take; they take ``over_budget_mb`` too much.
    ``restart`` is planned or under way.
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
    ejected: dict[str, str] = {}
    agent: str | None = None
    engine_given_up: str = ""
    closed: str = ""
    others_mb: int = 0
    over_budget_mb: int = 0
    restart: RestartSummary | None = None


class EndedRestartSummary(msgspec.Struct, kw_only=True, frozen=True):
    """A restart that is over: ``failure`` is empty if it worked.

    ``seconds`` is how long the node took no work, ``models`` what was loaded there in the end.
    """

    number: int
    failure: str
    seconds: float
    models: list[str]


class RestartPlanSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What a restart of ``node`` would do; see ``cortexd.scheduling.repairs.planning``."""

    node: str
    reason: str
    leases: int
    moving: str
    after: list[str]
    begun: int
    budget: int
    models: list[str]
    pins: list[str]
    alone: list[str]
    planned: str = ""


class AgentSummary(msgspec.Struct, kw_only=True, frozen=True):
    """A node and its agent, which is ``connected`` or not: then nothing else is known.

    ``age_seconds`` is for how long it is connected. ``life`` has the values of
    ``cortexd.fleet.agents``, ``life_reason`` says why the engine does not answer, and ``source``
    where the amounts of memory come from. ``abilities`` are "restart", "log" and "suspend".
    """

    node: str
    connected: bool
    version: str = ""
    peer: str = ""
    age_seconds: float = 0.0
    abilities: list[str] = []
    life: str = ""
    life_reason: str = ""
    source: str = ""
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    others_mb: int | None = None
    engine_pid: int | None = None
    engine_rss_mb: int | None = None
    engine_restarts: int | None = None
    notes: list[str] = []


class ReplicaSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One model on one node; ``leases`` of its ``capacity`` slots are in use.

    ``footprint_mb`` is the memory booked for it, 0 if it is not resident; it is an assumption
    unless ``footprint_is_known``. ``node_health`` is that of its node: if the node does not answer,
    ``state`` is as of its last answer. ``idle_seconds`` counts from the last use or, without one,
    from the load or from when the model was found loaded; it is ``None`` if the model is not
    loaded. ``loaded_seconds`` counts from the load, and is ``None`` if the daemon did not load the
    model. ``operation`` is the daemon's current operation on it, and ``is_coming`` says whether a
    swap will load it. ``failures`` counts failed loads in a row, and ``failure`` is the reason of
    the last one; the next load may begin in ``retry_seconds``. A replica that is ejected gets one
    request in ``ejected_seconds``, 0 while that one runs, which decides whether it comes back;
    ``ejection_reason`` says why it is ejected. A load that runs is expected to end in
    ``expected_seconds``. ``ghosts`` requests have lost their clients while its engine may still be
    reading their prompts.
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
    ejected_seconds: float | None = None
    ejection_reason: str = ""
    ghosts: int = 0
    expected_seconds: float | None = None


class LeaseSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One request that holds a replica, for ``age_seconds`` so far.

    ``key`` is the name of its key, empty without one.
    """

    request_id: str
    model: str
    node: str
    age_seconds: float
    key: str = ""


class ModelReplicaSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The state of a model on one of the nodes that list it, as in ReplicaSummary."""

    node: str
    state: str
    node_health: str = "up"
    ejected: bool = False


class AbilitiesSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What is known of a model's chat template on one node: ``words`` by ability.

    ``state`` is "known", "wanted" until a probe that an operator ordered has ended, "failed" for
    the ``reason``, or "unknown".
    """

    node: str
    state: str
    words: dict[str, str] = {}
    reason: str = ""


class ModelSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One model over all nodes that list it; ``replicas`` are in the configuration's order.

    ``waiting`` is the number of requests in its queue, the first of which has waited for
    ``longest_wait_seconds``. ``footprint_mb`` and ``load_seconds`` are the largest known values of
    any node. ``coming_on`` are the nodes with a swap that will load it. ``abilities`` are in the
    order of ``replicas``. The first of its loads that run is expected to end in
    ``expected_seconds``.
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
    abilities: list[AbilitiesSummary] = []
    expected_seconds: float | None = None


class CandidateSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One node that a decision considered: its cost there, or why it was not possible."""

    node: str
    possible: bool
    cost: str
    victims: list[str]


class PlanSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The consequences of a load: its node, the models it evicts and its expected duration.

    ``seconds`` is the duration of the load itself, once its victims are idle. ``is_measured`` says
    whether it was learned from earlier loads or is an assumption.
    """

    model: str
    node: str
    victims: list[str]
    seconds: float
    is_measured: bool
    cost: str
    candidates: list[CandidateSummary]


class UnloadSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The consequences of an unload: its nodes, and the ``leases`` that it waits for there."""

    model: str
    nodes: list[str]
    leases: int


class DecisionSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One decision to load or unload, or its outcome; ``seconds`` is the expected duration."""

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
    """The outcome of one request at the scheduler.

    ``outcome`` is "waiting", a value of ``cortexd.scheduling.decisions``, or the reason of a
    rejection. The request waited for ``queued_seconds``. ``age_seconds`` counts from its outcome,
    or from its arrival if it still waits. ``decision`` is the number of the decision that loads or
    loaded the model for it. ``key`` is the name of its key. So many later requests were granted
    first: ``passed_by_class`` because of their class, ``passed_by_share`` because their keys had
    used less of the GPUs. ``affinity`` says how the
    replica fits what the request goes on with (``cortexd.scheduling.affinity.leaning``).
    """

    request_id: str
    model: str
    outcome: str
    node: str | None
    age_seconds: float
    queued_seconds: float
    decision: int | None
    key: str = ""
    passed_by_class: int = 0
    passed_by_share: int = 0
    affinity: str = ""


class EventSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of the journal; ``at`` in unix seconds. Numbers count up."""

    number: int
    at: float
    kind: str
    node: str | None
    model: str | None
    fields: dict[str, Any]


class ChangeSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One difference between two configurations: the path of its key, and what became of it.

    ``at_restart`` says that it takes effect at the next restart only.
    """

    key: str
    words: str
    at_restart: bool = False


class KeySummary(msgspec.Struct, kw_only=True, frozen=True):
    """One key with its limits, ``None`` for no limit; see ``cortexd.access.keys``.

    ``expires`` is in unix seconds, and so is ``former_until``, when the key before the last
    rotation ends or has ended.
    """

    name: str
    scopes: list[str]
    models: list[str]
    priority: str
    weight: float
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    token_budget: int | None = None
    budget_hours: float | None = None
    expires: float | None = None
    former_until: float | None = None


class UsageSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What the requests with a key have used in the last ``days``, today included, in UTC.

    The numbers are those of ``cortexd.access.usage.Usage``.
    """

    key: str
    days: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    uncounted_tokens: int
    gpu_seconds: float
    load_seconds: float
    loads: float
