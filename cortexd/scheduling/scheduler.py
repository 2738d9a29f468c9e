"""The scheduler: what happened goes in, what is to be done comes out.

Each event has a handler here, which keeps the books and lets the ``Allocator`` follow: it decides
which request gets which replica, and which models come and go for it.

Pure: ``now`` is an argument, and the same events give the same effects. Effects are carried out in
their order, and what became of loads and unloads comes back as events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import (
    ANSWERING_STATES,
    Change,
    HealthChanged,
    NodeHealth,
    NodeRestarted,
    ReplicaChanged,
    ReplicaState,
    SystemInfo,
)
from cortexd.scheduling import refusals
from cortexd.scheduling.allocator import Allocator, Brought, SchedulingTerms
from cortexd.scheduling.events import (
    Abandon,
    Cancel,
    CordonChanged,
    CordonWanted,
    Effect,
    Event,
    Learned,
    LeaseEnded,
    LoadDone,
    LoadFailed,
    LoadWanted,
    Observed,
    PinChanged,
    PinWanted,
    PollFailed,
    RestartDue,
    Submit,
    Sweep,
    SystemRead,
    Tick,
    UnloadDone,
    UnloadFailed,
    UnloadWanted,
)
from cortexd.scheduling.eviction import VictimSet, is_evictable
from cortexd.scheduling.placement import idle_evictable, is_changing, make_option
from cortexd.scheduling.repair import restart_reason
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.swaps import Swap
from cortexd.scheduling.waiting import Waiter
from cortexd.scheduling.wishes import Plan, check_pin, check_unload, node_named, plan_load

FIRST_RETRY_SECONDS: Final = 5.0
LONGEST_RETRY_SECONDS: Final = 300.0
"""How long a load that failed is not tried again there: doubled with each failure in a row."""

MOST_DOUBLINGS: Final = 10
"""More than lead to the longest; after 1024 failures the power would be none that floats hold."""

LOST_LOAD: Final = "the node's process ended during its load"

UNLOAD_RETRY_SECONDS: Final = 60.0
"""How long a replica whose unload failed is left alone."""


class Scheduler:
    """Decides over ``fleet``, which only it changes."""

    def __init__(self, fleet: Fleet, terms: SchedulingTerms) -> None:
        self.fleet = fleet
        self.terms = terms
        self._allocator = Allocator(fleet, terms)
        self.decisions = self._allocator.decisions
        self.waiting = self._allocator.waiting
        self.swaps = self._allocator.swaps
        self._told_restarts: set[str] = set()
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            Submit: self._submit,
            Cancel: self._cancel,
            LeaseEnded: self._lease_ended,
            LoadDone: self._load_done,
            LoadFailed: self._load_failed,
            UnloadDone: self._unload_done,
            UnloadFailed: self._unload_failed,
            Observed: self._observed,
            PollFailed: self._poll_failed,
            SystemRead: self._system_read,
            Tick: self._tick,
            Sweep: self._sweep,
            LoadWanted: self._load_wanted,
            UnloadWanted: self._unload_wanted,
            PinWanted: self._pin_wanted,
            CordonWanted: self._cordon_wanted,
        }

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Take an event and return what is to be done, in this order.

        Raises OperationRefused for an operator's wish that is not carried out.
        """
        effects = self._allocator.effects = []
        self._handlers[type(event)](event, now)
        self._allocator.settle(now)
        return tuple(effects)

    def plan(self, model: str, node: str | None, now: float) -> Plan:
        """Say what handling ``LoadWanted(model, node)`` would do now. Raises OperationRefused."""
        return plan_load(self.fleet, self.terms.eviction, self.swaps.nodes, model, node, now)

    def unloaded_by(self, event: UnloadWanted) -> list[Replica]:
        """Return what handling the event would unload now. Raises OperationRefused.

        Where only more is given up in the same way, it may be added to that; and what the same
        model's requests still hold up may be done at once.
        """

        def takes_more(swap: Swap) -> bool:
            if swap.target is not None:
                return False
            if swap.at_once is event.now:
                return True
            return event.now and all(victim.model == event.model for victim in swap.victims)

        busy = [swap.node.name for swap in self.swaps if not takes_more(swap)]
        return check_unload(self.fleet, busy, event.model, event.node)

    def restart_reason(self, node: Node, now: float) -> str | None:
        """Say why a node's engine should be restarted, or ``None`` where it need not be."""
        return restart_reason(self.fleet, node, self.terms.defrag_after_cycles, now)

    # Requests.

    def _submit(self, event: Submit, now: float) -> None:
        model = event.model
        if not event.tried:
            self.fleet.note_request(model, now)
        if model not in self.waiting:
            replica = choose_replica(self.fleet.replicas(model), event.tried, event.only)
            if replica is not None:
                self._allocator.grant(replica, event.request_id, now, None)
                return
        if event.tried:
            found = self._allocator.survey(model, now, tried=event.tried, only=event.only)
            self._allocator.reject(
                event.request_id,
                model,
                refusals.no_free_place(model, found, footprints=self.fleet.footprints),
                now,
                now,
            )
            return
        head, count = self.waiting.line_head(model, event.only), self.waiting.count(model)
        if count >= self.terms.max_queue:
            error = refusals.queue_full(
                model,
                count,
                self._allocator.survey(model, now),
                footprints=self.fleet.footprints,
            )
            self._allocator.reject(event.request_id, model, error, now, now)
            return
        self.waiting.add(Waiter(event.request_id, model, now, event.only))
        if head is None or head.held_back:
            self._allocator.look_for(model)

    def _cancel(self, event: Cancel, now: float) -> None:
        waiter = self.waiting.remove(event.request_id)
        if waiter is not None and self.waiting.line_head(waiter.model, waiter.only) is None:
            self._allocator.look_for(waiter.model)

    def _lease_ended(self, event: LeaseEnded, now: float) -> None:
        lease = event.lease
        self.fleet.release(lease, now)
        node = self.fleet.nodes[lease.node]
        for model in (lease.model, lease.base):
            replica = node.replicas.get(model) if model is not None else None
            if replica is not None:
                if replica.model in self.waiting:
                    self._allocator.look_for(replica.model)
                if not replica.leases:
                    self._allocator.look_at(node)

    def _load_done(self, event: LoadDone, now: float) -> None:
        moving = self._allocator.swap_moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        measured = None if swap.disturbed else event.footprint_mb
        learned = self.fleet.footprints.learn(event.node, event.model, event.seconds, measured)
        self._allocator.effects.append(Learned(event.node, event.model, learned))
        self._allocator.brought[event.node, event.model] = Brought(
            now, swap.number, bool(swap.gave_up)
        )
        self.fleet.note_loaded(replica, now)
        self._allocator.tell(self.fleet.end(replica, ReplicaState.LOADED, now))
        self._take_system(event.node, event.system)
        self._allocator.end(swap, now)
        for other in self.fleet.replicas(event.model):
            # What the load has shown of the model stands in elsewhere too.
            self._allocator.look_for_all_of(other.node)
            self._allocator.look_at(other.node)

    def _load_failed(self, event: LoadFailed, now: float) -> None:
        moving = self._allocator.swap_moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        self._allocator.tell(self.fleet.end(replica, event.listed, now))
        self._allocator.look_for_all_of(swap.node)
        if replica.state in ANSWERING_STATES:
            self._allocator.end(swap, now)
            return
        if event.unreachable:
            # The node's fault, not the model's: it is sent nothing more before it answers a poll.
            self.fleet.note_unreachable(swap.node)
            if event.begun:
                self.fleet.note_lost_load(replica)
            self.decisions.record("load_failed", replica.model, event.node, event.reason, now)
            self._allocator.end(swap, now)
            return
        if event.out_of_memory:
            self.fleet.note_refusal(replica)
            victims = idle_evictable(swap.node, replica)
            if victims and not swap.empties:
                swap.empties = True
                self._allocator.give_up_more(
                    swap,
                    make_option(self.fleet, replica, VictimSet(tuple(victims), ())),
                    f"its load ran out of memory: {event.reason}",
                    now,
                )
                return
            if any(is_evictable(other) for other in swap.node.residents):
                # There will be more room than this: those who wait for it need not be told off.
                self.decisions.record("load_failed", replica.model, event.node, event.reason, now)
                self._allocator.end(swap, now)
                return
        if event.overdue:
            self.fleet.note_overdue(replica)
        self._back_off(replica, event.reason, now)
        self.decisions.record("load_failed", replica.model, event.node, event.reason, now)
        self._allocator.end(swap, now)

    def _back_off(self, replica: Replica, reason: str, now: float) -> None:
        """Leave a replica whose load failed alone for a while."""
        doublings = min(replica.failures, MOST_DOUBLINGS)
        wait = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**doublings)
        self.fleet.note_load_failure(replica, reason, now + wait)

    def _unload_done(self, event: UnloadDone, now: float) -> None:
        moving = self._allocator.swap_moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        self.fleet.note_unload(swap.node, event.leaked_mb)
        self._allocator.tell(self.fleet.end(replica, ReplicaState.UNLOADED, now))
        self._take_system(event.node, event.system)
        self._allocator.gone(swap, replica)
        if event.leaked_mb:
            self._allocator.look_for_all_of(swap.node)

    def _unload_failed(self, event: UnloadFailed, now: float) -> None:
        moving = self._allocator.swap_moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        if not swap.abandoned:
            self.fleet.note_unload_failure(replica, now + UNLOAD_RETRY_SECONDS)
        self.decisions.record("unload_failed", replica.model, event.node, event.reason, now)
        self._allocator.tell(self.fleet.end(replica, event.listed, now))
        self._allocator.gone(swap, replica)
        self._allocator.look_for_all_of(swap.node)

    def _take_system(self, node: str, system: SystemInfo | None) -> None:
        """Book by what a node says after an operation, before the next one is decided."""
        if system is not None:
            self.fleet.record_system(node, system)
            self._allocator.look_for_all_of(self.fleet.nodes[node])

    # What polls bring.

    def _observed(self, event: Observed, now: float) -> None:
        node = self.fleet.nodes[event.node]
        was_unreachable = node.unreachable
        changes = self.fleet.observe(event.node, event.observation, now, event.asked_at)
        if was_unreachable:
            for replica in node.replicas.values():
                if replica.lost_load:
                    self._back_off(replica, LOST_LOAD, now)
        if changes or was_unreachable:
            self._take(node, changes)

    def _poll_failed(self, event: PollFailed, now: float) -> None:
        changes = self.fleet.fail(event.node, event.failure, now)
        if changes:
            self._take(self.fleet.nodes[event.node], changes)

    def _take(self, node: Node, changes: Sequence[Change]) -> None:
        """Follow what a poll has changed: nodes are the truth."""
        self._allocator.tell(changes)
        swap = self.swaps.on(node.name)
        lost = False
        moved: list[str] = []
        for change in changes:
            match change:
                case NodeRestarted():
                    lost = True
                    self._told_restarts.discard(node.name)
                case HealthChanged(after=NodeHealth.DOWN):
                    lost = True
                case ReplicaChanged(model=model):
                    moved.append(model)
        if swap is not None:
            swap.disturbed = swap.disturbed or bool(moved) or lost
            moving = swap.moving
            if lost and moving is not None and not swap.abandoned:
                swap.abandoned = True
                self._allocator.effects.append(Abandon(node.name, moving.model))
        for model in moved:
            self._allocator.look_for(model)
        self._allocator.look_for_all_of(node)
        self._allocator.look_at(node)

    def _system_read(self, event: SystemRead, now: float) -> None:
        node = self.fleet.nodes[event.node]
        self.fleet.record_system(event.node, event.system, event.asked_at)
        # There may be more room, or so much less that nobody need wait for it any more.
        self._allocator.look_for_all_of(node)
        self._allocator.look_at(node)

    # Time.

    def _tick(self, event: Tick, now: float) -> None:
        for head in self.waiting.heads():
            if now >= head.since + self.terms.queue_timeout:
                self._time_out(head.model, now)
            elif head.held_back or (not head.pressed and now >= head.since + self.terms.max_wait):
                self._allocator.look_for(head.model)

    def _time_out(self, model: str, now: float) -> None:
        """Reject those who have waited for a model for too long."""
        found = self._allocator.survey(model, now)
        for waiter in self.waiting.of(model):
            waited = now - waiter.since
            if waited < self.terms.queue_timeout:
                break
            self.waiting.remove(waiter.request_id)
            error = refusals.queue_timeout(model, waited, found, footprints=self.fleet.footprints)
            self._allocator.reject(waiter.request_id, model, error, waiter.since, now)
        self._allocator.look_for(model)

    def _sweep(self, event: Sweep, now: float) -> None:
        self._tick(Tick(), now)
        nodes = self.fleet.nodes.values()
        for model in self.waiting.models():
            self._allocator.look_for(model)
        for node in nodes:
            self._allocator.look_at(node)
        self._allocator.settle(now)
        for node in nodes:
            self._expire(node, now)
            self._tell_restart(node, now)

    def _expire(self, node: Node, now: float) -> None:
        """Give up what nobody has used for its ``ttl``, one at a time."""
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
                self._allocator.unload(replica, f"nobody has used it for {ttl:g} s", now)
                return

    def _tell_restart(self, node: Node, now: float) -> None:
        """Say once that a node is due for a restart, at a moment when nothing runs there."""
        if node.name in self._told_restarts or node.leases or node.name in self.swaps:
            return
        if is_changing(self.fleet, node, now):
            return
        reason = self.restart_reason(node, now)
        if reason is not None:
            self._told_restarts.add(node.name)
            self._allocator.effects.append(RestartDue(node.name, reason))

    # The operator's wishes.

    def _load_wanted(self, event: LoadWanted, now: float) -> None:
        plan = self.plan(event.model, event.node, now)
        self._allocator.ordered[plan.option.replica.node.name, event.model] = None
        self._allocator.begin(plan.option, "the operator wants it", now, plan.found)

    def _unload_wanted(self, event: UnloadWanted, now: float) -> None:
        for replica in self.unloaded_by(event):
            self._allocator.unload(replica, "the operator wants it", now, at_once=event.now)

    def _pin_wanted(self, event: PinWanted, now: float) -> None:
        node = node_named(self.fleet, event.node)
        check_pin(self.fleet, node, event.model, event.pinned)
        self.fleet.set_pin(node, event.model, event.pinned)
        self._allocator.effects.append(PinChanged(node.name, event.model, event.pinned))
        self._allocator.look_for_all_of(node)
        self._allocator.look_at(node)

    def _cordon_wanted(self, event: CordonWanted, now: float) -> None:
        node = node_named(self.fleet, event.node)
        self.fleet.set_cordon(node, event.cordoned)
        self._allocator.effects.append(CordonChanged(node.name, event.cordoned))
        self._allocator.look_for_all_of(node)
        self._allocator.look_at(node)
