"""The invariants of a scheduler after every event, for any sequence of events.

``Rules`` observes from outside: it keeps its own account of requests and effects, and compares that
with the scheduler's state. It trusts ``routing`` and ``placement``, which have their own tests.
"""

from collections import Counter
from math import inf, isclose

from cortexd.access.requesters import Priority
from cortexd.errors import QueueTimeout
from cortexd.fleet.nodes import Lease, Node, Replica
from cortexd.fleet.shares import RECENT_SECONDS
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    RESIDENT_STATES,
    HealthChanged,
    NodeAdded,
    NodeHealth,
    NodeRemoved,
    Operation,
    ReplicaChanged,
    ReplicaEjected,
    ReplicaReturned,
    ReplicaState,
)
from cortexd.scheduling.decisions import candidates
from cortexd.scheduling.events import (
    Cancel,
    Charged,
    CordonChanged,
    Effect,
    Event,
    Grant,
    LeaseEnded,
    LoadWanted,
    PinChanged,
    ProbeWanted,
    Reconfigured,
    Reject,
    StartLoad,
    StartUnload,
    Submit,
    Sweep,
)
from cortexd.scheduling.eviction import Claim
from cortexd.scheduling.placement import Finding, Option, may_pass, survey
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.swaps import Swap


def words(effect: Effect) -> object:
    """Return an effect in comparable form: an error by its message."""
    if isinstance(effect, Reject):
        return effect.request_id, type(effect.error), effect.error.message, effect.error.retry_after
    return effect


class Rules:
    """Checks a scheduler: ``before`` each event, and ``check`` after it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.fleet = scheduler.fleet
        self.now = 0.0
        self.leases: dict[int, Lease] = {}
        self.departed: set[int] = set()
        self.wishes: dict[tuple[str, str], bool] = {}
        self.pending: dict[str, Submit] = {}
        self.ordered: set[tuple[str, str]] = set()
        self.states: dict[tuple[str, str], ReplicaState] = {}
        self.healths = dict.fromkeys(self.fleet.nodes, NodeHealth.UNKNOWN)
        self.pins = {name: set(node.pins) for name, node in self.fleet.nodes.items()}
        self.cordons: set[str] = set()
        self.ejected: set[tuple[str, str]] = set()
        self.trials: dict[tuple[str, str], int] = {}
        self.must_grant: Replica | None = None
        self.probe: ProbeWanted | None = None
        self.delays: dict[str, int] = {}
        self.submitted_at: dict[str, float] = {}
        self.used_at: dict[tuple[str, str], dict[Priority, float]] = {}
        self.busy = self.charged = 0.0

    def before(self, event: Event, now: float) -> None:
        """Record an event that happens now, and its required consequences."""
        for each in self._requests():
            used_at = self.used_at.setdefault((each.node, each.base or each.model), {})
            used_at[each.requester.priority] = now
        in_use = {(each.node, each.base or each.model) for each in self._requests()}
        self.busy += len(in_use) * (now - self.now)
        self.now = now
        self.must_grant = self.probe = None
        match event:
            case Submit():
                assert event.request_id not in self.pending
                if not self.queue(event.model):
                    replicas = self.fleet.replicas(event.model)
                    self.must_grant = choose_replica(replicas, self.now, event.tried, event.only)
                self.pending[event.request_id] = event
                self.delays[event.request_id] = self._runs_below(event)
                self.submitted_at[event.request_id] = now - event.waited
            case Cancel():
                self.pending.pop(event.request_id, None)
            case LeaseEnded():
                del self.leases[event.lease.number]
                self.departed.discard(event.lease.number)
            case ProbeWanted():
                assert event.request_id not in self.pending
                self.probe = event
            case LoadWanted():
                # Where it is loaded is the scheduler's to say: any node will do for this model.
                self.ordered |= {(node, event.model) for node in self.fleet.nodes}
            case Reconfigured():
                # What an operator has pinned or unpinned stays above the configuration.
                self.pins = {each.name: set(each.pinned) for each in event.fleet.nodes}
                for (name, model), pinned in self.wishes.items():
                    if name in self.pins:
                        (self.pins[name].add if pinned else self.pins[name].discard)(model)
                for terms in event.fleet.nodes:
                    pins, allows = self.pins[terms.name], event.fleet.terms_of
                    pins -= {each for each in pins if not allows(each).allow(terms.labels)}

    def queue(self, model: str, node: str | None = None) -> list[str]:
        """Return a model's queue in order; with ``node`` only those that the node may serve."""
        return [
            name
            for name, submit in self.pending.items()
            if submit.model == model
            and (node is None or submit.only is None or node in submit.only)
        ]

    def check(self, event: Event, effects: tuple[Effect, ...], now: float) -> None:
        """Assert every rule after an event that had these effects."""
        for effect in effects:
            self._follow(effect)
        if self.must_grant is not None:
            assert any(isinstance(effect, Grant) for effect in effects), "a free slot was not given"
        if isinstance(event, Submit):
            assert event.request_id not in self.pending or not event.tried, "tried, and waits"
        self._check_account()
        self._check_charges(now)
        for node in self.fleet.nodes.values():
            self._check_books(node)
            self._check_operations(node, now, swept=isinstance(event, Sweep))
        for model, only in {(submit.model, submit.only) for submit in self.pending.values()}:
            self._check_wait(model, only, now, swept=isinstance(event, Sweep))
        brought = {swap.target.model for swap in self.scheduler.swaps if swap.target is not None}
        self.ordered = {(node, model) for node, model in self.ordered if model in brought}

    # Effects.

    def _follow(self, effect: Effect) -> None:
        match effect:
            case ReplicaChanged(node, model, before, after):
                assert self.states.get((node, model)) is before, effect
                assert before is not after, effect
                if after is ReplicaState.DRAINING:
                    self._check_bulk(node, model)
                if after is None:
                    del self.states[node, model]
                else:
                    self.states[node, model] = after
            case HealthChanged(node, was, is_now, _):
                assert self.healths[node] is was, effect
                self.healths[node] = is_now
            case CordonChanged(node, cordoned):
                (self.cordons.add if cordoned else self.cordons.discard)(node)
            case PinChanged(node, model, pinned):
                (self.pins[node].add if pinned else self.pins[node].discard)(model)
                self.wishes[node, model] = pinned
            case NodeRemoved(node):
                del self.healths[node]
                self.departed |= {lease.number for lease in self._leases_on(node)}
                self.ejected = {key for key in self.ejected if key[0] != node}
            case NodeAdded(node):
                self.healths[node] = NodeHealth.UNKNOWN
            case ReplicaEjected(node, model, _, _, seconds):
                assert 0 < seconds <= self.fleet.ejections.terms.max_eject_seconds, effect
                self.ejected.add((node, model))
            case ReplicaReturned(node, model):
                self.ejected.remove((node, model))
            case Grant(lease):
                self._check_grant(lease, effect)
            case Reject():
                self._check_rejection(effect)
            case Charged(gpu_seconds=seconds, load_seconds=load_seconds, loads=loads):
                assert min(seconds, load_seconds, loads, 1 - loads) >= 0, effect
                self.charged += seconds
            case StartLoad(node, model):
                self._check_load(self._replica(node, model))
            case StartUnload(node, model, _, at_once):
                replica = self._replica(node, model)
                assert self.states[node, model] is ReplicaState.UNLOADING, effect
                assert replica.listed is ReplicaState.LOADED, effect
                assert replica.base is None, effect
                assert model not in self.pins[node], effect
                assert at_once or not self._held(node, model), effect
            case _:
                pass

    def _replica(self, node: str, model: str) -> Replica:
        replica = self.fleet.replica(node, model)
        assert replica is not None, (node, model)
        return replica

    def _leases_on(self, node: str) -> list[Lease]:
        """Return the leases on a node, without those of one that had its name before."""
        return [
            each
            for each in self.leases.values()
            if each.node == node and each.number not in self.departed
        ]

    def _held(self, node: str, model: str, *, probes: bool = True) -> int:
        return sum(
            model in (each.model, each.base)
            for each in self._leases_on(node)
            if probes or not each.is_probe
        )

    def _check_probe(self, lease: Lease, grant: Grant) -> None:
        """Check that a question of our own disturbs nobody."""
        node = self.fleet.nodes[lease.node]
        assert self.probe is not None
        assert (lease.node, lease.model) == (self.probe.node, self.probe.model), grant
        assert not self._leases_on(lease.node), grant
        assert not any(self.queue(model, lease.node) for model in node.replicas), grant
        assert self.scheduler.swaps.on(lease.node) is None, grant
        self.leases[lease.number] = lease

    def _check_grant(self, lease: Lease, grant: Grant) -> None:
        if lease.is_probe:
            self._check_probe(lease, grant)
            return
        submit = self.pending.get(lease.request_id)
        assert submit is not None, f"{grant} answers nobody"
        self._check_turn(submit, lease.node)
        assert lease.model == submit.model
        assert lease.node not in submit.tried
        assert submit.only is None or lease.node in submit.only
        for model in (lease.model, lease.base):
            assert model is None or self.states[lease.node, model] in ANSWERING_STATES, grant
        assert self.healths[lease.node] in ANSWERING_HEALTH, grant
        assert lease.node not in self.cordons, grant
        assert not self.fleet.nodes[lease.node].unreachable, grant
        self._check_trial(lease, grant)
        held = self._held(lease.node, lease.model, probes=False)
        capacity = self._replica(lease.node, lease.model).terms.capacity
        assert held < capacity, f"{grant} is one too many"
        assert 0 <= grant.load_seconds <= grant.queued_seconds, grant
        del self.pending[lease.request_id]
        self.leases[lease.number] = lease

    def _runs_below(self, submit: Submit) -> bool:
        """Return whether a request of a lower class runs in the model of a request."""
        bases = {each.base or each.model for each in self.fleet.replicas(submit.model)}
        return any(
            lease.requester.priority > submit.requester.priority
            for lease in self._requests()
            if (lease.base or lease.model) in bases and lease.number not in self.departed
        )

    def _check_turn(self, granted: Submit, node: str) -> None:
        """Check the promises of the order in which a queue is served.

        The requests of one requester come in their order, and a request is delayed by lower classes
        once at most. One of a lower class comes first only if it is overdue, and so does one whose
        requester stands higher than another of its class.
        """
        for name in self.queue(granted.model, node):
            submit = self.pending[name]
            if name == granted.request_id:
                continue
            rank, other = granted.requester.priority, submit.requester.priority
            if submit.requester == granted.requester:
                waited = list(self.pending).index(name)
                assert waited > list(self.pending).index(granted.request_id), "out of turn"
            since = self.submitted_at[granted.request_id]
            may_be_overdue = self.now >= since + self.scheduler.terms.max_wait * rank
            if other == rank and submit.only == granted.only:
                theirs, own = self._standing(submit), self._standing(granted)
                assert may_be_overdue or own <= theirs, "not its share"
            if other < rank:
                assert may_be_overdue, "not overdue"
                self.delays[name] += 1
                assert self.delays[name] <= 1, f"{name} is delayed again by a lower class"

    def _standing(self, submit: Submit) -> float:
        return self.scheduler.standings.of(submit.model, submit.requester, self.now)

    def _check_trial(self, lease: Lease, grant: Grant) -> None:
        """Check that an ejected replica gets one request at a time, and none before it is due."""
        was_ejected = (lease.node, lease.model) in self.ejected
        assert grant.is_trial == was_ejected, grant
        if not was_ejected:
            return
        trials = [each for each in self.trials.values() if each in self.leases]
        assert (lease.node, lease.model) not in self.trials or self.trials[
            lease.node, lease.model
        ] not in trials, f"{grant} beside another trial"
        self.trials[lease.node, lease.model] = lease.number
        breaker = self._replica(lease.node, lease.model).breaker
        assert breaker is not None
        submit = self.pending[lease.request_id]
        others = [
            each
            for each in self.fleet.replicas(lease.model)
            if each.answers
            and each.key not in self.ejected
            and (submit.only is None or each.node.name in submit.only)
        ]
        assert self.now >= (breaker.until if others else breaker.alone_until), grant

    def _check_rejection(self, reject: Reject) -> None:
        if self.probe is not None and self.probe.request_id == reject.request_id:
            return
        submit = self.pending.pop(reject.request_id, None)
        assert submit is not None, f"{reject} answers nobody"
        assert reject.error.message
        assert self.must_grant is None, f"{reject} though a slot is free"
        if not self.queue(submit.model) and not isinstance(reject.error, QueueTimeout):
            replicas = self.fleet.replicas(submit.model)
            replica = choose_replica(replicas, self.now, submit.tried, submit.only)
            assert replica is None, f"{reject}, and a slot is free"

    def _check_load(self, replica: Replica) -> None:
        node, model = replica.node, replica.model
        assert replica.base is None, f"{model} is an adapter"
        assert replica.listed is ReplicaState.UNLOADED, f"{model} on {node.name}: {replica.listed}"
        assert self.states[node.name, model] is ReplicaState.LOADING
        assert node.takes_work, f"{node.name} is {node.health}"
        assert (
            (self.scheduler.waiting.has_stand_ins(model) or self.queue(model, node.name))
            or model in self.pins[node.name]
            or ((node.name, model) in self.ordered or model in self.fleet.least_copies)
            or any(model in each.wanted for each in self.scheduler.restarts if each.node is node)
            or any(each.is_prefetch for each in self.scheduler.swaps.bringing(model))
        ), f"nobody wants {model} on {node.name}"
        assert node.free_mb >= 0, f"{node.committed_mb} of {node.usable_mb}"
        assert not node.max_resident or node.resident <= node.max_resident
        others = [
            other.model
            for other in node.replicas.values()
            if other is not replica
            and self.states[node.name, other.model]
            in (ReplicaState.LOADING, ReplicaState.UNLOADING)
            and other.operation is not None
        ]
        assert not others, f"{model} is loaded on {node.name} beside {others}"

    # State of the fleet and the queues.

    def _requests(self) -> list[Lease]:
        return [lease for lease in self.leases.values() if not lease.is_probe]

    def _check_charges(self, now: float) -> None:
        """Check that each second of a replica in use is charged to somebody, once."""
        shares = self.scheduler.shares
        running = sum(shares.of_lease(lease, now) for lease in self._requests())
        assert isclose(self.busy, self.charged + running, abs_tol=1e-6), "GPU seconds are lost"

    def _check_account(self) -> None:
        """Check that the effects match the state, and that no request is forgotten."""
        fleet = self.fleet
        assert self.states == {
            (node.name, model): replica.state
            for node in fleet.nodes.values()
            for model, replica in node.replicas.items()
        }
        assert self.healths == {name: node.health for name, node in fleet.nodes.items()}
        assert self.ejected == {
            replica.key
            for node in fleet.nodes.values()
            for replica in node.replicas.values()
            if replica.is_ejected
        }
        assert self.ejected == fleet.ejections.replicas.keys()
        assert self.cordons & fleet.nodes.keys() == {
            name for name, node in fleet.nodes.items() if node.cordoned
        }
        assert self.pins == {name: set(node.pins) for name, node in fleet.nodes.items()}
        assert list(self.leases.values()) == list(fleet.leases)
        assert {name: submit.model for name, submit in self.pending.items()} == {
            waiter.request_id: waiter.model for waiter in self.scheduler.waiting
        }
        assert len(self.pending) == len(self.scheduler.waiting)

    def _check_books(self, node: Node) -> None:
        leases = self._leases_on(node.name)
        held = Counter(lease.model for lease in leases)
        held.update(lease.base for lease in leases if lease.base is not None)
        assert len(leases) == node.leases
        resident = resident_mb = 0
        for model, replica in node.replicas.items():
            assert held[model] == replica.leases, f"{model} on {node.name}"
            probes = [lease for lease in leases if lease.is_probe and lease.model == model]
            assert len(probes) == replica.probes, f"{model} on {node.name}"
            assert replica.pinned == (model in self.pins[node.name])
            if replica.state in RESIDENT_STATES and replica.base is None:
                resident += 1
                resident_mb += replica.footprint_mb
                assert replica.footprint_mb > 0, f"{model} on {node.name}"
        assert (resident, resident_mb) == (node.resident, node.resident_mb), node.name

    def _check_operations(self, node: Node, now: float, *, swept: bool) -> None:
        """Check that each operation on a replica serves a swap that has a next step."""
        swap = self.scheduler.swaps.on(node.name)
        under_way = [each for each in node.replicas.values() if each.operation is not None]
        if swap is None:
            assert not under_way, f"{[each.model for each in under_way]} for no swap"
            return
        part = {*swap.victims, *([swap.target] if swap.target is not None else [])}
        assert part >= set(under_way), f"{[each.model for each in under_way]} for no swap"
        moving = [each for each in under_way if each.operation is not Operation.DRAIN]
        assert len(moving) <= 1, f"{[each.model for each in moving]} at once on {node.name}"
        assert moving == ([swap.moving] if swap.moving is not None else [])
        drained = [each.model for each in under_way if each.pinned and each is not swap.moving]
        assert not drained, f"{drained} are pinned on {node.name} and get no requests"
        if not moving and (swept or not self._is_overdue(node, now)):
            self._check_drain(swap, now)

    def _check_drain(self, swap: Swap, now: float) -> None:
        """Check that a swap without progress waits for busy victims or for a foreign load."""
        foreign = any(
            self.fleet.loads(each, now)
            for each in swap.node.replicas.values()
            if each.operation is None
        )
        victims = [each for each in swap.draining if each.state is ReplicaState.DRAINING]
        assert foreign or any(each.leases for each in victims), (
            f"nothing is done on {swap.node.name}"
        )
        assert swap.target is None or swap.node.takes_work

    def _check_wait(
        self, model: str, only: frozenset[str] | None, now: float, *, swept: bool
    ) -> None:
        """Check that each waiting request has a reason to wait, and an event to wait for."""
        nodes = self.fleet.nodes if only is None else only
        replicas = [each for each in self.fleet.replicas(model) if each.node.name in nodes]
        assert choose_replica(replicas, now) is None, f"a free slot of {model}, and a request waits"
        bringing = self.scheduler.swaps.bringing(model)
        if any(swap.node.name in nodes for swap in bringing):
            return
        found = survey(
            self.fleet,
            replicas,
            self.scheduler.terms.eviction,
            now,
            swapping=self.scheduler.swaps.nodes,
            may_evict=not any(replica.is_copy for replica in replicas),
            claim=self._claim(model, only),
        )
        if swept:  # time alone may have opened a way since the last event
            foreign = any(self.fleet.loads(each, now) and each.node.takes_work for each in replicas)
            assert foreign or not any(self._should_load(each, only, now) for each in found), (
                f"{model} is not loaded: {candidates(found, now)}"
            )
        if swept or not any(self._is_overdue(node, now) for node in self.fleet.nodes.values()):
            assert may_pass(found), f"nothing can help {model}: {candidates(found, now)}"

    def _is_overdue(self, node: Node, now: float) -> bool:
        """Return whether a load has exceeded its limit, which the scheduler notices at a Sweep."""
        return any(
            each.state is ReplicaState.LOADING and not self.fleet.loads(each, now)
            for each in node.replicas.values()
        )

    def _should_load(self, finding: Finding, only: frozenset[str] | None, now: float) -> bool:
        """Return whether the scheduler should have started this load for the waiting requests."""
        head = self.scheduler.waiting.line_head(finding.replica.model, only)
        assert head
        has_waited = now >= head.since + self.scheduler.terms.max_wait
        claim = self._claim(head.model, only)
        count = self.scheduler.waiting.count(head.model, head.requester.priority)
        by = self.scheduler.terms.eviction.strategy
        return isinstance(finding, Option) and (
            has_waited or finding.is_worth_it(count, by, now, claim)
        )

    def _claim(self, model: str, only: frozenset[str] | None) -> Claim | None:
        head = self.scheduler.waiting.line_head(model, only)
        assert head is not None
        return self.scheduler.claims.of(head, self.now)

    def _check_bulk(self, node: str, model: str) -> None:
        """Check that bulk requests do not take the memory of what a higher class uses."""
        swap = self.scheduler.swaps.on(node)
        if swap is None or swap.target is None or model not in {v.model for v in swap.victims}:
            return
        target = swap.target
        if (node, target.model) in self.ordered or target.model in self.pins[node]:
            return
        waiting = {self.pending[name].requester.priority for name in self.queue(target.model, node)}
        if waiting == {Priority.BULK}:
            times = self.used_at.get((node, model), {}).items()
            used_at = max((at for priority, at in times if priority < Priority.BULK), default=-inf)
            assert self.now - used_at >= RECENT_SECONDS, f"bulk requests evict {model}"
