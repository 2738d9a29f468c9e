"""What agents report of their nodes, and what that changes: the middle part of the fleet.

Polls stay the truth for whether a node answers. An agent says more, and says it sooner: that its
engine has ended takes a node down at once, but only an answer to a poll brings it up again. So an
agent that is wrong harms its own node only, and for one poll.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import Final

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.nodes import Node
from cortexd.fleet.polls import PolledFleet
from cortexd.fleet.states import ANSWERING_HEALTH, Change, PollFailure, PollOutcome
from cortexd.text import one_line, without_keys

REPORT_LAG_SECONDS: Final = 3.0
"""How old the memory in a report may be that an agent sends by itself: it looks once a second."""

WRONG_SECONDS: Final = 60.0
"""How long an agent is not believed that the engine has ended, after it was wrong about that."""

ENGINE_SOURCE: Final = "engine"
"""The source of a report whose memory the engine has told the agent."""

LONGEST_WORDS: Final = 300
"""How many characters of a sentence of an agent are shown."""

ENDED_LIVES: Final = frozenset({EngineLife.ENDED, EngineLife.GIVEN_UP})
"""What an agent says of an engine that has no process."""

_LIFE_WORDS: Final = {
    EngineLife.ENDED: "its engine has ended",
    EngineLife.GIVEN_UP: "its engine has ended so often that its agent does not start it again",
    EngineLife.SILENT: "its agent sees that the engine runs and does not answer",
}


class ReportedFleet(PolledFleet):
    """A fleet whose nodes may have agents."""

    def note_agent(self, name: str, abilities: AgentAbilities | None) -> None:
        """Note that a node's agent has connected, or with ``None`` that it has gone.

        What the agent before has reported says nothing any more, except for the memory of other
        programs: it counts until the next reading.
        """
        node = self.nodes[name]
        node.agent, node.report = abilities, None

    def take_report(
        self, name: str, report: AgentReport, now: float, asked_at: float | None = None
    ) -> list[Change]:
        """Take the report of a node's agent; return what has changed.

        The gateway asked for it at ``asked_at``, ``None`` for one that the agent sent by itself. By
        its memory everything is booked as by a node's own report; see ``_seen_at``.
        """
        node = self.nodes[name]
        reason, notes = _shown(report.reason), tuple(map(_shown, report.notes))
        if (reason, notes) != (report.reason, report.notes):
            report = replace(report, reason=reason, notes=notes)
        before, node.report, node.reported_at = node.report, report, now
        system = report.system
        if system is not None:
            self.record_system(name, system, _seen_at(node, report, now, asked_at))
        if report.life not in ENDED_LIVES or (before is not None and before.life is report.life):
            return []
        if before is not None and before.life in ENDED_LIVES and node.health in ANSWERING_HEALTH:
            return []  # polls have shown that this is wrong
        if _was_wrong(node, now):
            return []
        node.ended_at, node.ended_created = now, node.created
        node.failures = max(node.failures, self._down_after)
        # An answer to an earlier poll says nothing of what has happened since.
        node.unreachable, node.doubted_at = True, now
        node.reason = life_words(report)
        return list(self._step(node, PollOutcome.ENDED, node.reason, now))

    def _failure_words(self, node: Node, failure: PollFailure) -> str:
        report = node.report
        if report is None or report.life not in _LIFE_WORDS:
            return failure.reason
        words = life_words(report)
        return words if report.life in ENDED_LIVES else f"{failure.reason}; {words}"


def _was_wrong(node: Node, now: float) -> bool:
    """Return whether the process still answers whose end a node's agent has told lately."""
    return (
        now - node.ended_at < WRONG_SECONDS
        and node.ended_created == node.created
        and node.health in ANSWERING_HEALTH
        and not node.unreachable
    )


def _seen_at(node: Node, report: AgentReport, now: float, asked_at: float | None) -> float:
    """Return when the memory of a report was read, at the earliest.

    A load or an unload may have ended since. While the engine does not answer, its memory says
    nothing of what is resident, at whatever time it was read.
    """
    is_alive = report.life in (EngineLife.ANSWERS, EngineLife.UNKNOWN)
    if not is_alive or node.health not in ANSWERING_HEALTH:
        return -inf
    if asked_at is not None:
        return asked_at
    # The agent asks the engine for its memory now and then only, and when it is asked itself.
    return -inf if report.source == ENGINE_SOURCE else now - REPORT_LAG_SECONDS


def life_words(report: AgentReport) -> str:
    """Return what an agent says of the life of its engine; empty if all is well."""
    words = _LIFE_WORDS.get(report.life, "")
    return f"{words}: {report.reason}" if words and report.reason else words


@lru_cache(maxsize=1024)
def _shown(words: str) -> str:
    """Return an agent's words as they are shown and stored: one short line without keys."""
    return one_line(without_keys(words))[:LONGEST_WORDS]


def shows_more(before: AgentReport | None, report: AgentReport, node: Node) -> bool:
    """Return whether a poll would show more of a node now than before, by its agent's reports.

    It would if the engine has begun to answer, has ended, or has a new process.
    """
    if before is None:
        answers = node.health in ANSWERING_HEALTH and not node.unreachable
        return (report.life in ENDED_LIVES) is answers and report.life is not EngineLife.UNKNOWN
    if before.life is not report.life:
        return report.life is EngineLife.ANSWERS or report.life in ENDED_LIVES
    old, new = before.process, report.process
    return old is not None and new is not None and old.started_at != new.started_at
