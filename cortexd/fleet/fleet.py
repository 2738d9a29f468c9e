"""The fleet: what is known of nodes, replicas and leases, and how it changes.

The nodes are the truth. The fleet holds their last reports, and our own operations on them. It
takes observations (a poll brought a list) and failures (a poll did not), begins and ends
operations, grants and releases leases, and books memory. Nothing here reads a clock or writes a
log: ``now`` is an argument, in seconds, and each method returns what it has changed, so that the
caller can report it.

Everyone may read nodes and replicas, but only the fleet writes into them.
``cortexd.fleet.states`` explains their states.

Memory is in MiB. A node's *budget* is what it may fill. *Committed* is what its resident replicas
take, whatever their state, and what unloads did not free. ``cortexd.fleet.memory`` explains what is
booked for an unknown footprint; and when the node reports at rest that less is used than was
booked, the booked leak shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.adapters import unlisted
from cortexd.fleet.breaker import BreakerTerms
from cortexd.fleet.by_model import ByModel
from cortexd.fleet.demand import Demand
from cortexd.fleet.ejections import Ejections
from cortexd.fleet.footprints import UNTOLD_LOAD_TIMES, Footprints, load_limit
from cortexd.fleet.leases import Leases
from cortexd.fleet.memory import STEADY_STATES, book, settle
from cortexd.fleet.nodes import Lease, ModelTerms, Node, NodeTerms, Replica, ReplicaKey
from cortexd.fleet.readiness import not_ready_reason
from cortexd.fleet.reconfiguring import (
    FleetTerms,
    Wishes,
    in_order,
    is_overfull,
    make_node,
    rebuild,
)
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    HEALTH_TRANSITIONS,
    REPLICA_STATES,
    Change,
    HealthChanged,
    NodeAdded,
    NodeRestarted,
    Observation,
    Operation,
    PollFailure,
    PollOutcome,
    ReplicaChanged,
    ReplicaState,
    SystemInfo,
)


class Fleet:
    """The state of every node, replica and lease.

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
        self.wishes = Wishes()
        self.nodes: dict[str, Node] = {}
        for position, terms in enumerate(nodes):
            self.nodes[terms.name] = make_node(position, terms, self.wishes, now)
            footprints.note_budget(terms.name, terms.budget_mb)
        self.footprints = footprints
        self.ejections = Ejections(breaker_terms or BreakerTerms())
        self._terms = dict(models)
        self._default_terms = default_terms
        self._down_after = down_after
        self._load_timeout = load_timeout
        self._replicas = ByModel()
        self._demands: dict[str, Demand] = {}
        self._leases = Leases(self.nodes)
        self._joined: set[str] = set()

    def reconfigure(self, terms: FleetTerms, now: float) -> list[Change]:
        """Take another configuration as ``rebuild`` does; return what has changed."""
        self._terms, self._default_terms = dict(terms.models), terms.default_terms
        self._down_after, self._load_timeout = terms.down_after, terms.load_timeout
        self.ejections.terms = terms.breaker_terms
        parts = self.nodes, self._replicas, self._leases, self.wishes, self.footprints
        changes = rebuild(*parts, terms, now)
        self._joined |= {each.node for each in changes if isinstance(each, NodeAdded)}
        self.ejections.forget_nodes_except(self.nodes)
        return changes

    def note_fits(self, node: Node) -> None:
        """Note that what is resident on a node fits its terms again."""
        node.is_shrinking = is_overfull(node)

    def remember(
        self, node: Node, model: str, base: str | None, used_at: float, asked_at: Iterable[float]
    ) -> None:
        """Take a replica that a node listed earlier, as unloaded until the node answers.

        It was last used at ``used_at``, 0 for never; the model was requested at ``asked_at``.
        """
        self._add_replica(node, model, ReplicaState.UNLOADED, base, node.since)
        node.replicas[model].remember(used_at, asked_at)

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
            node.moved_at = now
            changes.append(NodeRestarted(name))
        node.failures = 0
        was_unreachable = node.unreachable
        if asked_at is None or asked_at >= node.doubted_at:
            node.unreachable = False
        node.reason = "answers"
        node.last_answer_at = now
        node.created = observation.created if observation.created is not None else node.created
        changes += self._take_replicas(
            node, observation, now, math.inf if asked_at is None else asked_at
        )
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
        book(node, self.footprints)
        return tuple(changes)

    def fail(self, name: str, failure: PollFailure, now: float) -> tuple[Change, ...]:
        """Take the failure of a poll; return what has changed."""
        node = self.nodes[name]
        if failure.silent and failure.heard and node.health in ANSWERING_HEALTH:
            node.failures = 0
            return ()
        loads = any(self.loads(replica, now, is_silent=True) for replica in node.replicas.values())
        if failure.silent and loads and node.health in ANSWERING_HEALTH:
            return tuple(self._step(node, PollOutcome.SILENT_WHILE_LOADING, failure.reason, now))
        node.failures += 1
        node.reason = failure.reason
        too_often = node.failures >= self._down_after
        outcome = PollOutcome.FAILED_TOO_OFTEN if too_often else PollOutcome.FAILED
        return tuple(self._step(node, outcome, failure.reason, now))

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
        node.system = system
        book(node, self.footprints)
        if asked_at is None or asked_at >= node.moved_at:
            settle(node, self.footprints, system, is_verified=asked_at is None)

    def _step(self, node: Node, outcome: PollOutcome, reason: str, now: float) -> list[Change]:
        before, after = node.health, HEALTH_TRANSITIONS[node.health, outcome]
        if after is before:
            return []
        node.health, node.reason, node.since = after, reason, now
        return [HealthChanged(node.name, before, after, reason)]

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
            del node.replicas[model]
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
            if replica.listed is not listed:
                changes += self._set(replica, listed, replica.operation, now)
        return changes

    def _add_replica(
        self, node: Node, model: str, listed: ReplicaState, base: str | None, now: float
    ) -> None:
        held = self._leases.on(node, model)
        replica = Replica(
            node,
            model,
            self._terms.get(model, self._default_terms),
            listed,
            listed,
            now,
            leases=len(held),
            probes=sum(lease.is_probe for lease in held),
            last_used_at=now if held else 0.0,
            pinned=model in node.pins,
            demand=self._demands.setdefault(model, Demand()),
            stuck_polls=int(listed is ReplicaState.STUCK),
            base=base,
        )
        if replica.is_resident:
            node.moved_at = now
        node.replicas[model] = replica
        self._replicas[model] = in_order({**self._replicas.get(model, {}), node.name: replica})

    def _set(
        self, replica: Replica, listed: ReplicaState, operation: Operation | None, now: float
    ) -> list[Change]:
        """Set what a node lists and what we do; the replica's state follows from both."""
        before, after = replica.state, REPLICA_STATES[operation, listed]
        replica.listed, replica.operation = listed, operation
        if after is before:
            return []
        replica.state, replica.since, replica.overdue = after, now, False
        if not {before, after} <= STEADY_STATES:
            replica.node.moved_at = now
        was_loaded = before in (*ANSWERING_STATES, ReplicaState.DRAINING, ReplicaState.UNLOADING)
        if after is ReplicaState.LOADING:
            replica.load_began_at = now
        if after in ANSWERING_STATES and not was_loaded:
            replica.loaded_at = now
        if after is ReplicaState.LOADED:
            replica.failures, replica.failure, replica.retry_at = 0, "", 0.0
            replica.refused_mb, replica.lost_load = 0, False
        changes: list[Change] = [ReplicaChanged(replica.node.name, replica.model, before, after)]
        if after in (ReplicaState.LOADING, ReplicaState.UNLOADED):
            changes += self.ejections.forget(replica, f"it is {after.value}")
        return changes

    # Operations of ours.

    def begin(self, replica: Replica, operation: Operation, now: float) -> list[Change]:
        """Begin an operation on a replica, in place of an operation that is under way.

        Raises KeyError for a replica that its node does not list any more.
        """
        replica.check_listed()
        changes = self._set(replica, replica.listed, operation, now)
        book(replica.node, self.footprints)
        return changes

    def end(
        self, replica: Replica, listed: ReplicaState, now: float, *, is_known: bool = True
    ) -> list[Change]:
        """End the operation on a replica, which its node now lists as ``listed``.

        Where that is not known, any poll overrules it.
        """
        changes = self._set(replica, listed, None, now)
        replica.changed_at = now if is_known else replica.changed_at
        book(replica.node, self.footprints)
        return changes

    def note_loaded(self, replica: Replica, now: float) -> None:
        """Note that a load of ours ended well, which counts as a use of the replica."""
        replica.last_used_at = now

    def note_load_failure(self, replica: Replica, reason: str, retry_at: float) -> None:
        """Note that a load failed, and when the next one may be tried."""
        replica.failures += 1
        replica.failure, replica.retry_at, replica.lost_load = reason, retry_at, False

    def note_overdue(self, replica: Replica) -> None:
        """Note that a load counts as hanging, although the node still lists it as loading."""
        replica.overdue = True

    def note_unreachable(self, node: Node) -> None:
        """Note that a node did not answer an operation at all."""
        node.unreachable = True

    def doubt(self, node: Node, now: float) -> None:
        """Note that a node's process may have ended; a poll that is sent from now on shows it."""
        if node.health in ANSWERING_HEALTH:
            node.unreachable, node.doubted_at = True, now

    def note_lost_load(self, replica: Replica) -> None:
        """Note that a node ceased to answer during a load, which may have ended its process."""
        replica.lost_load = True

    def note_refusal(self, replica: Replica) -> None:
        """Note that the memory that is free on the node now was too little for a load."""
        replica.refused_mb = max(replica.refused_mb, replica.node.free_mb)

    def note_unload_failure(self, replica: Replica, keep_until: float) -> None:
        """Note that an unload failed, and until when no other one is tried."""
        replica.keep_until = keep_until

    def note_unload(self, node: Node, leaked_mb: int) -> None:
        """Note that a node unloaded a model, but did not free ``leaked_mb`` of it."""
        node.unload_cycles += 1
        node.leaked_mb += leaked_mb

    # Commands of the operator.

    def take_wishes(self, pins: Mapping[ReplicaKey, bool], cordons: Iterable[str]) -> None:
        """Take what the operator wished earlier, also for nodes that a reload may bring later."""
        self.wishes.pins.update(pins)
        self.wishes.cordons.update(cordons)
        for (name, model), pinned in pins.items():
            if name in self.nodes:
                self.set_pin(self.nodes[name], model, pinned)
        for node in self.nodes.values():
            node.cordoned = node.cordoned or node.name in self.wishes.cordons

    def set_pin(self, node: Node, model: str, pinned: bool) -> None:
        """Pin a model to a node, or remove the pin; a later configuration changes neither."""
        self.wishes.pin(node, model, pinned)

    def set_cordon(self, node: Node, cordoned: bool) -> None:
        """Cordon a node, or end the cordon."""
        (self.wishes.cordons.add if cordoned else self.wishes.cordons.discard)(node.name)
        node.cordoned = cordoned

    # Leases.

    def note_request(self, model: str, now: float) -> None:
        """Note a request for a model, whatever its outcome."""
        demand = self._demands.get(model)
        if demand is not None:
            demand.note(now)
        base = next((replica.base for replica in self.replicas(model)), None)
        if base is not None:
            self.note_request(base, now)

    def grant(
        self,
        replica: Replica,
        request_id: str,
        now: float,
        requester: Requester = ANYONE,
        *,
        is_probe: bool = False,
    ) -> Lease:
        """Give a request a lease on a replica, and return the lease.

        Raises KeyError for a replica that its node does not list any more.
        """
        replica.check_listed()
        lease = self._leases.begin(replica, request_id, now, requester, is_probe=is_probe)
        breaker = replica.breaker
        if breaker is not None and breaker.is_ejected:
            breaker.begin_trial(lease.number)
        return lease

    def adopt(
        self,
        name: str,
        model: str,
        base: str | None,
        request_id: str,
        now: float,
        requester: Requester = ANYONE,
    ) -> Lease:
        """Return a lease that a request holds already, on a replica that need not be listed yet."""
        return self._leases.adopt(self.nodes[name], model, base, request_id, now, requester)

    def release(self, lease: Lease, now: float) -> Replica | None:
        """End a lease and return its replica, or ``None`` if its node does not list it any more.

        Raises KeyError for a lease that has ended.
        """
        node = self._leases.end(lease, now)
        return None if node is None else node.replicas.get(lease.model)

    @property
    def departed(self) -> frozenset[str]:
        """The names of nodes that have left the configuration, and whose last leases still run."""
        return self._leases.departed

    # Questions.

    @property
    def demands(self) -> Mapping[str, Demand]:
        """How often clients request each model that a node lists or has listed."""
        return self._demands

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of all models that any node lists, sorted."""
        return self._replicas.ids

    def __contains__(self, model: str) -> bool:
        return model in self._replicas

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases that are held, oldest first."""
        return self._leases.held

    def replicas(self, model: str) -> Collection[Replica]:
        """Return the model's replicas, in the order of the nodes in the configuration."""
        return self._replicas.get(model, {}).values()

    def replica(self, node: str, model: str) -> Replica | None:
        """Return the model's replica on one node, or ``None`` if the node does not list it."""
        return self._replicas.get(model, {}).get(node)

    @property
    def adapters(self) -> Mapping[str, str]:
        """The base of each adapter that no node lists now, but that a load of its base brings."""
        return unlisted(self.nodes.values(), self._replicas)

    def base_of(self, model: str) -> str | None:
        """Return the base of an adapter, listed now or not, and ``None`` for other models."""
        replicas = self.replicas(model)
        if replicas:
            return next(iter(replicas)).base
        return self.adapters.get(model)

    def bringing(self, adapter: str) -> tuple[Node, ...]:
        """Return the nodes that bring an adapter with its base, in their order."""
        return tuple(node for node in self.nodes.values() if adapter in node.adapters)

    def not_polled(self) -> list[str]:
        """Return the nodes whose first poll has not ended yet, without those of a reload."""
        return [
            node.name
            for node in self.nodes.values()
            if node.last_answer_at is None and not node.failures and node.name not in self._joined
        ]

    def not_ready_reason(self) -> str | None:
        """Return why no request can be served yet, or ``None`` once one can.

        The fleet is ready once a poll of every node has ended and at least one node answers. It
        stays ready while a node that a reload has added is not polled yet.
        """
        return not_ready_reason(self.nodes.values(), self.not_polled())
