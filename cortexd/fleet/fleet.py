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

from collections.abc import Collection, Iterable, Mapping

from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.adapters import unlisted
from cortexd.fleet.demand import Demand
from cortexd.fleet.learning.load_times import LoadEstimate
from cortexd.fleet.memory import book_moved
from cortexd.fleet.nodes import Lease, Node, Replica, ReplicaKey, least_copies
from cortexd.fleet.readiness import not_ready_reason
from cortexd.fleet.reconfiguring import FleetTerms, is_overfull, rebuild
from cortexd.fleet.sleep.powered import PoweredFleet
from cortexd.fleet.states import ANSWERING_HEALTH, Change, NodeAdded, Operation, ReplicaState


class Fleet(PoweredFleet):
    """The state of every node, replica and lease."""

    def reconfigure(self, terms: FleetTerms, now: float) -> list[Change]:
        """Take another configuration as ``rebuild`` does; return what has changed."""
        self._terms, self._default_terms = dict(terms.models), terms.default_terms
        self.least_copies = least_copies(terms.models)
        self._down_after, self._load_timeout = terms.down_after, terms.load_timeout
        self.ejections.terms = terms.breaker_terms
        parts = self.nodes, self._replicas, self._leases, self.wishes, self.footprints
        changes = rebuild(*parts, terms, now)
        self._replicas.note_all()
        self._joined |= {each.node for each in changes if isinstance(each, NodeAdded)}
        self.ejections.forget_nodes_except(self.nodes)
        return changes

    def note_fits(self, node: Node) -> None:
        """Note that what is resident on a node fits its terms again."""
        node.is_shrinking = is_overfull(node)

    # Operations of ours.

    def begin(self, replica: Replica, operation: Operation, now: float) -> list[Change]:
        """Begin an operation on a replica, in place of an operation that is under way.

        Raises KeyError for a replica that its node does not list any more.
        """
        replica.check_listed()
        changes = self._set(replica, replica.listed, operation, now)
        book_moved(replica.node, self.footprints, replica)
        return changes

    def end(
        self, replica: Replica, listed: ReplicaState, now: float, *, is_known: bool = True
    ) -> list[Change]:
        """End the operation on a replica, which its node now lists as ``listed``.

        Where that is not known, any poll overrules it.
        """
        changes = self._set(replica, listed, None, now)
        replica.changed_at = now if is_known else replica.changed_at
        book_moved(replica.node, self.footprints, replica)
        return changes

    def note_loaded(self, replica: Replica, now: float) -> None:
        """Note that a load of ours ended well, which counts as a use of the replica."""
        replica.last_used_at = now
        self._note_dearness(replica)

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
        replica.note_odd()

    def note_unload_failure(self, replica: Replica, keep_until: float) -> None:
        """Note that an unload failed, and until when no other one is tried."""
        replica.keep_until = keep_until

    def note_unload(self, node: Node, leaked_mb: int) -> None:
        """Note that a node unloaded a model, but did not free ``leaked_mb`` of it."""
        node.unload_cycles += 1
        node.leaked_mb += leaked_mb

    # Repairs.

    def close(self, node: Node, reason: str) -> None:
        """Close a node to all new work, for this reason; an empty one opens it again."""
        node.closed = reason

    def note_awaited(self, node: Node, *, awaits_restart: bool) -> None:
        """Note whether requests may wait for the restart of a node that is still open."""
        node.awaits_restart = awaits_restart

    def note_trimmed(self, node: Node) -> None:
        """Note that a process that starts anew loses what is lost now, by unloading as much."""
        node.boot_leaked_mb, node.boot_unloads = node.leaked_mb, node.unload_cycles

    def note_answered(self, node: Node, now: float) -> None:
        """Note that a request was answered whole on a node."""
        node.answered_at = now

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
        is_allowed = self._terms_of(model).allow(node.labels)
        self.wishes.pin(node, model, pinned, is_allowed=is_allowed)

    def set_cordon(self, node: Node, cordoned: bool) -> None:
        """Cordon a node, or end the cordon."""
        (self.wishes.cordons.add if cordoned else self.wishes.cordons.discard)(node.name)
        node.cordoned = cordoned

    # Leases.

    def note_request(self, model: str, now: float, session: str = "", requester: str = "") -> None:
        """Note a request for a model, whatever its outcome: one of a session of a requester."""
        demand = self._demands.get(model)
        if demand is not None:
            demand.note(now, model, session, requester)
        for replica in self.replicas(model):
            if replica.base is not None:
                self.note_request(replica.base, now, session, requester)
            return

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

    def granted_at(self, replica: Replica) -> Collection[float]:
        """Return when the leases were granted that hold a replica now, oldest first."""
        return self._leases.granted_at(replica)

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

    def answering(self, model: str) -> Collection[Replica]:
        """Return those of the model's replicas whose state lets them answer, in the same order."""
        return self._replicas.answering(model)

    @property
    def several(self) -> Mapping[str, None]:
        """The models of which several replicas have a state that lets them answer."""
        return self._replicas.several

    @property
    def loaded_models(self) -> Mapping[str, object]:
        """The models of which a replica's state lets it answer, to be read."""
        return self._replicas.all_answering

    def load_estimate(self, replica: Replica, at: float) -> LoadEstimate:
        """Return how long the load of a replica is expected to take that begins at some time."""
        node, model = replica.key
        found = self.lessons.loads.expected(
            node,
            model,
            at,
            size_mb=self.footprints.known_mb(node, model),
            process=replica.node.created,
        )
        if not found.is_measured:
            seconds = self.footprints.load_seconds(node, model)
            if seconds is not None:
                return LoadEstimate(seconds, found.deviation, True, found.is_warm)
        return found

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
