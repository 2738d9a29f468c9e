"""What follows from agents that come and go, and from what they report."""

from __future__ import annotations

from cortexd.fleet.fleet import Fleet
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, AgentReported


class Reporting:
    """Handles the three events of agents; those of nodes that have left say nothing."""

    def __init__(self, fleet: Fleet, agenda: Agenda) -> None:
        self._fleet = fleet
        self._agenda = agenda

    def joined(self, event: AgentJoined, now: float) -> None:
        """Note that a node has an agent."""
        node = self._fleet.nodes.get(event.node)
        if node is not None:
            self._fleet.note_agent(event.node, event.abilities)
            self._agenda.reconsider(node)

    def left(self, event: AgentLeft, now: float) -> None:
        """Note that a node has no agent any more."""
        node = self._fleet.nodes.get(event.node)
        if node is not None:
            self._fleet.note_agent(event.node, None)
            self._agenda.reconsider(node)

    def reported(self, event: AgentReported, now: float) -> None:
        """Book what an agent sees."""
        node = self._fleet.nodes.get(event.node)
        if node is None or node.agent is None:
            return
        self._fleet.take_report(event.node, event.report, now, event.asked_at)
        # There may be more room, or so much less that waiting for it no longer helps.
        self._agenda.reconsider(node)
