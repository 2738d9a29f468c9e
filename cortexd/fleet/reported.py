"""What agents report of their nodes, and what that changes: the middle part of the fleet.

Polls stay the truth for whether a node answers; a report says more, or says it sooner.
"""

from __future__ import annotations

from typing import Final

from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.fleet.polls import PolledFleet

REPORT_LAG_SECONDS: Final = 2.0
"""How old a report may be that an agent sends by itself: it looks once a second, and then sends."""


class ReportedFleet(PolledFleet):
    """A fleet whose nodes may have agents."""

    def note_agent(self, name: str, abilities: AgentAbilities | None) -> None:
        """Note that a node's agent has connected, or with ``None`` that it has gone.

        What the agent before has reported says nothing any more.
        """
        node = self.nodes[name]
        node.agent, node.report = abilities, None

    def take_report(
        self, name: str, report: AgentReport, now: float, asked_at: float | None = None
    ) -> None:
        """Take the report of a node's agent, and book by its memory as a poll's answer does.

        The gateway asked for it at ``asked_at``, ``None`` for one that the agent sent by itself.
        """
        self.nodes[name].report = report
        if report.system is not None:
            seen_at = now - REPORT_LAG_SECONDS if asked_at is None else asked_at
            self.record_system(name, report.system, seen_at)
