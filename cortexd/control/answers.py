"""Summaries of the fleet and of its decisions, for control: pure, ``now`` is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar, overload

from cortexd.control.repair_answers import given_up_words, restart_summary
from cortexd.control.summaries import (
    AbilitiesSummary,
    CandidateSummary,
    DecisionSummary,
    LeaseSummary,
    ModelReplicaSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
    RequestSummary,
    SwapSummary,
    UnloadSummary,
)
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.memory import over_mb
from cortexd.fleet.nodes import Lease, Node, Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, ReplicaState
from cortexd.gateway.waits.loads import progress
from cortexd.scheduling.decisions import Candidate, Decision
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.swaps import Swap
from cortexd.scheduling.waiting import Waiter
from cortexd.scheduling.wishes import Plan

WAITING = "waiting"
"""The outcome of a request that still waits."""

EJECTED_SHOWN: Final = 20
"""How many ejected models the summary of a node names: a summary must fit into an AMP value."""

Thing = TypeVar("Thing")
Summary = TypeVar("Summary")


SILENT_SHOWN: Final = 10
"""How many nodes that do not answer a refusal names."""


def unlisted(fleet: Fleet, model: str) -> str:
    """Return the refusal of a model that no node lists: nodes that do not answer may have it."""
    silent = [name for name, node in fleet.nodes.items() if node.health not in ANSWERING_HEALTH]
    if not silent:
        return f"no node lists a model {model!r}"
    further = f" and {len(silent) - SILENT_SHOWN} more" if len(silent) > SILENT_SHOWN else ""
    names = ", ".join(silent[:SILENT_SHOWN])
    return f"no node lists a model {model!r}, and some do not answer: {names}{further}"


class Summaries(Sequence[Summary], Generic[Thing, Summary]):
    """A lazy sequence of summaries: a page needs only a few of them."""

    def __init__(self, things: Sequence[Thing], summarize: Callable[[Thing], Summary]) -> None:
        self._things = things
        self._summarize = summarize

    def __len__(self) -> int:
        return len(self._things)

    @overload
    def __getitem__(self, index: int) -> Summary: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Summary]: ...
    def __getitem__(self, index: int | slice) -> Summary | Sequence[Summary]:
        if isinstance(index, slice):
            return Summaries(self._things[index], self._summarize)
        return self._summarize(self._things[index])


def node_summary(scheduler: Scheduler, node: Node, now: float) -> NodeSummary:
    """Return the summary of a node."""
    system = node.system
    swap = scheduler.swaps.on(node.name)
    restart = scheduler.restarts.on(node.name)
    return NodeSummary(
        name=node.name,
        endpoint=node.endpoint,
        health=node.health.value,
        reason=node.reason,
        since=node.since,
        last_answer_at=node.last_answer_at,
        version=system.version if system else None,
        memory_total_mb=system.memory_total_mb if system else None,
        memory_free_mb=system.memory_free_mb if system else None,
        memory_budget_mb=node.budget_mb,
        restarts=node.restarts,
        leases=node.leases,
        replica_states=dict(Counter(replica.state.value for replica in node.replicas.values())),
        memory_committed_mb=node.committed_mb,
        memory_leaked_mb=node.leaked_mb,
        memory_missing_mb=node.missing_mb,
        cordoned=node.cordoned,
        restart_reason=scheduler.restart_reason(node, now),
        swap=swap_summary(scheduler, swap, now) if swap is not None else None,
        unloads=node.unload_cycles,
        pins=list(node.pins),
        is_managed=node.is_managed,
        unlisted_pins=_unlisted_pins(node),
        ejected=_ejected(node),
        agent=node.agent.version if node.agent is not None else None,
        engine_given_up=given_up_words(node),
        closed=node.closed,
        others_mb=node.others_mb,
        over_budget_mb=over_mb(node),
        restart=restart_summary(restart, now) if restart is not None else None,
    )


def _unlisted_pins(node: Node) -> list[str]:
    if node.health not in ANSWERING_HEALTH:
        return []
    return [model for model in node.pins if model not in node.replicas]


def _ejected(node: Node) -> dict[str, str]:
    ejected = (
        (model, replica.breaker.reason)
        for model, replica in node.replicas.items()
        if replica.breaker is not None and replica.breaker.is_ejected
    )
    return dict(islice(ejected, EJECTED_SHOWN))


def swap_summary(scheduler: Scheduler, swap: Swap, now: float) -> SwapSummary:
    """Return the summary of a node's swap."""
    return SwapSummary(
        phase=swap.phase,
        target=swap.target.model if swap.target is not None else None,
        victims=[victim.model for victim in swap.victims],
        moving=swap.moving.model if swap.moving is not None else None,
        leases=sum(victim.leases for victim in swap.victims),
        age_seconds=_span(swap.since, now),
        decision=swap.number,
        expected_seconds=_rest(scheduler, [swap.target] if swap.target is not None else [], now),
    )


def _rest(scheduler: Scheduler, replicas: Iterable[Replica], now: float) -> float | None:
    """Return in how many seconds the first load of these replicas is expected to end."""
    loads = (progress(scheduler, each, now) for each in replicas)
    rests = (load.rest for load in loads if load is not None and load.is_measured)
    rest = min(rests, default=None)
    return None if rest is None else round(rest, 3)


def replica_summary(scheduler: Scheduler, replica: Replica, now: float) -> ReplicaSummary:
    """Return the summary of one model on one node."""
    swap = scheduler.swaps.on(replica.node.name)
    footprints = scheduler.fleet.footprints
    is_loaded = replica.state in (*ANSWERING_STATES, ReplicaState.DRAINING)
    # A replica that was found loaded and was never used since is idle since it was found.
    idle_since = max(replica.last_used_at, replica.loaded_at) or replica.since
    return ReplicaSummary(
        model=replica.model,
        state=replica.state.value,
        leases=replica.leases,
        capacity=replica.terms.capacity,
        footprint_mb=replica.footprint_mb if replica.is_resident else 0,
        pinned=replica.pinned,
        idle_seconds=_span(now if replica.leases else idle_since, now) if is_loaded else None,
        loaded_seconds=_span(replica.loaded_at, now) if is_loaded and replica.loaded_at else None,
        operation=replica.operation.value if replica.operation is not None else None,
        is_coming=swap is not None and swap.target is replica,
        failures=replica.failures,
        failure=replica.failure if replica.failures else "",
        retry_seconds=_span(now, replica.retry_at) if now < replica.retry_at else None,
        footprint_is_known=footprints.known_mb(replica.node.name, replica.model) is not None,
        node_health=replica.node.health.value,
        ejected_seconds=_span(now, _trial_at(replica, now)) if replica.is_ejected else None,
        ejection_reason=replica.breaker.reason if replica.is_ejected and replica.breaker else "",
        ghosts=replica.ghosts,
        expected_seconds=_rest(scheduler, [replica], now),
    )


def _trial_at(replica: Replica, now: float) -> float:
    """Return when an ejected replica gets its trial, which is now while that runs."""
    breaker = replica.breaker
    return now if breaker is None or breaker.trial is not None else max(now, breaker.until)


def lease_summary(lease: Lease, now: float) -> LeaseSummary:
    """Return the summary of a request that holds a replica."""
    return LeaseSummary(
        request_id=lease.request_id,
        model=lease.model,
        node=lease.node,
        age_seconds=_span(lease.granted_at, now),
        key=lease.requester.name,
    )


def model_summary(
    scheduler: Scheduler, model: str, now: float, abilities: Sequence[AbilitiesSummary] = ()
) -> ModelSummary:
    """Return the summary of a model over all nodes."""
    fleet, waiting = scheduler.fleet, scheduler.waiting
    replicas = list(fleet.replicas(model))
    nodes = [replica.node.name for replica in replicas]
    head = waiting.head(model)
    swaps = scheduler.swaps if scheduler.swaps.brings(model) else ()
    return ModelSummary(
        id=model,
        replicas=[_model_replica_summary(replica) for replica in replicas],
        leases=sum(replica.leases for replica in replicas),
        waiting=waiting.count(model),
        longest_wait_seconds=_span(head.since, now) if head is not None else None,
        pinned_on=[replica.node.name for replica in replicas if replica.pinned],
        coming_on=[swap.node.name for swap in swaps if swap.target and swap.target.model == model],
        footprint_mb=_largest(fleet.footprints.known_mb(node, model) for node in nodes),
        load_seconds=_largest(fleet.footprints.load_seconds(node, model) for node in nodes),
        abilities=list(abilities),
        expected_seconds=_rest(scheduler, replicas, now),
    )


def _model_replica_summary(replica: Replica) -> ModelReplicaSummary:
    return ModelReplicaSummary(
        node=replica.node.name,
        state=replica.state.value,
        node_health=replica.node.health.value,
        ejected=replica.is_ejected,
    )


def plan_summary(fleet: Fleet, plan: Plan) -> PlanSummary:
    """Return the summary of a load's consequences."""
    model = plan.option.replica.model
    return PlanSummary(
        model=model,
        node=plan.node,
        victims=list(plan.victims),
        seconds=round(plan.seconds, 3),
        is_measured=fleet.footprints.load_seconds(plan.node, model) is not None,
        cost=plan.cost,
        candidates=[candidate_summary(candidate) for candidate in plan.candidates],
    )


def unload_summary(model: str, replicas: Sequence[Replica]) -> UnloadSummary:
    """Return the summary of an unload of these replicas of a model."""
    return UnloadSummary(
        model=model,
        nodes=[replica.node.name for replica in replicas],
        leases=sum(replica.leases for replica in replicas),
    )


def candidate_summary(candidate: Candidate) -> CandidateSummary:
    """Return the summary of a node that a decision considered."""
    return CandidateSummary(
        node=candidate.node,
        possible=candidate.possible,
        cost=candidate.cost,
        victims=list(candidate.victims),
    )


def decision_summary(decision: Decision, now: float) -> DecisionSummary:
    """Return the summary of a decision."""
    return DecisionSummary(
        number=decision.number,
        age_seconds=_span(decision.at, now),
        action=decision.action,
        model=decision.model,
        node=decision.node,
        reason=decision.reason,
        victims=list(decision.victims),
        cost=decision.cost,
        seconds=round(decision.seconds, 3),
        candidates=[candidate_summary(candidate) for candidate in decision.candidates],
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decisions about a model, a request or a node, the latest first."""

    request: RequestSummary | None
    decisions: Sequence[Decision]


def explain(scheduler: Scheduler, what: str, now: float) -> Explanation | None:
    """Return the explanation for a model or a request, by its id, or for a node, by its name.

    Returns ``None`` if there is no such thing.
    For a request, it has the decision that loaded the model for it, or that is loading it.
    """
    decisions = scheduler.decisions
    about = decisions.about(what)
    if about or what in scheduler.fleet:
        return Explanation(None, about)
    request = _request_summary(scheduler, what, now)
    if request is None:
        return Explanation(None, decisions.on(what)) if what in scheduler.fleet.nodes else None
    decision = decisions.number(request.decision) if request.decision is not None else None
    return Explanation(request, [decision] if decision is not None else [])


def _request_summary(scheduler: Scheduler, request_id: str, now: float) -> RequestSummary | None:
    for waiter in scheduler.waiting:
        if waiter.request_id == request_id:
            return RequestSummary(
                request_id=request_id,
                model=waiter.model,
                outcome=WAITING,
                node=None,
                age_seconds=_span(waiter.since, now),
                queued_seconds=_span(waiter.since, now),
                key=waiter.requester.name,
                passed_by_class=waiter.passed_by_class,
                passed_by_share=waiter.passed_by_share,
                decision=_awaited(scheduler, waiter),
            )
    trail = scheduler.decisions.request(request_id)
    if trail is None:
        return None
    return RequestSummary(
        request_id=request_id,
        model=trail.model,
        outcome=trail.outcome,
        node=trail.node,
        age_seconds=_span(trail.at, now),
        queued_seconds=round(trail.queued_seconds, 3),
        decision=trail.load,
        passed_by_class=trail.passed_by_class,
        passed_by_share=trail.passed_by_share,
        affinity=trail.affinity,
    )


def _awaited(scheduler: Scheduler, waiter: Waiter) -> int | None:
    """Return the number of the decision to load or restart that a request waits for."""
    for swap in scheduler.swaps:
        if swap.target is not None and swap.target.model == waiter.model:
            return swap.number
    restart = scheduler.restarts.awaited_by(waiter.model, waiter.only)
    return restart.number if restart is not None else None


def _span(since: float, until: float) -> float:
    """Return the seconds between two times, rounded to milliseconds."""
    return round(max(0.0, until - since), 3)


Number = TypeVar("Number", int, float)


def _largest(numbers: Iterable[Number | None]) -> Number | None:
    return max((number for number in numbers if number is not None), default=None)
