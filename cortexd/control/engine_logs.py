"""The daemon's side of the commands that show an engine's log.

Lines come from the engine's agent. Those that a client follows wait in a backlog until it fetches
them. A client that is too slow loses the oldest ones, for the daemon's memory has a bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

from cortexd.control.agent_commands import MoreLog, ReadLog
from cortexd.control.agents import AgentsControl
from cortexd.control.contract import Refused
from cortexd.link.connected import Agent, AgentFailed, AgentGone, LogStream
from cortexd.link.contract import MAX_LOG_LINES
from cortexd.link.limits import MAX_LINE, last_lines

LOG_SECONDS: Final = 8.0
"""How long an agent may take for the last lines: less than cortexctl waits for them."""

LONGEST_WAIT_SECONDS: Final = 20.0
"""How long a client may wait for further lines, before it hears that there are none."""

ANSWER_BYTES: Final = amp.MAX_VALUE_LENGTH - len("[]")
"""The most bytes of the lines of one answer, as JSON."""

MOST_BYTES: Final = 4 * amp.MAX_VALUE_LENGTH
"""The largest backlog of one client, as JSON."""


class Backlog:
    """Lines that a client has not fetched yet, at most MOST_BYTES of them.

    ``dropped`` is how many lines were lost since the client fetched some.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.waiting: Deferred[None] | None = None
        self._lines: deque[tuple[str, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def take(self, lines: Sequence[str]) -> None:
        """Add lines, and let the client that waits have them."""
        for text in lines:
            line = text[:MAX_LINE]
            size = len(msgspec.json.encode(line)) + len(",")
            self._lines.append((line, size))
            self._bytes += size
        while self._bytes > MOST_BYTES:
            self._bytes -= self._lines.popleft()[1]
            self.dropped += 1
        self.wake()

    def fetch(self) -> list[str]:
        """Remove and return the oldest lines that fit into an answer."""
        found: list[str] = []
        room = ANSWER_BYTES
        while self._lines and self._lines[0][1] <= room:
            line, size = self._lines.popleft()
            self._bytes -= size
            room -= size
            found.append(line)
        return found

    def wake(self) -> None:
        """End the wait of the client, if it waits."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.callback(None)


class LogControl(AgentsControl):
    """The part of a ControlProtocol that answers these commands; it follows one log at a time."""

    _log_answer: Deferred[Mapping[str, Any]] | None = None
    _log_stream: LogStream | None = None
    _log_source: Agent | None = None
    _log_backlog: Backlog | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the log that the client follows."""
        self._end_log()
        super().connectionLost(reason)

    @ReadLog.responder
    def read_log(self, node: str, lines: int, follow: bool | None) -> Deferred[Mapping[str, Any]]:
        """Return the last lines of an engine's log."""
        agent = self._agent(node)
        if not agent.abilities.has_log:
            raise Refused(
                f"the agent of node {node} cannot read its engine's log: set `log` in the [engine] "
                "table of its configuration"
            )
        self._end_log()
        self._log_answer = Deferred.fromCoroutine(self._read(agent, lines, bool(follow)))
        return self._log_answer

    async def _read(self, agent: Agent, lines: int, follow: bool) -> Mapping[str, Any]:
        backlog = Backlog()
        take = backlog.take if follow else None
        try:
            stream = await agent.tail(min(lines, MAX_LOG_LINES), take, LOG_SECONDS)
        except (AgentGone, AgentFailed) as error:
            raise Refused(f"the log of node {agent.node} cannot be read: {error}") from None
        except CancelledError:
            raise Refused("this connection has asked for another log, or has ended") from None
        if follow:
            self._log_stream, self._log_source, self._log_backlog = stream, agent, backlog
        else:
            stream.close()
        return {"lines": last_lines(stream.last, ANSWER_BYTES)}

    @MoreLog.responder
    def more_log(self, seconds: float) -> Deferred[Mapping[str, Any]]:
        """Return further lines, as soon as there are some."""
        return Deferred.fromCoroutine(self._more(seconds))

    async def _more(self, seconds: float) -> Mapping[str, Any]:
        backlog, source = self._log_backlog, self._log_source
        if backlog is None or source is None:
            raise Refused("this connection follows no log")
        if not backlog and self._agents().on(source.node) is source:
            await self._lines_or_time(backlog, min(max(0.0, seconds), LONGEST_WAIT_SECONDS))
        if not backlog and self._agents().on(source.node) is not source:
            self._end_log()
            raise Refused(f"the agent of node {source.node} is not connected any more")
        dropped, backlog.dropped = backlog.dropped, 0
        return {"lines": backlog.fetch(), "dropped": dropped}

    async def _lines_or_time(self, backlog: Backlog, seconds: float) -> None:
        backlog.wake()
        waiting: Deferred[None] = Deferred()
        backlog.waiting = waiting
        timer = self._clock.callLater(seconds, backlog.wake)
        await waiting
        if timer.active():
            timer.cancel()

    def _end_log(self) -> None:
        reading, self._log_answer = self._log_answer, None
        if reading is not None:
            reading.cancel()
        stream, self._log_stream, self._log_source = self._log_stream, None, None
        backlog, self._log_backlog = self._log_backlog, None
        if stream is not None:
            stream.close()
        if backlog is not None:
            backlog.wake()
