"""How a swap begins, goes on and ends.

``cortexd.scheduling.swaps`` has the phases. A swap takes its next step whenever its node is looked
at: the step is decided anew each time, by the fleet as it is then. Only this module changes a swap
that has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica, ReplicaKey
from cortexd.fleet.states import Operation, ReplicaState
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.events import Abandon, StartLoad, StartUnload
from cortexd.scheduling.eviction import Claim, Claims, VictimSet
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    Option,
    can_ever_hold,
    fits,
    is_changing,
    make_option,
    victims_for,
)
from cortexd.scheduling.swaps import Swap, Swaps, still_drains
from cortexd.scheduling.waiting import Waiting

NOT_ENOUGH: Final = "the first evictions were not enough for it"
"""Why a swap evicts more than was decided first: an unload failed, or memory leaked."""


class Swapper:
    """Loads and unloads the replicas of ``fleet``, by ``swaps`` that it begins, advances and ends.

    What has changed goes to the ``agenda``, and why to the ``decisions``.
    """

    def __init__(
        self,
        fleet: Fleet,
        terms: EvictionTerms,
        waiting: Waiting,
        swaps: Swaps,
        decisions: Decisions,
        agenda: Agenda,
        claims: Claims,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._claims = claims
        self._waiting = waiting
        self._swaps = swaps
        self._decisions = decisions
        self._agenda = agenda
        self._ordered: set[ReplicaKey] = set()

    def take_terms(self, terms: EvictionTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms

    # What begins a swap, or adds to it.

    def begin(
        self,
        option: Option,
        reason: str,
        now: float,
        found: Sequence[Finding],
        *,
        is_ordered: bool = False,
        is_copy: bool = False,
        is_prefetch: bool = False,
    ) -> None:
        """Begin the swap of an option, chosen out of what was ``found``.

        One that ``is_ordered`` goes on without any request that waits for its model. One that
        ``is_copy`` brings a further copy of a loaded model, which is worth its victims. One that
        ``is_prefetch`` needs no request, and evicts nothing.
        """
        replica = option.replica
        if is_ordered:
            self._ordered.add(replica.key)
        number = self._record_load(option, reason, now, found)
        swap = Swap(
            replica.node, replica, [], number, now, is_copy=is_copy, is_prefetch=is_prefetch
        )
        self._swaps.add(swap)
        self._drain(swap, option.victims.victims, now)

    def unload(self, replica: Replica, reason: str, now: float, *, at_once: bool = False) -> None:
        """Unload a replica for its own sake: nothing is loaded in its stead.

        On a node whose swap only unloads, the replica becomes one more victim of that swap.
        """
        number = self._decisions.record(
            "unload", replica.model, replica.node.name, reason, now, victims=[replica.model]
        ).number
        swap = self._swaps.on(replica.node.name)
        if swap is None:
            swap = Swap(replica.node, None, [], number, now, at_once=at_once)
            self._swaps.add(swap)
        swap.number, swap.at_once = number, swap.at_once or at_once
        if replica not in swap.victims:
            self._drain(swap, [replica], now)
        self._agenda.look_at(swap.node)

    def evict_all(
        self, swap: Swap, target: Replica, victims: Sequence[Replica], reason: str, now: float
    ) -> None:
        """Evict these victims too, and load the target only once every victim is gone."""
        swap.evicts_all = True
        option = make_option(self._fleet, target, VictimSet(tuple(victims), ()))
        self._evict_more(swap, option, reason, now)

    def _evict_more(self, swap: Swap, option: Option, reason: str, now: float) -> None:
        """Make the victims of an option victims of a swap that has begun, and record why."""
        swap.number = self._record_load(option, reason, now, ())
        self._drain(swap, option.victims.victims, now)

    def _record_load(
        self, option: Option, reason: str, now: float, found: Sequence[Finding]
    ) -> int:
        model, node = option.replica.model, option.replica.node.name
        return self._decisions.record(
            "load", model, node, reason, now, option=option, found=found
        ).number

    def _drain(self, swap: Swap, victims: Sequence[Replica], now: float) -> None:
        for victim in victims:
            swap.victims.append(victim)
            self._agenda.effects.extend(self._fleet.begin(victim, Operation.DRAIN, now))
            self._agenda.look_for(victim.model)
        self._agenda.look_at(swap.node)

    def claim_of(self, target: Replica, now: float) -> Claim | None:
        """Return what the load of a target may take; an operator's may take all."""
        if self.is_wished(target):
            return None
        return self._claims.on(target.model, target.node.name, now)

    def give_way(self, swap: Swap, victim: Replica, now: float) -> bool:
        """End a swap that only drains, for a request of a higher class that waits for a victim.

        Return whether it has ended. A swap that an operator wants goes on, and so does one for
        which a request waits that may take the victim all the same: it would begin again at once.
        """
        target = swap.target
        if target is None or swap.moving is not None or self.is_wished(target):
            return False
        if self._claims.may_take(victim, target.model, now):
            return False
        self.end(swap, now)
        return True

    # The next step.

    def advance(self, swap: Swap, now: float) -> None:
        """Take the next step of a swap, if one can be taken now."""
        if swap.victims:
            spared = [
                each
                for each in swap.victims
                if each.operation is Operation.DRAIN and not still_drains(each)
            ]
            if spared:
                self._spare(swap, spared, now)
        if swap.moving is not None:
            return
        if swap.target is None:
            self._advance_unloads(swap, now)
        else:
            self._advance_load(swap, swap.target, now)

    def _advance_unloads(self, swap: Swap, now: float) -> None:
        """Unload the next victim of a swap that loads nothing, or end the swap."""
        victims = swap.draining
        idle = [victim for victim in victims if swap.at_once or not victim.leases]
        if idle:
            self._start_unload(swap, idle[0], now)
        elif not victims:
            self.end(swap, now)

    def _advance_load(self, swap: Swap, target: Replica, now: float) -> None:
        """Load the target of a swap, make room for it, or end the swap as pointless."""
        victims = swap.draining
        if not (self._may_come(target) and (swap.is_prefetch or self._is_wanted(target))):
            self.end(swap, now)
        elif is_changing(self._fleet, swap.node, now):
            return  # A load that is not ours runs there: one of ours could take its memory.
        elif not (swap.evicts_all and victims) and fits(self._fleet, target):
            self._start_load(swap, target, now)
        elif not self._is_worth_room(swap, target):
            self.end(swap, now)
        elif not victims:
            self._find_more_victims(swap, target, now)
        elif not any(victim.leases for victim in victims):
            self._start_unload(swap, victims[0], now)

    def _may_come(self, target: Replica) -> bool:
        """Whether a target can still be loaded."""
        return (
            target.is_listed
            and target.state is ReplicaState.UNLOADED
            and target.node.takes_work
            and target.is_allowed
            and can_ever_hold(self._fleet, target)
        )

    def _is_wanted(self, target: Replica) -> bool:
        """Whether requests still wait for a target, or the operator wants it."""
        return self._waiting.wants(target.model, target.node.name) or self.is_wished(target)

    def is_wished(self, target: Replica) -> bool:
        """Whether the operator wants a replica loaded, by a pin or by an order."""
        return target.pinned or target.key in self._ordered

    def _is_worth_room(self, swap: Swap, target: Replica) -> bool:
        """Whether other replicas may be evicted for a target.

        For a prefetch none may. For a further copy only those that it was found to be worth,
        unless a request waits that no other copy can serve.
        """
        if swap.is_prefetch:
            return False
        if swap.is_copy and swap.draining and not swap.evicts_all:
            return True
        replicas = self._fleet.answering(target.model)
        answering = [replica.node.name for replica in replicas if replica.is_copy]
        return (
            self.is_wished(target)
            or not answering
            or self._waiting.depends_on(target.model, target.node.name, answering)
        )

    def _start_load(self, swap: Swap, target: Replica, now: float) -> None:
        changes = self._fleet.begin(target, Operation.LOAD, now)
        if swap.node.free_mb < 0:
            # A load elsewhere has shown that a replica here takes more than was booked for it.
            self._fleet.end(target, ReplicaState.UNLOADED, now)
            self._agenda.look_at(swap.node)
            return
        swap.disturbed = swap.abandoned = False
        self._agenda.effects.extend(changes)
        self._spare(swap, swap.draining, now)
        footprints, (node, model) = self._fleet.footprints, target.key
        footprint_mb = footprints.known_mb(node, model)
        seconds = footprints.load_seconds(node, model)
        self._agenda.effects.append(StartLoad(node, model, footprint_mb, seconds))
        if target.pinned:
            # From now on it is in the way of every other model that is pinned there.
            self._agenda.look_for_all_of(swap.node)

    def _start_unload(self, swap: Swap, victim: Replica, now: float) -> None:
        swap.abandoned = False
        self._agenda.effects.extend(self._fleet.begin(victim, Operation.UNLOAD, now))
        node, model = victim.key
        measured_mb = self._fleet.footprints.measured_mb(node, model)
        self._agenda.effects.append(StartUnload(node, model, measured_mb, swap.at_once))

    def _find_more_victims(self, swap: Swap, target: Replica, now: float) -> None:
        """Evict more, where all victims are gone and the target still does not fit."""
        may_drain = target.key in self._ordered
        claim = self.claim_of(target, now)
        more = victims_for(self._fleet, target, self._terms, now, True, may_drain, claim)
        if more is None:
            self.end(swap, now)
        else:
            self._evict_more(swap, make_option(self._fleet, target, more), NOT_ENOUGH, now)

    def _spare(self, swap: Swap, victims: Sequence[Replica], now: float) -> None:
        """Let victims of a swap answer again that need not go after all."""
        for victim in victims:
            swap.victims.remove(victim)
            self._agenda.effects.extend(self._fleet.end(victim, victim.listed, now))
        if victims:
            # A model's adapters answer again with it.
            self._agenda.look_for_all_of(swap.node)

    # What loads, unloads and polls bring.

    def moving(self, node: str, model: str) -> tuple[Swap, Replica] | None:
        """Return the swap that loads or unloads a model on a node now, and the replica."""
        swap = self._swaps.on(node)
        moving = swap.moving if swap is not None else None
        if swap is None or moving is None or moving.model != model:
            return None
        return swap, moving

    def gone(self, swap: Swap, victim: Replica) -> None:
        """Go on once a victim's unload has ended, well or badly."""
        swap.victims.remove(victim)
        if victim.state is ReplicaState.UNLOADED:
            swap.evicted.append(victim.model)
        self._agenda.look_for(victim.model)
        self._agenda.look_at(swap.node)

    def disturb(self, swap: Swap, *, is_lost: bool) -> None:
        """Note that something else changed on a swap's node, which ``is_lost`` if it is gone."""
        swap.disturbed = True
        moving = swap.moving
        if is_lost and moving is not None and not swap.abandoned:
            swap.abandoned = True
            self._agenda.effects.append(Abandon(swap.node.name, moving.model))

    def drop(self, swap: Swap) -> None:
        """End a swap whose node has left the configuration; the node ends its operation alone."""
        self._swaps.remove(swap)
        moving = swap.moving
        if moving is not None and not swap.abandoned:
            self._agenda.effects.append(Abandon(swap.node.name, moving.model))
        self._ordered = {key for key in self._ordered if key[0] != swap.node.name}

    def end(self, swap: Swap, now: float) -> None:
        """End a swap, done or not; what waited for its target or its node is looked at again."""
        self._swaps.remove(swap)
        self._spare(swap, swap.draining, now)
        if swap.target is not None:
            self._ordered.discard(swap.target.key)
            self._agenda.look_for(swap.target.model)
        self._agenda.look_at(swap.node)
