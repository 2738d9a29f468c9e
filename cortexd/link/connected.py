"""The agents that are connected now, by their nodes: what other rooms may ask of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from cortexd.fleet.agents import AgentAbilities, AgentReport


class AgentGone(Exception):
    """Raised when an agent's link ends before its answer; the message says how."""


class AgentFailed(Exception):
    """Raised when an agent could not do what it was asked, or does not know how."""


class LogStream(Protocol):
    """Lines of an engine's log: the ``last`` ones, and further ones until ``close``."""

    last: Sequence[str]

    def close(self) -> None:
        """End the stream; nothing more comes from it."""


class Agent(Protocol):
    """One agent that has proved that it may speak for ``node``.

    ``peer`` is its address, ``since`` when it connected, of the reactor's clock. Each method raises
    AgentGone or AgentFailed within its limit in seconds, and may be cancelled.
    """

    node: str
    peer: str
    since: float
    abilities: AgentAbilities

    def read_memory(self, limit: float) -> Deferred[AgentReport]:
        """Return what the agent sees now."""

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine; return the seconds until its health was well again."""

    def suspend(self, order: str, limit: float) -> Deferred[None]:
        """Let the machine sleep."""

    def tail(
        self, lines: int, take: Callable[[Sequence[str]], None] | None, limit: float
    ) -> Deferred[LogStream]:
        """Return the last lines of the engine's log; with ``take``, further ones go there."""

    def drop(self, reason: str) -> None:
        """End the link; the agent may connect again, and prove itself again."""


class Agents:
    """The agents that are connected now, by node; all rooms may read it."""

    def __init__(self) -> None:
        self._by_node: dict[str, Agent] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes whose agents are connected."""
        return tuple(self._by_node)

    def on(self, node: str) -> Agent | None:
        """Return the agent of a node, ``None`` while none is connected."""
        return self._by_node.get(node)

    def add(self, agent: Agent) -> Agent | None:
        """Add an agent that has proved itself; return the one that it replaces."""
        before = self._by_node.get(agent.node)
        self._by_node[agent.node] = agent
        return before

    def remove(self, agent: Agent) -> bool:
        """Remove an agent whose link has ended; return whether it was still its node's."""
        if self._by_node.get(agent.node) is not agent:
            return False
        del self._by_node[agent.node]
        return True
