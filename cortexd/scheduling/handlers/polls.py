"""What follows from what polls see of a node, or do not."""

from __future__ import annotations

from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.events import ConnectionLost, Observed, PollFailed, SystemRead
from cortexd.scheduling.handlers.changes import Changes
from cortexd.scheduling.handlers.endings import back_off
from cortexd.scheduling.handlers.table import Handlers
from cortexd.scheduling.powering.powers import Powers
from cortexd.scheduling.prefetching.prefetches import Prefetches
from cortexd.scheduling.repairs.repairer import Repairer

LOST_LOAD: Final = "the node's process ended during its load"


class Polls:
    """Handles the events of polls."""

    def __init__(
        self,
        fleet: Fleet,
        changes: Changes,
        repairer: Repairer,
        powers: Powers,
        prefetches: Prefetches,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._changes = changes
        self._repairer = repairer
        self._powers = powers
        self._prefetches = prefetches
        self._agenda = agenda

    @property
    def handlers(self) -> Handlers:
        """The handlers of its events."""
        return {
            Observed: self.observed,
            PollFailed: self.poll_failed,
            ConnectionLost: self.connection_lost,
            SystemRead: self.system_read,
        }

    def observed(self, event: Observed, now: float) -> None:
        """Follow what a poll has seen."""
        node = self._fleet.nodes.get(event.node)
        if node is None:
            return  # It has left the configuration since it was asked.
        was_unreachable = node.unreachable
        changes = self._fleet.observe(event.node, event.observation, now, event.asked_at)
        if was_unreachable:
            for replica in node.replicas.values():
                if replica.lost_load:
                    back_off(self._fleet, replica, LOST_LOAD, now)
        if changes or was_unreachable:
            self._changes.take(node, changes)
            self._prefetches.note(node, changes, now)
        if not node.power.is_awake:
            self._powers.polled(node, event.asked_at, now)
        self._repairer.polled(node, changes, event.asked_at, now)

    def poll_failed(self, event: PollFailed, now: float) -> None:
        """Note that a poll of a node has failed."""
        if event.node not in self._fleet.nodes:
            return
        node = self._fleet.nodes[event.node]
        changes = self._fleet.fail(event.node, event.failure, now)
        if changes:
            self._changes.take(node, changes)
        if not node.power.is_awake:
            self._powers.poll_failed(node, now)

    def connection_lost(self, event: ConnectionLost, now: float) -> None:
        """Doubt a node that has closed a connection."""
        self._fleet.doubt(self._fleet.nodes[event.node], now)

    def system_read(self, event: SystemRead, now: float) -> None:
        """Book the memory that a node has read."""
        node = self._fleet.nodes.get(event.node)
        if node is None:
            return
        self._fleet.record_system(event.node, event.system, event.asked_at)
        # There may be more room, or so much less that waiting for it no longer helps.
        self._agenda.reconsider(node)
