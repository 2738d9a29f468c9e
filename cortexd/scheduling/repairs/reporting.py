"""What follows from agents that come and go, and from what they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.reported import shows_more
from cortexd.fleet.states import Change
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.repairs.events import (
    AgentChanged,
    AgentJoined,
    AgentLeft,
    AgentReported,
    PollWanted,
)


class Reporting:
    """Handles the three events of agents; those of nodes that have left say nothing.

    ``take`` follows what has changed of a node as after a poll.
    """

    def __init__(
        self, fleet: Fleet, agenda: Agenda, take: Callable[[Node, Sequence[Change]], None]
    ) -> None:
        self._fleet = fleet
        self._agenda = agenda
        self._take = take

    @property
    def handlers(self) -> Mapping[type[Any], Callable[[Any, float], None]]:
        """The handlers of its events."""
        return {AgentJoined: self.joined, AgentLeft: self.left, AgentReported: self.reported}

    def joined(self, event: AgentJoined, now: float) -> None:
        """Note that a node has an agent."""
        node = self._fleet.nodes.get(event.node)
        if node is not None:
            self._fleet.note_agent(event.node, event.abilities)
            self._agenda.effects.append(AgentChanged(node.name, event.abilities.version))
            self._agenda.reconsider(node)

    def left(self, event: AgentLeft, now: float) -> None:
        """Note that a node has no agent any more, so that only polls show what is there."""
        node = self._fleet.nodes.get(event.node)
        if node is not None:
            self._fleet.note_agent(event.node, None)
            if not node.power.is_awake:
                return  # The machine sleeps, and its agent with it.
            self._agenda.effects.append(AgentChanged(node.name, "", event.reason))
            self._agenda.effects.append(PollWanted(node.name))
            self._agenda.reconsider(node)

    def reported(self, event: AgentReported, now: float) -> None:
        """Book what an agent sees, and follow the end of an engine at once."""
        node = self._fleet.nodes.get(event.node)
        if node is None or node.agent is None:
            return
        is_poll_wanted = shows_more(node.report, event.report, node)
        changes = self._fleet.take_report(event.node, event.report, now, event.asked_at)
        # There may be more room, or so much less that waiting for it no longer helps.
        self._take(node, changes)
        if is_poll_wanted:
            self._agenda.effects.append(PollWanted(node.name))
