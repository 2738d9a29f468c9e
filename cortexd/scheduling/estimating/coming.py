"""When a replica that does not answer yet will answer, step by step: pure.

A model comes to a node in steps: the node wakes or its engine restarts, what the node loads for
others comes first, victims end their leases and are unloaded, and the model loads. Each step is
expected to take as long as it usually does there; one that is overdue still takes a tenth of that.
So what is expected never comes nearer to the present than time itself, and never moves back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import expm1, inf
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import ANSWERING_STATES, Operation, ReplicaState
from cortexd.scheduling.estimating.expectation import Phase
from cortexd.scheduling.eviction import is_evictable
from cortexd.scheduling.placement import (
    EvictionTerms,
    can_ever_hold,
    fits,
    needed_mb,
    victims_for,
)
from cortexd.scheduling.powering.rules import wake_cost
from cortexd.scheduling.repairs import restarts as repairs
from cortexd.scheduling.swaps import Swap, Swaps

OVERDUE_SHARE: Final = 0.1
"""The part of its usual time that a step is still expected to take once that time is over."""

ASSUMED_UNLOAD_SECONDS: Final = 1.0
"""How long an unload is assumed to take where none was seen."""

MOST_OTHERS: Final = 8
"""How many nodes of a model are looked at that comes first."""

MOST_OFFERED: Final = 10.0
"""Requests at once on a replica, beyond which it is never idle."""

ASSUMED_RESTART_SECONDS: Final = 60.0
"""How long the restart of an engine is assumed to take where none was seen."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A replica that is expected to answer ``at`` a time, with so many ``slots``.

    ``phase`` is the step that it is in now. ``is_measured``: all loads of it have been seen before.
    """

    phase: Phase
    at: float
    slots: int
    is_measured: bool


def until(began: float, usual: float, now: float) -> float:
    """Return when a step is expected to end that began at some time and usually takes so long."""
    return max(began + usual, now + OVERDUE_SHARE * usual)


class Steps:
    """Expects the steps of replicas that come to the nodes of ``fleet``."""

    def __init__(
        self, fleet: Fleet, swaps: Swaps, restarts: repairs.Restarts, eviction: EvictionTerms
    ) -> None:
        self._fleet = fleet
        self._swaps = swaps
        self._restarts = restarts
        self.eviction = eviction

    # A replica that something brings already.

    def under_way(self, replica: Replica, now: float) -> Coming | None:
        """Return when a replica will answer that is loaded or has a swap; else ``None``."""
        swap = self._swaps.on(replica.node.name)
        if swap is not None and swap.target is replica:
            at, is_measured = self._swap_end(swap, now)
            phase = Phase.EVICTING if swap.victims else Phase.LOADING
        elif replica.state is ReplicaState.LOADING and self._fleet.loads(replica, now):
            at, is_measured = self._load_end(replica, now)
            phase = Phase.LOADING
        else:
            return None
        return Coming(phase, at, replica.terms.capacity, is_measured)

    def _load_end(self, replica: Replica, now: float) -> tuple[float, bool]:
        load = self._fleet.load_estimate(replica, replica.load_began_at)
        return until(replica.load_began_at, load.seconds, now), load.is_measured

    def _swap_end(self, swap: Swap, now: float) -> tuple[float, bool]:
        """Return when a swap is expected to end, and whether all its loads have been seen."""
        target, moving = swap.target, swap.moving
        if moving is not None and moving is target:
            return self._load_end(moving, now)
        unload = self._unload_seconds(swap.node)
        at = now if moving is None else until(moving.since, unload, now)
        draining = swap.draining
        if draining:
            at = max(at, now if swap.at_once else now + self._drain_seconds(draining, now))
        at += unload * len(draining)
        if target is None:
            return at, True
        load = self._fleet.load_estimate(target, now)
        return at + load.seconds, load.is_measured

    def _unload_seconds(self, node: Node) -> float:
        return self._fleet.lessons.unloads.expected(node.name, ASSUMED_UNLOAD_SECONDS)

    def _drain_seconds(self, replicas: Iterable[Replica], now: float) -> float:
        """Return in how many seconds all leases of these replicas are expected to have ended."""
        longest = 0.0
        for replica in replicas:
            if replica.leases:
                ages = [now - at for at in self._fleet.granted_at(replica)]
                lasting = self._fleet.lessons.leases.of(replica.model)
                longest = max(longest, lasting.next_end(ages, len(ages)) if ages else 0.0)
        return longest

    # A replica that nothing brings yet.

    def would_come(
        self,
        replica: Replica,
        pressed_at: float,
        ahead: Sequence[str],
        now: float,
        *,
        is_held_back: bool,
    ) -> Coming | None:
        """Return when a replica will answer that nothing brings yet; ``None`` if it cannot come.

        From ``pressed_at`` on, models that are in use may be drained for it. ``is_held_back``:
        until then not even idle ones may be evicted. The models ``ahead`` come before it.
        """
        node = replica.node
        opened = self._opens_at(node, now)
        if opened is None:
            return None
        phase, start = opened
        slots = replica.terms.capacity
        if replica.state in ANSWERING_STATES:
            return None if start <= now else Coming(phase, start, slots, True)
        is_loadable = replica.state is ReplicaState.UNLOADED and now >= replica.retry_at
        if not is_loadable or replica.base is not None or not can_ever_hold(self._fleet, replica):
            return None
        is_measured = True
        busy_until = self._busy_until(node, ahead, now)
        if busy_until is not None:
            at, is_measured = busy_until
            start = max(start, at)
        start = self._room_at(replica, pressed_at, start, now, is_held_back=is_held_back)
        if start == inf:
            return None
        load = self._fleet.load_estimate(replica, now)
        return Coming(phase, start + load.seconds, slots, is_measured and load.is_measured)

    def _opens_at(self, node: Node, now: float) -> tuple[Phase, float] | None:
        """Return when a node takes work, and what it waits for; ``None`` if that is not known."""
        restart = self._restarts.on(node.name)
        if restart is not None and restart.is_closed and not node.cordoned:
            return Phase.RESTARTING, self._restart_end(restart, now)
        if node.takes_work:
            return Phase.QUEUED, now
        power = node.power
        if power.terms is None or node.cordoned:
            return None
        usual = self._fleet.lessons.wakes.expected(node.name, power.terms.wake_seconds)
        if power.state is PowerState.WAKING:
            return Phase.WAKING, until(power.since, usual, now)
        if power.state is PowerState.SUSPENDING or wake_cost(node, now) is not None:
            return Phase.WAKING, now + usual
        return None

    def _restart_end(self, restart: repairs.Restart, now: float) -> float:
        node = restart.node
        usual = self._fleet.lessons.restarts.expected(node.name, ASSUMED_RESTART_SECONDS)
        match restart.phase:
            case repairs.Phase.DRAINING:
                busy = [replica for replica in node.residents if replica.leases]
                return now + self._drain_seconds(() if restart.cuts else busy, now) + usual
            case repairs.Phase.RESTARTING:
                return until(restart.ordered_at, usual, now)
            case _:
                return now + self._unload_seconds(node)

    def _busy_until(
        self, node: Node, ahead: Sequence[str], now: float
    ) -> tuple[float, bool] | None:
        """Return when what changes on a node now is expected to be over, ``None`` for nothing.

        The models ``ahead`` that the node lists are loaded there after it, one after the other,
        unless another of their nodes is free before.
        """
        swap = self._swaps.on(node.name)
        if swap is not None:
            at, is_measured = self._swap_end(swap, now)
            for model in ahead:
                replica = node.replicas.get(model)
                if replica is not None and self._is_first(replica, at, now):
                    load = self._fleet.load_estimate(replica, now)
                    at += self._unload_seconds(node) + load.seconds
                    is_measured &= load.is_measured
            return at, is_measured
        ends = [
            self._load_end(replica, now)
            for replica in node.unsettled
            if replica.operation is not Operation.UNLOAD and self._fleet.loads(replica, now)
        ]
        return max(ends, default=None)

    def _is_first(self, replica: Replica, at: float, now: float) -> bool:
        """Whether none of the first other nodes of a model ends its swap before this one's."""
        others = islice(self._fleet.replicas(replica.model), MOST_OTHERS)
        swaps = (
            self._swaps.on(other.node.name)
            for other in others
            if other is not replica and other.node.takes_work
        )
        return all(swap is None or self._swap_end(swap, now)[0] >= at for swap in swaps)

    def _room_at(
        self, replica: Replica, pressed_at: float, start: float, now: float, *, is_held_back: bool
    ) -> float:
        """Return when a node is expected to have room for a replica; ``inf`` for never."""
        node, fleet = replica.node, self._fleet
        if fits(fleet, replica):
            return start
        swap = self._swaps.on(node.name)
        unload = self._unload_seconds(node)
        if swap is not None:
            # What that swap leaves there is not known yet.
            return max(start, pressed_at if is_held_back else start) + unload
        idle = victims_for(fleet, replica, self.eviction, now, True, False)
        if idle is not None:
            begins = max(start, pressed_at) if is_held_back else start
            return begins + unload * len(idle.victims)
        drained = victims_for(fleet, replica, self.eviction, now, True, True)
        if drained is None:
            return inf
        forced = max(now, pressed_at) + self._drain_seconds(drained.victims, now)
        freed = min(forced, now + self._idle_seconds(replica, now))
        return max(start, freed) + unload * len(drained.victims)

    def _idle_seconds(self, replica: Replica, now: float) -> float:
        """Return in how many seconds enough is idle on a node for a replica; ``inf`` for never."""
        node = replica.node
        need_mb = needed_mb(self._fleet, replica) - node.free_mb
        need_victims = node.resident + 1 - node.max_resident if node.max_resident else 0
        idle = sorted(
            (self._busy_seconds(each, now), each.footprint_mb)
            for each in node.residents
            if is_evictable(each) and now >= each.keep_until
        )
        freed_mb = 0
        for count, (seconds, footprint_mb) in enumerate(idle, start=1):
            freed_mb += footprint_mb
            if freed_mb >= need_mb and count >= need_victims:
                return seconds
        return inf

    def _busy_seconds(self, replica: Replica, now: float) -> float:
        """Return in how many seconds a replica is expected to be idle, while requests still come.

        That is the rest of its leases, longer by as much as a busy period is longer than one lease
        where requests come at random, of which any number runs at once.
        """
        if not replica.leases:
            return 0.0
        mean = self._fleet.lessons.leases.of(replica.model).mean
        # One client that asks again and again does not ask while it is answered.
        offered = min(MOST_OFFERED, max(0.0, replica.demand.per_second(now) * mean - 1.0))
        longer = expm1(offered) / offered if offered else 1.0
        return self._drain_seconds((replica,), now) * longer
