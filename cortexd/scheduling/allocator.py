"""Which request gets which replica, and which models come and go for it.

A request for a loaded model with a free place is granted it at once; it never waits behind a swap
for another model. Any other waits in its model's queue, first come, first served, while the
scheduler seeks a replica for the model:

- a load of it is under way: wait for that;
- it is loaded, but all places are taken: load a second copy where free memory holds it;
- nobody has it: load it where it fits into free memory, else where the replicas that must be given
  up cost least; only idle ones, and only once those who wait are worth it;
- every such replica is in use: wait, and once the first in the queue has waited ``max_wait``
  seconds, give the cheapest of them no more requests, so that it becomes idle;
- no node can ever load it as things stand: reject all who wait, with the reason.

What is freed, loaded or seen changed is a reason to seek anew. A pin is a wish without an end: what
is pinned and missing comes before those who wait for its node, or they might starve it.

Whoever changes something says what may follow from it (``look_at`` a node, ``look_for`` a model);
``settle`` then lets everything follow, one step after the other: first places go to those who wait
for them, so that nothing can take a fresh replica away from them; then swaps go on and pins are
loaded; then models are sought, the one that is waited for longest before the others.

Pure: ``now`` is an argument, and what is to be done is left in ``effects``. The phases of a swap
are told in ``cortexd.scheduling.swaps``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from cortexd.errors import CortexError
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import Change, Operation, ReplicaState
from cortexd.scheduling import refusals
from cortexd.scheduling.decisions import LOADED, QUEUED, RESIDENT, SWAPPED, Decisions, RequestTrail
from cortexd.scheduling.events import Effect, Grant, Reject, StartLoad, StartUnload
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    Option,
    best,
    can_ever_hold,
    fits,
    is_changing,
    make_option,
    may_pass,
    survey,
    victims_for,
)
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.swaps import Swap, Swaps, still_drains
from cortexd.scheduling.waiting import Waiter, Waiting

NOT_ENOUGH: Final = "the first evictions were not enough for it"
"""Why a load gives up more than was decided first: an unload failed, or memory leaked."""


@dataclass(frozen=True, slots=True)
class SchedulingTerms:
    """The scheduler's settings; times in seconds, as told in ``etc/cortex.toml``."""

    max_queue: int = 256
    queue_timeout: float = 600.0
    max_wait: float = 30.0
    defrag_after_cycles: int = 50
    eviction: EvictionTerms = field(default_factory=EvictionTerms)


@dataclass(frozen=True, slots=True)
class Brought:
    """That we loaded a replica ``at`` some time, by this decision, and gave up others for it."""

    at: float
    decision: int
    gave_up: bool


class Allocator:
    """Gives the replicas of ``fleet`` to those who wait, and moves models for them.

    ``effects`` gathers what is to be done; ``ordered`` are the (node, model) that an operator
    wants loaded; ``brought`` has our last load for each (node, model).
    """

    def __init__(self, fleet: Fleet, terms: SchedulingTerms) -> None:
        self.fleet = fleet
        self.terms = terms
        self.decisions = Decisions()
        self.waiting = Waiting()
        self.swaps = Swaps()
        self.brought: dict[tuple[str, str], Brought] = {}
        self.ordered: dict[tuple[str, str], None] = {}
        self.effects: list[Effect] = []
        self._nodes_due: dict[str, Node] = {}
        self._models_due: dict[str, None] = {}
        self._sought: dict[str, Node | None] = {}

    # What may follow from a change.

    def look_at(self, node: Node) -> None:
        """Let a swap on a node go on, or the node be used, now that it may have more room."""
        self._nodes_due[node.name] = node

    def look_for(self, model: str) -> None:
        """Serve those who wait for a model, or seek it anew: anything may have changed for it."""
        self._models_due[model] = None

    def look_for_all_of(self, node: Node) -> None:
        """Seek anew for all who wait for a model that a node lists."""
        if self.waiting:
            for model in node.replicas:
                if model in self.waiting:
                    self._models_due[model] = None

    def settle(self, now: float) -> None:
        """Let everything follow that may."""
        while True:
            if self._models_due:
                model = next(iter(self._models_due))
                del self._models_due[model]
                self._serve(model, now)
            elif self._nodes_due:
                node = self._nodes_due.pop(next(iter(self._nodes_due)))
                swap = self.swaps.on(node.name)
                if swap is not None:
                    self._advance(swap, now)
                else:
                    self._use(node, now)
            elif self._sought:
                self._seek_all(now)
            else:
                return

    # Answers to requests.

    def grant(self, replica: Replica, request_id: str, now: float, waiter: Waiter | None) -> None:
        """Give a request a lease; ``waiter`` is its place in the queue, if it had to wait."""
        lease = self.fleet.grant(replica, request_id, now)
        outcome, since, load_seconds, load = RESIDENT, now, 0.0, None
        if waiter is not None:
            outcome, since = QUEUED, waiter.since
            ours = self.brought.get((lease.node, lease.model))
            if ours is not None and since <= ours.at == replica.loaded_at:
                outcome, load = SWAPPED if ours.gave_up else LOADED, ours.decision
            elif since < replica.loaded_at:
                outcome = LOADED
            if outcome is not QUEUED:
                load_seconds = replica.loaded_at - max(replica.load_began_at, since)
        queued = now - since
        self.decisions.note_request(
            RequestTrail(request_id, lease.model, now, outcome, lease.node, queued, load)
        )
        self.effects.append(Grant(lease, queued, load_seconds, outcome))

    def reject(
        self, request_id: str, model: str, error: CortexError, since: float, now: float
    ) -> None:
        """Turn a request away that has waited since ``since``."""
        words = f"rejected: {error.message}"
        trail = RequestTrail(request_id, model, now, words, None, now - since, None)
        self.decisions.note_request(trail)
        self.effects.append(Reject(request_id, error))

    def _serve(self, model: str, now: float) -> None:
        """Grant what can be granted to those who wait for a model, and seek for the rest."""
        replicas = self.fleet.replicas(model)
        for waiter in self.waiting.of(model):
            replica = choose_replica(replicas, only=waiter.only)
            if replica is not None:
                self.waiting.remove(waiter.request_id)
                self.grant(replica, waiter.request_id, now, waiter)
            elif waiter.only is None:
                break
        if model in self.waiting:
            self._sought[model] = None
        else:
            self._sought.pop(model, None)
        for swap in self.swaps.bringing(model):
            self.look_at(swap.node)

    # Seeking replicas for models that are waited for.

    def survey(
        self,
        model: str,
        now: float,
        *,
        tried: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> list[Finding]:
        """Survey the model's nodes, with ``only`` just those."""
        return self._survey(self._replicas(model, only), now, tried=tried)

    def _replicas(self, model: str, only: Collection[str] | None) -> list[Replica]:
        replicas = self.fleet.replicas(model)
        return [each for each in replicas if only is None or each.node.name in only]

    def _survey(
        self,
        replicas: Collection[Replica],
        now: float,
        *,
        tried: Collection[str] = (),
        **may: bool,
    ) -> list[Finding]:
        return survey(
            self.fleet,
            replicas,
            self.terms.eviction,
            now,
            swapping=self.swaps.nodes,
            tried=tried,
            **may,
        )

    def _seek_all(self, now: float) -> None:
        """Seek the models that are to be sought, until something follows from one of them."""
        heads = [head for model in self._sought if (head := self.waiting.head(model)) is not None]
        if not heads:
            self._sought.clear()
        for head in sorted(heads, key=lambda head: head.since):
            node = self._sought.pop(head.model)
            for line in self.waiting.lines(head.model):
                self._seek(line, now, node)
            if self._models_due or self._nodes_due:
                return

    def _seek(self, head: Waiter, now: float, only: Node | None) -> None:
        """Find a replica for a model that is waited for, or reject those who wait in vain.

        ``head`` has waited longest in its line. With ``only`` nothing has changed but that this
        node may have more room: unless it can load the model now there is nothing to be found.
        """
        model, bound = head.model, head.only
        bringing = [
            swap for swap in self.swaps.bringing(model) if bound is None or swap.node.name in bound
        ]
        if any(swap.moving is not None or swap.gave_up for swap in bringing):
            return
        replicas = self._replicas(model, bound)
        if any(
            replica.operation is None and replica.node.takes_work and self.fleet.loads(replica, now)
            for replica in replicas
        ):
            return
        has_copy = any(replica.answers for replica in replicas)
        has_waited = now >= head.since + self.terms.max_wait
        may_drain = has_waited and not (has_copy or bringing)
        if only is not None:
            here = [each for each in replicas if each.node is only]
            if best(self._survey(here, now, may_evict=not has_copy, may_drain=may_drain)) is None:
                return
        head.pressed = has_waited
        found = self._survey(replicas, now, may_evict=not has_copy)
        option = best(found)
        count = self.waiting.count(model)
        if option is not None and not (has_waited or option.is_worth_it(count, now)):
            option = best(
                each for each in found if isinstance(each, Option) and each.is_worth_it(count, now)
            )
            head.held_back = option is None
            if head.held_back:
                return
        head.held_back = False
        reason = "all slots of its replicas are in use" if has_copy else "requests wait for it"
        if option is None and may_drain:
            found = self._survey(replicas, now, may_drain=True)
            option = best(found)
            reason = f"requests have waited {self.terms.max_wait:g} s for it"
        if option is not None:
            self.begin(option, reason, now, found)
            for swap in bringing:
                is_bound = self.waiting.depends_on(
                    model, swap.node.name, [option.replica.node.name]
                )
                if swap.target is not None and not (is_bound or self._is_wished(swap.target)):
                    self.end(swap, now)
        elif not bringing and not may_pass(found):
            error = refusals.hopeless(self.fleet, model, found, now)
            for waiter in self.waiting.of(model):
                if waiter.only != bound:
                    continue
                self.waiting.remove(waiter.request_id)
                self.reject(waiter.request_id, model, error, waiter.since, now)

    def _use(self, node: Node, now: float) -> None:
        """Load what is pinned on a node and missing, or seek for those who wait for its models."""
        for model in node.pins:
            replica = node.replicas.get(model)
            if replica is not None and replica.state is ReplicaState.UNLOADED:
                waited_long = now >= replica.since + self.terms.max_wait
                found = self._survey([replica], now)
                option = best(found)
                if option is None and waited_long:
                    found = self._survey([replica], now, may_drain=True)
                    option = best(found)
                if option is not None:
                    self.begin(option, "it is pinned on the node", now, found)
                    return
        if self.waiting:
            for model in node.replicas:
                if model in self.waiting:
                    is_new = model not in self._sought or self._sought[model] is node
                    self._sought[model] = node if is_new else None

    # Swaps.

    def begin(self, option: Option, reason: str, now: float, found: Sequence[Finding]) -> None:
        """Begin the swap of an option, chosen out of what was ``found``."""
        replica = option.replica
        decision = self.decisions.record(
            "load", replica.model, replica.node.name, reason, now, option=option, found=found
        )
        swap = Swap(replica.node, replica, [], decision.number, now)
        self.swaps.add(swap)
        self._drain(swap, option.victims.victims, now)

    def unload(self, replica: Replica, reason: str, now: float, *, at_once: bool = False) -> None:
        """Give up a replica for its own sake: nothing is loaded for it.

        On a node that gives up others just so, it goes with them.
        """
        decision = self.decisions.record(
            "unload", replica.model, replica.node.name, reason, now, victims=[replica.model]
        )
        swap = self.swaps.on(replica.node.name)
        if swap is None:
            swap = Swap(replica.node, None, [], decision.number, now, at_once=at_once)
            self.swaps.add(swap)
        swap.number, swap.at_once = decision.number, swap.at_once or at_once
        if replica not in swap.victims:
            self._drain(swap, [replica], now)
        self.look_at(swap.node)

    def give_up_more(
        self, swap: Swap, option: Option, reason: str, now: float, found: Sequence[Finding] = ()
    ) -> None:
        """Make the victims of an option victims of a swap that has begun, and say why."""
        replica = option.replica
        swap.number = self.decisions.record(
            "load", replica.model, replica.node.name, reason, now, option=option, found=found
        ).number
        self._drain(swap, option.victims.victims, now)

    def _drain(self, swap: Swap, victims: Sequence[Replica], now: float) -> None:
        for victim in victims:
            swap.victims.append(victim)
            self.tell(self.fleet.begin(victim, Operation.DRAIN, now))
            self.look_for(victim.model)
        self.look_at(swap.node)

    def _advance(self, swap: Swap, now: float) -> None:
        """Take the next step of a swap, if there is one to take now."""
        self._spare(swap, [victim for victim in swap.draining if not still_drains(victim)], now)
        if swap.moving is not None:
            return
        target, victims = swap.target, swap.draining
        if target is None:
            idle = [victim for victim in victims if swap.at_once or not victim.leases]
            if idle:
                self._start_unload(swap, idle[0], now)
            elif not victims:
                self.end(swap, now)
            return
        if not self._may_come(target):
            self.end(swap, now)
        elif is_changing(self.fleet, swap.node, now):
            return  # Somebody else loads there, and a load beside it could take what that needs.
        elif not (swap.empties and victims) and fits(self.fleet, target):
            self._start_load(swap, target, now)
        elif not self._is_worth_room(target):
            self.end(swap, now)
        elif not victims:
            self._find_more_victims(swap, target, now)
        elif not any(victim.leases for victim in victims):
            self._start_unload(swap, victims[0], now)

    def _may_come(self, target: Replica) -> bool:
        """Whether a target is still wanted, and can still be loaded."""
        return (
            target.is_listed
            and target.state is ReplicaState.UNLOADED
            and target.node.takes_work
            and (self.waiting.wants(target.model, target.node.name) or self._is_wished(target))
            and can_ever_hold(self.fleet, target)
        )

    def _is_wished(self, target: Replica) -> bool:
        return target.pinned or (target.node.name, target.model) in self.ordered

    def _is_worth_room(self, target: Replica) -> bool:
        """Whether others may be given up for a target: for a second copy they are not.

        Unless somebody waits who can be served by no other.
        """
        replicas = self.fleet.replicas(target.model)
        answering = [replica.node.name for replica in replicas if replica.answers]
        return (
            self._is_wished(target)
            or not answering
            or self.waiting.depends_on(target.model, target.node.name, answering)
        )

    def _start_load(self, swap: Swap, target: Replica, now: float) -> None:
        changes = self.fleet.begin(target, Operation.LOAD, now)
        if swap.node.free_mb < 0:
            # A load elsewhere has shown that something here takes more than was booked for it.
            self.fleet.end(target, ReplicaState.UNLOADED, now)
            self.look_at(swap.node)
            return
        swap.disturbed = swap.abandoned = False
        self.tell(changes)
        self._spare(swap, swap.draining, now)
        footprints, place = self.fleet.footprints, (target.node.name, target.model)
        self.effects.append(
            StartLoad(*place, footprints.known_mb(*place), footprints.load_seconds(*place))
        )
        if target.pinned:
            # From now on it is in the way of whatever else is pinned there.
            self.look_for_all_of(swap.node)

    def _start_unload(self, swap: Swap, victim: Replica, now: float) -> None:
        swap.abandoned = False
        self.tell(self.fleet.begin(victim, Operation.UNLOAD, now))
        measured_mb = self.fleet.footprints.measured_mb(swap.node.name, victim.model)
        self.effects.append(StartUnload(swap.node.name, victim.model, measured_mb, swap.at_once))

    def _find_more_victims(self, swap: Swap, target: Replica, now: float) -> None:
        """Give up more, where what was given up did not suffice."""
        may_drain = (target.node.name, target.model) in self.ordered
        more = victims_for(self.fleet, target, self.terms.eviction, now, True, may_drain)
        if more is None:
            self.end(swap, now)
        else:
            self.give_up_more(swap, make_option(self.fleet, target, more), NOT_ENOUGH, now)

    def _spare(self, swap: Swap, victims: Sequence[Replica], now: float) -> None:
        """Let victims of a swap answer again that are not needed after all."""
        for victim in victims:
            swap.victims.remove(victim)
            self.tell(self.fleet.end(victim, victim.listed, now))
        if victims:
            # Its adapters answer again with a model.
            self.look_for_all_of(swap.node)

    def end(self, swap: Swap, now: float) -> None:
        """End a swap, done or not, and seek for those who waited for it or for its node."""
        self.swaps.remove(swap)
        self._spare(swap, swap.draining, now)
        if swap.target is not None:
            self.ordered.pop((swap.node.name, swap.target.model), None)
            self.look_for(swap.target.model)
        self.look_at(swap.node)

    def swap_moving(self, node: str, model: str) -> tuple[Swap, Replica] | None:
        """Return the swap whose load or unload of the model is under way on the node."""
        swap = self.swaps.on(node)
        moving = swap.moving if swap is not None else None
        if swap is None or moving is None or moving.model != model:
            return None
        return swap, moving

    def gone(self, swap: Swap, victim: Replica) -> None:
        """Go on once a victim's unload has ended, well or not."""
        swap.victims.remove(victim)
        if victim.state is ReplicaState.UNLOADED:
            swap.gave_up.append(victim.model)
        self.look_for(victim.model)
        self.look_at(swap.node)

    def tell(self, changes: Sequence[Change]) -> None:
        """Pass on what has changed."""
        self.effects.extend(changes)
