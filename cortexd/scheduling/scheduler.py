"""The scheduler: what happened goes in, what is to be done comes out.

Each event has a handler, here or in ``endings``. The handler keeps the books of the fleet and of
the queues, and enters in the ``Agenda`` what may follow; the ``Allocator`` then lets everything
follow.

Pure: ``now`` is an argument, and the same events give the same effects. Effects are carried out in
their order; how a load or an unload ended comes back as an event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from cortexd.access.requesters import Priority
from cortexd.errors import CortexError
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica, counted
from cortexd.fleet.shares import Shares
from cortexd.fleet.states import (
    Change,
    HealthChanged,
    NodeHealth,
    NodeRestarted,
    ReplicaChanged,
    ReplicaEjected,
    ReplicaReturned,
)
from cortexd.scheduling import refusals
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.allocator import Allocator
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.endings import Endings, back_off
from cortexd.scheduling.events import (
    Cancel,
    ConnectionLost,
    CordonChanged,
    CordonWanted,
    Effect,
    Event,
    Grant,
    LeaseAdopted,
    LeaseEnded,
    LoadDone,
    LoadFailed,
    LoadWanted,
    Observed,
    PinChanged,
    PinWanted,
    PollFailed,
    ProbeWanted,
    Reconfigured,
    Reject,
    SharesAdopted,
    Submit,
    Sweep,
    SystemRead,
    Tick,
    TrialAnswers,
    UnloadDone,
    UnloadFailed,
    UnloadWanted,
)
from cortexd.scheduling.eviction import Claims, is_evictable
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.placement import may_pass
from cortexd.scheduling.powering.powers import Powers
from cortexd.scheduling.reconfiguring import Reconfiguring
from cortexd.scheduling.repairs.plans import RestartPlan, plan_restart
from cortexd.scheduling.repairs.reasons import in_words
from cortexd.scheduling.repairs.repairer import Repairer
from cortexd.scheduling.repairs.reporting import Reporting
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swap, Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.turns import Standings, crowded_out
from cortexd.scheduling.waiting import Waiter, Waiting
from cortexd.scheduling.wishes import Plan, check_pin, check_unload, node_named, plan_load

LOST_LOAD: Final = "the node's process ended during its load"


class Scheduler:
    """Decides over ``fleet``, which only it changes."""

    def __init__(self, fleet: Fleet, terms: SchedulingTerms) -> None:
        self.fleet = fleet
        self.terms = terms
        self.waiting = waiting = Waiting()
        self.swaps = swaps = Swaps()
        self.shares = shares = Shares()
        self.standings = standings = Standings(shares)
        self.claims = claims = Claims(shares, waiting, terms.max_wait)
        self.decisions = decisions = Decisions()
        self._agenda = agenda = Agenda(waiting)
        self._granter = granter = Granter(fleet, shares, standings, decisions, agenda)
        self._swapper = Swapper(fleet, terms.eviction, waiting, swaps, decisions, agenda, claims)
        self._repairer = repairer = Repairer(
            fleet, terms, waiting, swaps, self._swapper, decisions, agenda
        )
        self.restarts = restarts = repairer.restarts
        self._powers = Powers(fleet, waiting, swaps, restarts, decisions, agenda, self._take)
        self._allocator = Allocator(
            fleet,
            terms,
            waiting,
            swaps,
            agenda,
            granter,
            self._swapper,
            repairer,
            self._powers,
            shares,
            standings,
            claims,
        )
        self._reconfiguring = Reconfiguring(
            fleet, waiting, swaps, agenda, self._allocator, self._swapper
        )
        endings = Endings(fleet, waiting, self._swapper, granter, decisions, agenda)
        reporting = Reporting(fleet, agenda, self._take)
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            Submit: self._submit,
            Cancel: self._cancel,
            LeaseAdopted: self._lease_adopted,
            SharesAdopted: self._shares_adopted,
            LeaseEnded: self._lease_ended,
            TrialAnswers: self._trial_answers,
            ProbeWanted: self._probe_wanted,
            LoadDone: endings.load_done,
            LoadFailed: endings.load_failed,
            UnloadDone: endings.unload_done,
            UnloadFailed: endings.unload_failed,
            Observed: self._observed,
            PollFailed: self._poll_failed,
            ConnectionLost: self._connection_lost,
            SystemRead: self._system_read,
            Tick: self._tick,
            Sweep: self._sweep,
            LoadWanted: self._load_wanted,
            UnloadWanted: self._unload_wanted,
            PinWanted: self._pin_wanted,
            CordonWanted: self._cordon_wanted,
            Reconfigured: self._reconfigured,
            **reporting.handlers,
            **repairer.handlers,
            **self._powers.handlers,
        }

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Take an event and return what is to be done, in this order.

        Raises OperationRefused for an operator's wish that is not carried out.
        """
        effects = self._agenda.effects = []
        self._handlers[type(event)](event, now)
        if self.fleet.ejections.replicas and self.waiting:
            self._look_for_trials(now)
        self._allocator.settle(now)
        return tuple(effects)

    def plan(self, model: str, node: str | None, now: float) -> Plan:
        """Say what handling ``LoadWanted(model, node)`` would do now. Raises OperationRefused."""
        return plan_load(self.fleet, self.terms.eviction, self.swaps.nodes, model, node, now)

    def unloaded_by(self, event: UnloadWanted) -> list[Replica]:
        """Return what handling the event would unload now. Raises OperationRefused.

        A node with a swap is busy, with two exceptions: a swap that only unloads takes another
        victim that goes in the same way, at once or once it is idle; and a swap that only unloads
        this very model, and waits for its requests, goes on at once if the operator says so now.
        """

        def takes_more(swap: Swap) -> bool:
            if swap.target is not None:
                return False
            if swap.at_once is event.now:
                return True
            return event.now and all(victim.model == event.model for victim in swap.victims)

        busy = [swap.node.name for swap in self.swaps if not takes_more(swap)]
        return check_unload(self.fleet, busy, event.model, event.node)

    def may_serve(self, model: str, only: Collection[str], now: float) -> bool:
        """Return whether a request for a model would get one of these nodes, now or later."""
        return may_pass(self._allocator.survey(model, now, only=only))

    def restart_reason(self, node: Node, now: float) -> str | None:
        """Say why a node's engine should be restarted, or ``None`` where it need not be."""
        return in_words(self._repairer.reasons(node, now))

    def plan_restart(self, node: str, now: float) -> RestartPlan:
        """Say what a restart of a node would do now. Raises OperationRefused."""
        found = node_named(self.fleet, node)
        parts = self.fleet, self.restarts, self.swaps, self.terms.repair
        return plan_restart(*parts, found, self.restart_reason(found, now) or "", now)

    # Requests.

    def _submit(self, event: Submit, now: float) -> None:
        model = event.model
        if not event.tried:
            self.fleet.note_request(model, now)
        if model not in self.waiting:
            replica = choose_replica(self.fleet.replicas(model), now, event.tried, event.only)
            if replica is not None:
                self._granter.grant(replica, event.request_id, now, event.requester)
                return
        error = self._no_wait_reason(event, now)
        if error is not None:
            self._granter.reject(event.request_id, model, error, now, now)
            return
        head = self.waiting.line_head(model, event.only)
        requester, since = event.requester, now - event.waited
        if requester.name and not self.waiting.has(model, requester):
            self.standings.come(model, requester, now)
        waiter = Waiter(event.request_id, model, since, event.only, requester)
        self.waiting.add(waiter)
        self.shares.see(requester.priority)
        if self._is_delayed_by_class(model, requester.priority):
            self.waiting.note_passed(waiter)
        if head is None or head.held_back or requester.priority < head.requester.priority:
            self._agenda.look_for(model)

    def _is_delayed_by_class(self, model: str, priority: Priority) -> bool:
        """Whether a request of a lower class runs in a replica of a model."""
        if not self.shares.has_others(priority):
            return False
        return any(
            self.shares.runs_below((each.node.name, each.base or model), priority)
            for each in self.fleet.replicas(model)
        )

    def _no_wait_reason(self, event: Submit, now: float) -> CortexError | None:
        """Say why a request may not wait: a node has had it before, or the queue is full.

        A full queue may reject another request instead, so that this one may wait.
        """
        model, footprints = event.model, self.fleet.footprints
        if event.tried:
            found = self._allocator.survey(model, now, tried=event.tried, only=event.only)
            return refusals.no_free_slot(model, found, footprints=footprints)
        count = self.waiting.count(model)
        if count < self.terms.max_queue:
            return None
        found = self._allocator.survey(model, now)
        error = refusals.queue_full(model, count, found, footprints=footprints)
        last = crowded_out(self.waiting.by_requester(model), event.requester)
        if last is None:
            return error
        self._cancel(Cancel(last.request_id), now)
        self._granter.reject(last.request_id, model, error, last.since, now)
        return None

    def _cancel(self, event: Cancel, now: float) -> None:
        waiter = self.waiting.remove(event.request_id)
        if waiter is not None and self.waiting.line_head(waiter.model, waiter.only) is None:
            self._agenda.look_for(waiter.model)

    def _lease_adopted(self, event: LeaseAdopted, now: float) -> None:
        lease = self.fleet.adopt(
            event.node, event.model, event.base, event.request_id, now, event.requester
        )
        self.shares.begin(lease, now, event.gpu_seconds)
        self._agenda.effects.append(Grant(lease, 0.0, 0.0, "adopted"))

    def _shares_adopted(self, event: SharesAdopted, now: float) -> None:
        self.shares.take(event.used, now)

    def _lease_ended(self, event: LeaseEnded, now: float) -> None:
        lease = event.lease
        self._granter.charge_lease(lease, now)
        released, outcome = self.fleet.release(lease, now), event.outcome
        if released is not None and (outcome.fault or released.breaker is not None):
            siblings = self.fleet.replicas(lease.model)
            self._take_ejections(
                self.fleet.ejections.take_end(released, siblings, lease, outcome, now), now
            )
        node = self.fleet.nodes.get(lease.node)
        if node is None:
            return  # It has left the configuration.
        if outcome.answered and self.fleet.ejections.replicas:
            self.fleet.note_answered(node, now)
        for model in (lease.model, lease.base):
            replica = node.replicas.get(model) if model is not None else None
            if replica is not None:
                if replica.model in self.waiting:
                    self._agenda.look_for(replica.model)
                if not replica.leases:
                    self._agenda.look_at(node)

    def _trial_answers(self, event: TrialAnswers, now: float) -> None:
        lease = event.lease
        replica = self.fleet.replica(lease.node, lease.model)
        if replica is not None:
            self._take_ejections(self.fleet.ejections.answers_already(replica, lease, now), now)

    def _take_ejections(self, changes: Sequence[Change], now: float) -> None:
        """Follow ejections and returns, which may change what the queue can get."""
        for change in changes:
            self._agenda.effects.append(change)
            match change:
                case ReplicaEjected(node, model, reason, faults, seconds):
                    words = (
                        f"{counted(faults, 'request')} in a row failed, so it gets none for "
                        f"{seconds:g} s: {reason}"
                    )
                    self.decisions.record("eject", model, node, words, now)
                    self._repairer.consider(self.fleet.nodes[node], now)
                case ReplicaReturned(node, model, reason):
                    self.decisions.record("return", model, node, reason, now)
                case _:
                    continue
            if model in self.waiting:
                self._agenda.look_for(model)

    def _look_for_trials(self, now: float) -> None:
        """Let a request that waits be the trial of an ejected replica, once that is due."""
        ejected = dict.fromkeys(model for _, model in self.fleet.ejections.replicas)
        for model in self.waiting.among(ejected):
            replicas = self.fleet.replicas(model)
            if any(
                choose_replica(replicas, now, only=head.only) is not None
                for head in self.waiting.lines(model)
            ):
                self._agenda.look_for(model)

    def is_idle(self, replica: Replica) -> bool:
        """Return whether a replica is loaded on a node that has nothing to do, now or soon."""
        node = replica.node
        is_busy = node.leases or node.unsettled or node.name in self.swaps
        return (
            replica.answers
            and not replica.is_ejected
            and node.health is NodeHealth.UP
            and not (is_busy or self.waiting.among(node.replicas))
        )

    def _probe_wanted(self, event: ProbeWanted, now: float) -> None:
        replica = self.fleet.replica(event.node, event.model)
        if replica is not None and self.is_idle(replica):
            self._granter.lend(replica, event.request_id, now)
        else:
            error = refusals.not_idle(event.model, event.node)
            self._agenda.effects.append(Reject(event.request_id, error))

    # Polls.

    def _observed(self, event: Observed, now: float) -> None:
        node = self.fleet.nodes.get(event.node)
        if node is None:
            return  # It has left the configuration since it was asked.
        was_unreachable = node.unreachable
        changes = self.fleet.observe(event.node, event.observation, now, event.asked_at)
        if was_unreachable:
            for replica in node.replicas.values():
                if replica.lost_load:
                    back_off(self.fleet, replica, LOST_LOAD, now)
        if changes or was_unreachable:
            self._take(node, changes)
        if not node.power.is_awake:
            self._powers.polled(node, event.asked_at, now)
        self._repairer.polled(node, changes, event.asked_at, now)

    def _poll_failed(self, event: PollFailed, now: float) -> None:
        if event.node not in self.fleet.nodes:
            return
        node = self.fleet.nodes[event.node]
        changes = self.fleet.fail(event.node, event.failure, now)
        if changes:
            self._take(node, changes)
        if not node.power.is_awake:
            self._powers.poll_failed(node, now)

    def _connection_lost(self, event: ConnectionLost, now: float) -> None:
        self.fleet.doubt(self.fleet.nodes[event.node], now)

    def _take(self, node: Node, changes: Sequence[Change]) -> None:
        """Follow what a poll has changed: what nodes list is the truth."""
        self._agenda.effects.extend(changes)
        swap = self.swaps.on(node.name)
        is_lost = False
        moved: list[str] = []
        for change in changes:
            match change:
                case NodeRestarted() | HealthChanged(after=NodeHealth.DOWN):
                    is_lost = True
                case ReplicaChanged(model=model):
                    moved.append(model)
        if swap is not None and (moved or is_lost):
            self._swapper.disturb(swap, is_lost=is_lost)
        for model in moved:
            self._agenda.look_for(model)
        self._agenda.reconsider(node)

    def _system_read(self, event: SystemRead, now: float) -> None:
        node = self.fleet.nodes.get(event.node)
        if node is None:
            return
        self.fleet.record_system(event.node, event.system, event.asked_at)
        # There may be more room, or so much less that waiting for it no longer helps.
        self._agenda.reconsider(node)

    # Time.

    def _tick(self, event: Tick, now: float) -> None:
        for model in self.waiting.shared():
            # One that has waited longer may not be the head of its line, for its class is lower.
            oldest = self.waiting.head(model)
            if oldest is not None and now >= oldest.since + self.terms.queue_timeout:
                self._time_out(model, now)
        for head in self.waiting.heads():
            if now >= head.since + self.terms.queue_timeout:
                self._time_out(head.model, now)
            elif head.held_back or (not head.pressed and now >= head.since + self.terms.max_wait):
                self._agenda.look_for(head.model)

    def _time_out(self, model: str, now: float) -> None:
        """Reject the requests that have waited for a model for too long."""
        found = self._allocator.survey(model, now)
        for waiter in self.waiting.of(model):
            waited = now - waiter.since
            if waited < self.terms.queue_timeout:
                continue  # one behind it may have waited longer, in an earlier process
            self.waiting.remove(waiter.request_id)
            error = refusals.queue_timeout(model, waited, found, footprints=self.fleet.footprints)
            self._granter.reject(waiter.request_id, model, error, waiter.since, now)
        self._agenda.look_for(model)

    def _sweep(self, event: Sweep, now: float) -> None:
        if not event.nodes:
            self._tick(Tick(), now)
            self.shares.forget(now)
            self.standings.forget(now)
            for model in self.waiting.models():
                self._agenda.look_for(model)
        known = self.fleet.nodes
        names = known if event.nodes is None else event.nodes
        nodes = [known[name] for name in names if name in known]
        for node in nodes:
            self._agenda.look_at(node)
        self._allocator.settle(now)
        for node in nodes:
            self._reconfiguring.shrink(node, self.terms, now)
            self._expire(node, now)
            self._repairer.sweep(node, now)
            self._powers.sweep(node, now)

    def _expire(self, node: Node, now: float) -> None:
        """Unload what no request has used for its ``ttl``, one replica at a time."""
        if node.name in self.swaps or not node.takes_work:
            return
        for replica in node.residents:
            ttl = replica.terms.ttl
            idle_since = max(replica.last_used_at, replica.loaded_at) or replica.since
            if (
                ttl
                and is_evictable(replica)
                and not replica.leases
                and now >= max(idle_since + ttl, replica.keep_until)
            ):
                self._swapper.unload(replica, f"it was idle for {ttl:g} s", now)
                return

    # The configuration.

    def _reconfigured(self, event: Reconfigured, now: float) -> None:
        self.terms = event.scheduling
        left = self._reconfiguring.reconfigured(event, now)
        self._powers.reconfigured(now)
        self._repairer.reconfigured(event.scheduling, left, event.polled, now)

    # Commands of the operator.

    def _load_wanted(self, event: LoadWanted, now: float) -> None:
        plan = self.plan(event.model, event.node, now)
        self._swapper.begin(
            plan.option, "the operator requested it", now, plan.found, is_ordered=True
        )

    def _unload_wanted(self, event: UnloadWanted, now: float) -> None:
        for replica in self.unloaded_by(event):
            self._swapper.unload(replica, "the operator requested it", now, at_once=event.now)

    def _pin_wanted(self, event: PinWanted, now: float) -> None:
        node = node_named(self.fleet, event.node)
        check_pin(self.fleet, node, event.model, event.pinned)
        self.fleet.set_pin(node, event.model, event.pinned)
        self._agenda.effects.append(PinChanged(node.name, event.model, event.pinned))
        self._agenda.reconsider(node)

    def _cordon_wanted(self, event: CordonWanted, now: float) -> None:
        node = node_named(self.fleet, event.node)
        self.fleet.set_cordon(node, event.cordoned)
        self._agenda.effects.append(CordonChanged(node.name, event.cordoned))
        self._agenda.reconsider(node)
