"""The commands of the control socket about agents, their engines' logs, and restarts.

They belong to the contract of ``cortexd.control.contract``, which has the others.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols import amp

from cortexd.control.contract import ControlCommand, Count, Json
from cortexd.control.summaries import (
    AgentSummary,
    EndedRestartSummary,
    RestartPlanSummary,
    RestartSummary,
)


class ListAgents(ControlCommand):
    """All nodes in the order of the configuration, each with its agent, if one is connected."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = [(b"items", Json(list[AgentSummary])), (b"next", amp.Integer())]


class RestartNode(ControlCommand):
    """Restart a node's engine, and return what follows from it.

    The node gets no new work, and its requests end first; with ``now`` they are aborted. What was
    loaded comes back, with ``cold`` only what is pinned. ``defrag`` says only that the operator
    wants memory back, for the audit trail. ShowRestart shows how it goes on. Raises UnknownNode, or
    Refused if the engine cannot be restarted now.
    """

    arguments: ClassVar = [
        (b"node", amp.Unicode()),
        (b"now", amp.Boolean(optional=True)),
        (b"cold", amp.Boolean(optional=True)),
        (b"defrag", amp.Boolean(optional=True)),
    ]
    response: ClassVar = [(b"plan", Json(RestartPlanSummary)), (b"number", amp.Integer())]


class PlanRestart(ControlCommand):
    """Return what RestartNode would do now; raises the same errors."""

    arguments: ClassVar = [(b"node", amp.Unicode())]
    response: ClassVar = [(b"plan", Json(RestartPlanSummary))]


class ShowRestart(ControlCommand):
    """The restart of a node that is planned or under way, and the last one that is over."""

    arguments: ClassVar = [(b"node", amp.Unicode())]
    response: ClassVar = [
        (b"restart", Json(RestartSummary | None)),
        (b"ended", Json(EndedRestartSummary | None)),
    ]


class SleepNode(ControlCommand):
    """Let a node sleep now. Raises UnknownNode, or Refused with the reason if it cannot."""

    arguments: ClassVar = [(b"node", amp.Unicode())]


class WakeNode(ControlCommand):
    """Wake a node. Raises UnknownNode, or Refused with the reason if it cannot be woken."""

    arguments: ClassVar = [(b"node", amp.Unicode())]


class ReadLog(ControlCommand):
    """The last ``lines`` lines of a node's engine, as its agent reads them; fewer, if long.

    With ``follow``, MoreLog returns further ones. Raises UnknownNode, or Refused if no agent can
    read the log now.
    """

    arguments: ClassVar = [
        (b"node", amp.Unicode()),
        (b"lines", Count()),
        (b"follow", amp.Boolean(optional=True)),
    ]
    response: ClassVar = [(b"lines", Json(list[str]))]


class MoreLog(ControlCommand):
    """Further lines of the log that this connection follows, at the latest after ``seconds``.

    ``dropped`` is how many lines were lost before these, because they were not fetched in time.
    Raises Refused once the log cannot be followed any more.
    """

    arguments: ClassVar = [(b"seconds", amp.Float())]
    response: ClassVar = [(b"lines", Json(list[str])), (b"dropped", amp.Integer())]
