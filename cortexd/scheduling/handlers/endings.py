"""What follows from the end of a load or an unload of ours, good or bad."""

from __future__ import annotations

from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ANSWERING_STATES, ReplicaState, SystemInfo
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.events import Learned, LoadDone, LoadFailed, UnloadDone, UnloadFailed
from cortexd.scheduling.eviction import is_evictable
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.handlers.table import Handlers
from cortexd.scheduling.placement import idle_evictable
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.waiting import Waiting

FIRST_RETRY_SECONDS: Final = 5.0
LONGEST_RETRY_SECONDS: Final = 300.0
"""How long a failed load is not retried on its node: doubled with each failure in a row."""

MOST_DOUBLINGS: Final = 10
"""More doublings all lead to the longest wait; a float overflows at the 1024th."""

UNLOAD_RETRY_SECONDS: Final = 60.0
"""How long a failed unload is not retried."""


class Endings:
    """Handles the four events that end a load or an unload."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: Waiting,
        swapper: Swapper,
        granter: Granter,
        decisions: Decisions,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._swapper = swapper
        self._granter = granter
        self._decisions = decisions
        self._agenda = agenda

    @property
    def handlers(self) -> Handlers:
        """The handlers of its events."""
        return {
            LoadDone: self.load_done,
            LoadFailed: self.load_failed,
            UnloadDone: self.unload_done,
            UnloadFailed: self.unload_failed,
        }

    def load_done(self, event: LoadDone, now: float) -> None:
        """Learn from a load, and let the queue of its model have it."""
        moving = self._swapper.moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        measured = None if swap.disturbed else event.footprint_mb
        learned = self._fleet.footprints.learn(event.node, event.model, event.seconds, measured)
        times = self._fleet.lessons.loads.learn(
            event.node,
            event.model,
            event.seconds,
            now,
            size_mb=self._fleet.footprints.known_mb(event.node, event.model),
            process=swap.node.created,
        )
        self._agenda.effects.append(Learned(event.node, event.model, learned, times))
        self._granter.note_loaded(replica, swap, now)
        if not self._swapper.is_wished(replica):
            waiters = self._waiting.of(event.model)
            self._granter.charge_load(replica, event.seconds, waiters, now)
        self._fleet.note_loaded(replica, now)
        self._agenda.effects.extend(self._fleet.end(replica, ReplicaState.LOADED, now))
        self._take_system(event.node, event.system)
        self._swapper.end(swap, now)
        for other in self._fleet.replicas(event.model):
            # What the load has shown of the model stands in on the other nodes too.
            self._agenda.reconsider(other.node)

    def load_failed(self, event: LoadFailed, now: float) -> None:
        """Try again with more room, wait for the node, or leave the replica alone for a while."""
        moving = self._swapper.moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        self._agenda.effects.extend(self._fleet.end(replica, event.listed, now))
        self._agenda.look_for_all_of(swap.node)
        if replica.state in ANSWERING_STATES:
            self._swapper.end(swap, now)
            return
        if event.unreachable:
            # The node's fault, not the model's: the node gets nothing more until it answers a poll.
            self._fleet.note_unreachable(swap.node)
            if event.begun:
                self._fleet.note_lost_load(replica)
        elif event.out_of_memory:
            self._fleet.note_refusal(replica)
            claim = self._swapper.claim_of(replica, now)
            victims = [
                victim
                for victim in idle_evictable(self._fleet, replica)
                if claim is None or claim.may_take(victim, may_drain=False)
            ]
            if victims and not (swap.evicts_all or swap.is_prefetch):
                reason = f"its load ran out of memory: {event.reason}"
                self._swapper.evict_all(swap, replica, victims, reason, now)
                return
            if not any(is_evictable(other) for other in swap.node.residents):
                self._note_failure(replica, event, now)
            # Else there will be more room than now: the requests that wait need not fail.
        else:
            self._note_failure(replica, event, now)
        self._decisions.record("load_failed", replica.model, event.node, event.reason, now)
        self._swapper.end(swap, now)

    def _note_failure(self, replica: Replica, event: LoadFailed, now: float) -> None:
        if event.overdue:
            self._fleet.note_overdue(replica)
        back_off(self._fleet, replica, event.reason, now)

    def unload_done(self, event: UnloadDone, now: float) -> None:
        """Book what came free, and let the swap go on."""
        moving = self._swapper.moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        lessons = self._fleet.lessons
        lessons.unloads.learn(event.node, now - replica.since)
        size_mb = self._fleet.footprints.known_mb(event.node, event.model)
        lessons.loads.note_resident(event.node, event.model, swap.node.created, size_mb)
        self._fleet.note_unload(swap.node, event.leaked_mb)
        self._agenda.effects.extend(self._fleet.end(replica, ReplicaState.UNLOADED, now))
        self._take_system(event.node, event.system)
        self._swapper.gone(swap, replica)
        if event.leaked_mb:
            self._agenda.look_for_all_of(swap.node)

    def unload_failed(self, event: UnloadFailed, now: float) -> None:
        """Leave the replica alone for a while, and let the swap go on without it."""
        moving = self._swapper.moving(event.node, event.model)
        if moving is None:
            return
        swap, replica = moving
        if event.is_unknown:
            # Requests would make the node load it anew; a load in its place could take its memory.
            self._fleet.doubt(swap.node, now)
        if not swap.abandoned:
            self._fleet.note_unload_failure(replica, now + UNLOAD_RETRY_SECONDS)
        self._decisions.record("unload_failed", replica.model, event.node, event.reason, now)
        is_known = not event.is_unknown
        self._agenda.effects.extend(self._fleet.end(replica, event.listed, now, is_known=is_known))
        self._swapper.gone(swap, replica)
        self._agenda.look_for_all_of(swap.node)

    def _take_system(self, node: str, system: SystemInfo | None) -> None:
        """Book by what a node says after an operation, before the next one is decided."""
        if system is not None:
            self._fleet.record_system(node, system)
            self._agenda.look_for_all_of(self._fleet.nodes[node])


def back_off(fleet: Fleet, replica: Replica, reason: str, now: float) -> None:
    """Leave a replica whose load failed alone for a while, longer with each failure in a row."""
    doublings = min(replica.failures, MOST_DOUBLINGS)
    wait = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**doublings)
    fleet.note_load_failure(replica, reason, now + wait)
