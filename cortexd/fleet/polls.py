"""What polls and reports bring of nodes, and what that changes: the lower part of the fleet.

An observation (a poll brought a list) overrules what was known, unless we have learned of a change
since the poll was sent. A failure (a poll did not) may show that a node is down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cortexd.fleet.breaker import BreakerTerms
from cortexd.fleet.by_model import ByModel
from cortexd.fleet.demand import Demand, PastDemand
from cortexd.fleet.ejections import Ejections
from cortexd.fleet.footprints import UNTOLD_LOAD_TIMES, Footprints, load_limit
from cortexd.fleet.heat.visits import Visits
from cortexd.fleet.learning.lessons import Lessons
from cortexd.fleet.leases import Leases
from cortexd.fleet.memory import STEADY_STATES, book, note_others, rebook, settle
from cortexd.fleet.nodes import ModelTerms, Node, NodeTerms, Replica, least_copies
from cortexd.fleet.reconfiguring import Wishes, in_order, make_node
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    HEALTH_TRANSITIONS,
    LOADED_STATES,
    REPLICA_STATES,
    Change,
    HealthChanged,
    NodeRestarted,
    Observation,
    Operation,
    PollFailure,
    PollOutcome,
    ReplicaChanged,
    ReplicaState,
    SystemInfo,
)


class PolledFleet:
    """The nodes and replicas of a fleet, as their last polls and reports show them.

    ``models`` has the terms of the models in the configuration; all others have
    ``default_terms``.
    """

    def __init__(
        self,
        nodes: Iterable[NodeTerms],
        models: Mapping[str, ModelTerms],
        footprints: Footprints,
        *,
        default_terms: ModelTerms,
        now: float,
        down_after: int,
        load_timeout: float,
        breaker_terms: BreakerTerms | None = None,
    ) -> None:
        self._terms = dict(models)
        self.least_copies = least_copies(models)
        self._default_terms = default_terms
        self.wishes = Wishes()
        self.nodes: dict[str, Node] = {}
        for position, terms in enumerate(nodes):
            made = make_node(position, terms, self.wishes, self._terms_of, now)
            self.nodes[terms.name] = made
            footprints.note_budget(terms.name, terms.budget_mb)
        self.footprints = footprints
        self.lessons = Lessons()
        self.ejections = Ejections(breaker_terms or BreakerTerms())
        self._down_after = down_after
        self._load_timeout = load_timeout
        self._replicas = ByModel()
        self._demands: dict[str, Demand] = {}
        self._visits = Visits()
        self._leases = Leases(self.nodes)
        self._joined: set[str] = set()
        self._orders = 0

    def _terms_of(self, model: str) -> ModelTerms:
        return self._terms.get(model, self._default_terms)

    def remember(
        self, node: Node, model: str, base: str | None, used_at: float, past: PastDemand
    ) -> None:
        """Take a replica that a node listed earlier, as unloaded until the node answers.

        It was last used at ``used_at``, 0 for never; ``past`` is the demand for the model.
        """
        self._add_replica(node, model, ReplicaState.UNLOADED, base, node.since)
        node.replicas[model].remember(used_at, past)

    # Polls.

    def observe(
        self, name: str, observation: Observation, now: float, asked_at: float | None = None
    ) -> tuple[Change, ...]:
        """Take the observation of a poll; return what has changed.

        The poll was sent at ``asked_at``, ``None`` for a time after every known change. It does not
        overrule what we have learned of a replica since then.
        """
        node = self.nodes[name]
        changes = self._step(node, PollOutcome.ANSWERED, "answers", now)
        restarted = node.created is not None and observation.created not in (None, node.created)
        if restarted:
            node.restarts += 1
            node.leaked_mb = node.shortfall_mb = node.missing_mb = node.unload_cycles = 0
            node.boot_leaked_mb = node.boot_unloads = 0
            node.is_shrinking = False
            node.moved_at = now
            changes.append(NodeRestarted(name))
        node.failures, node.is_heard = 0, True
        was_unreachable = node.unreachable
        if asked_at is None or asked_at >= node.doubted_at:
            node.unreachable = False
        node.reason = "answers"
        node.last_answer_at = now
        node.created = observation.created if observation.created is not None else node.created
        asked = math.inf if asked_at is None else asked_at
        if observation.replicas == node.listed and not restarted:
            moves = self._take_same(node, observation, now, asked)
        else:
            moves = self._take_replicas(node, observation, now, asked)
        changes += moves
        if restarted:
            for replica in node.replicas.values():
                replica.since = now
                if replica.operation is not Operation.LOAD and not replica.lost_load:
                    # Otherwise the load may have ended the process.
                    replica.failures, replica.failure, replica.retry_at = 0, "", 0.0
                replica.keep_until, replica.refused_mb = 0.0, 0
                replica.overdue = False
                replica.footprint_mb = 0
                replica.stuck_polls = min(replica.stuck_polls, 1)
                changes += self.ejections.forget(replica, "its node restarted")
        elif was_unreachable:
            for replica in node.replicas.values():
                replica.lost_load = False
        if moves or restarted:
            book(node, self.footprints)
        else:
            rebook(node, self.footprints)
        return tuple(changes)

    def fail(self, name: str, failure: PollFailure, now: float) -> tuple[Change, ...]:
        """Take the failure of a poll; return what has changed."""
        node = self.nodes[name]
        if failure.silent and failure.heard and node.health in ANSWERING_HEALTH:
            node.failures = 0
            return ()
        loads = any(self.loads(replica, now, is_silent=True) for replica in node.odd.values())
        reason = self._failure_words(node, failure)
        if failure.silent and loads and node.health in ANSWERING_HEALTH:
            return tuple(self._step(node, PollOutcome.SILENT_WHILE_LOADING, reason, now))
        node.failures += 1
        node.reason, node.is_heard = reason, False
        too_often = node.failures >= self._down_after
        outcome = PollOutcome.FAILED_TOO_OFTEN if too_often else PollOutcome.FAILED
        return tuple(self._step(node, outcome, reason, now))

    def _failure_words(self, node: Node, failure: PollFailure) -> str:
        """Return why a poll failed, with all that is known about it."""
        return failure.reason

    def loads(self, replica: Replica, now: float, *, is_silent: bool = False) -> bool:
        """Whether a load runs; a load beyond its time limit does not count, for it may be stuck.

        A load of ours has no limit but ``load_timeout``, because an event will report its end. If
        its node ``is_silent``, and so may be dead, the limit is that of a load by another client: a
        multiple of the usual time.
        """
        if replica.state is not ReplicaState.LOADING or replica.overdue:
            return False
        limit = self._load_timeout
        if is_silent or replica.operation is not Operation.LOAD:
            usual = self.footprints.load_seconds(replica.node.name, replica.model)
            limit = load_limit(usual, UNTOLD_LOAD_TIMES, limit)
        return now - replica.since <= limit

    def record_system(self, name: str, system: SystemInfo, asked_at: float | None = None) -> None:
        """Take the node's report of its version and memory.

        The question went out at ``asked_at``, ``None`` for the end of an operation of ours. A
        report from before the last load or unload says nothing about what is resident now.
        """
        node = self.nodes[name]
        if not system.version and node.system is not None:
            system = replace(system, version=node.system.version)
        node.system = system
        note_others(node, system)
        rebook(node, self.footprints)
        if asked_at is None or asked_at >= node.moved_at:
            node.read_at = node.moved_at if asked_at is None else asked_at
            settle(node, self.footprints, system, is_verified=asked_at is None)

    def _step(self, node: Node, outcome: PollOutcome, reason: str, now: float) -> list[Change]:
        before, after = node.health, HEALTH_TRANSITIONS[node.health, outcome]
        if after is before:
            return []
        node.health, node.reason, node.since = after, reason, now
        return [HealthChanged(node.name, before, after, reason)]

    def _take_same(
        self, node: Node, observation: Observation, now: float, asked_at: float
    ) -> list[Change]:
        """Take an observation that lists what is known: only what is odd may change."""
        odd = node.odd
        if not odd:
            if node.adapters or observation.bases:
                node.take_adapters(observation)
            return []
        if any(replica.is_remembered for replica in odd.values()):
            return self._take_replicas(node, observation, now, asked_at)
        node.take_adapters(observation)
        for replica in odd.values():
            is_ours = replica.operation not in (None, Operation.DRAIN)
            if not is_ours and replica.changed_at < asked_at:
                is_stuck = replica.listed is ReplicaState.STUCK
                replica.stuck_polls = replica.stuck_polls + 1 if is_stuck else 0
        node.odd = {model: replica for model, replica in odd.items() if replica.is_odd}
        return []

    def _take_replicas(
        self, node: Node, observation: Observation, now: float, asked_at: float
    ) -> list[Change]:
        changes: list[Change] = []
        observed = observation.replicas
        node.take_adapters(observation)
        for model in [model for model in node.replicas if model not in observed]:
            gone = node.replicas[model]
            if gone.operation in (Operation.LOAD, Operation.UNLOAD) or gone.changed_at >= asked_at:
                continue
            changes += self.ejections.forget(gone, "its node does not list it any more")
            del node.replicas[model], node.listed[model]
            node.odd.pop(model, None)
            self._replicas.forget(gone)
            gone.operation = None
            if gone.is_resident:
                node.moved_at = now
            replicas = self._replicas[model]
            del replicas[node.name]
            if not replicas:
                del self._replicas[model]
            changes.append(ReplicaChanged(node.name, model, gone.state, None))
        for model, listed in observed.items():
            replica = node.replicas.get(model)
            if replica is None or replica.is_remembered:
                # It is found in this state, so it has not just come into it.
                self._add_replica(node, model, listed, observation.bases.get(model), now)
                if replica is not None and not node.replicas[model].last_used_at:
                    node.replicas[model].last_used_at = replica.last_used_at
                changes.append(ReplicaChanged(node.name, model, None, listed))
                continue
            if replica.operation is not Operation.DRAIN and replica.operation is not None:
                continue
            if replica.changed_at >= asked_at:
                continue
            stuck = listed is ReplicaState.STUCK
            replica.stuck_polls = replica.stuck_polls + 1 if stuck else 0
            if stuck:
                replica.note_odd()
            if replica.listed is not listed:
                changes += self._set(replica, listed, replica.operation, now)
        return changes

    def _add_replica(
        self, node: Node, model: str, listed: ReplicaState, base: str | None, now: float
    ) -> None:
        held = self._leases.on(node, model)
        known = node.replicas.get(model)
        self._orders += 1
        replica = Replica(
            node,
            model,
            self._terms_of(model),
            listed,
            listed,
            now,
            leases=len(held),
            probes=sum(lease.is_probe for lease in held),
            last_used_at=now if held else 0.0,
            demand=self._demands.setdefault(model, Demand(self._visits)),
            stuck_polls=int(listed is ReplicaState.STUCK),
            base=base,
            order=self._orders if known is None else known.order,
        )
        replica.take_terms(replica.terms)
        self._note_dearness(replica)
        if replica.is_resident:
            node.moved_at = now
        node.replicas[model], node.listed[model] = replica, listed
        node.odd.pop(model, None)
        self._replicas.note(replica)
        if replica.is_odd:
            replica.note_odd()
        self._replicas[model] = in_order({**self._replicas.get(model, {}), node.name: replica})

    def _note_dearness(self, replica: Replica) -> None:
        """Note how dear another load of a replica is, for the strategies of eviction."""
        size_mb = self.footprints.known_mb(*replica.key)
        replica.dearness = self.lessons.loads.dearness(*replica.key, size_mb)

    def _set(
        self, replica: Replica, listed: ReplicaState, operation: Operation | None, now: float
    ) -> list[Change]:
        """Set what a node lists and what we do; the replica's state follows from both."""
        before, after = replica.state, REPLICA_STATES[operation, listed]
        replica.listed, replica.operation, replica.state = listed, operation, after
        if self._replicas.has(replica):
            replica.node.listed[replica.model] = listed
            if after is not before:
                self._replicas.note(replica)
            if listed is ReplicaState.STUCK or after is ReplicaState.LOADING:
                replica.note_odd()
        if after is before:
            return []
        replica.since, replica.overdue = now, False
        if before not in STEADY_STATES or after not in STEADY_STATES:
            replica.node.moved_at = now
        if after is ReplicaState.LOADING:
            replica.load_began_at = now
        if after in ANSWERING_STATES and before not in LOADED_STATES:
            replica.loaded_at = now
        if after is ReplicaState.LOADED:
            replica.failures, replica.failure, replica.retry_at = 0, "", 0.0
            replica.refused_mb, replica.lost_load = 0, False
        changes: list[Change] = [ReplicaChanged(replica.node.name, replica.model, before, after)]
        if after in (ReplicaState.LOADING, ReplicaState.UNLOADED):
            changes += self.ejections.forget(replica, f"it is {after.value}")
        return changes
