"""The events and effects of agents and of planned restarts; ``scheduling.events`` has the rest."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.scheduling.repairs.reasons import Kind

# Events.


@dataclass(frozen=True, slots=True)
class AgentJoined:
    """A node's agent has connected, and has proved that it may speak for the node."""

    node: str
    abilities: AgentAbilities


@dataclass(frozen=True, slots=True)
class AgentLeft:
    """A node's agent is not connected any more: from now on, polls are all that is known."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class AgentReported:
    """A node's agent has sent a report of what it sees now.

    The gateway asked for it at ``asked_at``, ``None`` for one that the agent sent by itself.
    """

    node: str
    report: AgentReport
    asked_at: float | None = None


@dataclass(frozen=True, slots=True)
class RestartWanted:
    """An operator wants a node's engine restarted. May raise OperationRefused.

    The node takes no new work, and its leases end first; with ``now`` they are cut off. What was
    loaded comes back, but with ``cold`` only what is pinned.
    """

    node: str
    now: bool = False
    cold: bool = False


@dataclass(frozen=True, slots=True)
class RestartDone:
    """A restart that StartRestart ordered has ended well: the engine answers again."""

    node: str
    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestartFailed:
    """A restart that StartRestart ordered has failed, or nothing is known of its end."""

    node: str
    number: int
    reason: str


# Effects.


@dataclass(frozen=True, slots=True)
class RestartPlanned:
    """A node's engine will be restarted as soon as that disturbs nobody, for this reason.

    ``number`` is that of the decision, for ``cortexctl why``, ``kind`` that of the first reason.
    """

    node: str
    number: int
    reason: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class StartRestart:
    """A node's agent must restart its engine; RestartDone or RestartFailed answers.

    The same ``number`` sent twice is one restart.
    """

    node: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class RestartEnded:
    """A planned restart is over, and the node takes work again; ``failure`` is empty if it worked.

    ``seconds`` is the time since the node was closed, ``models`` what is loaded there now. One that
    was given up before it had ``begun`` has changed nothing; ``failure`` says why.
    """

    node: str
    number: int
    failure: str
    seconds: float
    models: tuple[str, ...] = ()
    begun: bool = True


@dataclass(frozen=True, slots=True)
class PollWanted:
    """A node should be polled at once: more has changed there than reports show."""

    node: str


@dataclass(frozen=True, slots=True)
class AgentChanged:
    """A node's agent has connected, in this version, or has gone: then ``version`` is empty."""

    node: str
    version: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """A node's models have begun to take more memory than they may, by ``over_mb``."""

    node: str
    over_mb: int
