"""An agent at the gateway's end of its link, whose answers the test gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.link.connected import LogStream


@dataclass
class Order:
    """A restart that the agent was ordered to make; the test fires ``answer``."""

    order: str
    reason: str
    limit: float
    is_cancelled: bool = False
    answer: Deferred[float] = field(init=False)

    def __post_init__(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.answer = Deferred(self._cancel)

    def _cancel(self, _: Deferred[float]) -> None:
        self.is_cancelled = True


@dataclass
class Suspend:
    """An order to let the machine sleep; the test fires ``answer``."""

    order: str
    limit: float
    is_cancelled: bool = False
    answer: Deferred[None] = field(init=False)

    def __post_init__(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.answer = Deferred(self._cancel)

    def _cancel(self, _: Deferred[None]) -> None:
        self.is_cancelled = True


class ScriptedStream:
    """Lines of a log; ``write`` gives further ones to the reader."""

    def __init__(self, last: Sequence[str], take: Callable[[Sequence[str]], None] | None) -> None:
        self.last = last
        self.is_closed = False
        self._take = take

    def write(self, *lines: str) -> None:
        """Send further lines."""
        assert self._take is not None
        self._take(lines)

    def close(self) -> None:
        """End the stream."""
        self.is_closed = True


class ScriptedAgent:
    """Keeps what it was asked; ``log`` are the lines of its engine's log."""

    def __init__(
        self,
        node: str,
        peer: str = "10.0.0.9:41000",
        since: float = 0.0,
        abilities: AgentAbilities | None = None,
    ) -> None:
        self.node = node
        self.peer = peer
        self.since = since
        self.abilities = abilities or AgentAbilities(
            version="1.2.3", can_restart=True, has_log=True
        )
        self.orders: list[Order] = []
        self.suspends: list[Suspend] = []
        self.log: list[str] = []
        self.streams: list[ScriptedStream] = []
        self.failure: Exception | None = None

    def read_memory(self, limit: float) -> Deferred[AgentReport]:
        """Never answer."""
        return Deferred()

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Keep the order; the test answers it."""
        self.orders.append(Order(order, reason, limit))
        return self.orders[-1].answer

    def suspend(self, order: str, limit: float) -> Deferred[None]:
        """Keep the order; the test answers it."""
        self.suspends.append(Suspend(order, limit))
        return self.suspends[-1].answer

    def tail(
        self, lines: int, take: Callable[[Sequence[str]], None] | None, limit: float
    ) -> Deferred[LogStream]:
        """Return the last lines of ``log``, or fail with ``failure``."""
        answer: Deferred[LogStream] = Deferred()
        if self.failure is not None:
            answer.errback(self.failure)
        else:
            stream = ScriptedStream(self.log[-lines:], take)
            self.streams.append(stream)
            answer.callback(stream)
        return answer

    def drop(self, reason: str) -> None:
        """Do nothing: the test removes the agent."""
