"""The engine's log for the gateway: its last lines, and further ones as the link takes them.

The lines come from the engine's output, if the agent runs the engine, or from a command of the
agent's file, which prints the latest lines and may go on. A stream whose reader is slow loses
lines, and says how many; it never makes the agent's memory grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed

from cortexd.agent.engine_control import Take
from cortexd.agent.supervising import commands
from cortexd.agent.supervising.engine_lines import LineCutter, Ring, shown
from cortexd.agent.supervising.kernel import Kernel
from cortexd.agent.supervising.output import EngineOutput
from cortexd.link.contract import MAX_LOG_LINES, Failed
from cortexd.link.limits import MAX_LINES_BYTES, last_lines
from cortexd.logs import get_logger
from cortexd.logs.backlog import Backlog

MOST_STREAMS: Final = 4
WAITING_BYTES: Final = 256 * 1024
"""How much may wait for a slow reader."""

QUIET_SECONDS: Final = 0.5
FIRST_SECONDS: Final = 5.0
"""A command has printed its latest lines once it ends, is quiet for a moment, or after a while."""

COMMAND_SECONDS: Final = 24 * 3600.0
"""How long a stream may go on."""

log = get_logger("cortexd.agent")


class Follower:
    """Gives further lines to ``take``, one message after the other; drops those too many."""

    def __init__(self, take: Take, ended: Callable[[], None]) -> None:
        self._take = take
        self._ended = ended
        self._waiting = Backlog(WAITING_BYTES, lambda lines: f"[{lines} lines left out]".encode())
        self._sending: Deferred[None] | None = None
        self._is_sending = False
        self._is_closed = False

    def __call__(self, lines: Sequence[bytes]) -> None:
        """Take lines of the log."""
        if self._is_closed:
            return
        for line in lines:
            self._waiting.add(shown(line).encode() or b" ")
        if not self._is_sending and self._waiting:
            self._is_sending = True
            self._sending = Deferred.fromCoroutine(self._send())

    def close(self) -> None:
        """Give nothing more."""
        self._is_closed = True
        if self._is_sending and self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        try:
            while self._waiting and not self._is_closed:
                await self._take(self._message())
        except CancelledError:
            return
        except Exception as error:  # the link's, whose reason its own log has
            log.debug("log_stream_ended", reason=str(error))
            if not self._is_closed:
                self._ended()
        finally:
            self._is_sending = False

    def _message(self) -> list[str]:
        lines: list[str] = []
        size = 0
        while self._waiting:
            line = self._waiting.first()
            size += 2 * len(line) + 3  # as JSON: a shown line has no character that takes more
            if lines and size > MAX_LINES_BYTES:
                break
            self._waiting.note_written(len(line))
            lines.append(line.decode())
        return lines


class Logs:
    """The streams of one engine's log, by their numbers; see EngineControl."""

    def __init__(
        self,
        reactor: Any,
        kernel: Kernel,
        source: EngineOutput | Sequence[str],
        environ: Mapping[str, str],
    ) -> None:
        self._reactor = reactor
        self._kernel = kernel
        self._source = source
        self._environ = environ
        self._ends: dict[int, Callable[[], None]] = {}

    @property
    def has_source(self) -> bool:
        """Whether there is any log to show."""
        return isinstance(self._source, EngineOutput) or bool(self._source)

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Return the last lines, and give further ones to ``take``. Raises Failed."""
        lines = max(0, min(lines, MAX_LOG_LINES))
        self.end(stream)
        if len(self._ends) >= MOST_STREAMS:
            raise Failed(f"{MOST_STREAMS} streams of the engine's log are open, which is the limit")
        if isinstance(self._source, EngineOutput):
            return self._from_output(self._source, stream, lines, take)
        if not self._source:
            raise Failed("the agent's file has no log command for an engine that it does not run")
        return self._from_command(list(self._source), stream, lines, take)

    def end(self, stream: int) -> None:
        """End a stream; an unknown one is no error."""
        end = self._ends.pop(stream, None)
        if end is not None:
            end()

    def end_all(self) -> None:
        """End all streams."""
        for stream in list(self._ends):
            self.end(stream)

    def _from_output(
        self, output: EngineOutput, stream: int, lines: int, take: Take | None
    ) -> Deferred[Sequence[str]]:
        if take is not None:
            follower = Follower(take, lambda: self.end(stream))
            output.listeners.append(follower)

            def end() -> None:
                output.listeners.remove(follower)
                follower.close()

            self._ends[stream] = end
        return succeed(last_lines(output.ring.last(lines)))

    def _from_command(
        self, command: list[str], stream: int, lines: int, take: Take | None
    ) -> Deferred[Sequence[str]]:
        reading = _Reading(self._reactor, lines, take, lambda: self.end(stream))
        ran = commands.run(
            self._reactor,
            self._kernel,
            command,
            self._environ,
            COMMAND_SECONDS,
            reading.read,
        )
        self._ends[stream] = lambda: reading.close(ran)
        ran.addCallbacks(reading.command_ended, lambda _: None)
        return reading.first


class _Reading:
    """The output of one log command: the last lines first, then further ones for a follower."""

    def __init__(
        self, reactor: Any, lines: int, take: Take | None, end: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._lines = lines
        self._end = end
        self._follower = Follower(take, end) if take is not None else None
        self._cutter = LineCutter()
        self._ring = Ring()
        self._latest = reactor.callLater(FIRST_SECONDS, self._answer)
        self._quiet: Any = None
        self._ran: commands.Ran | None = None
        self.first: Deferred[Sequence[str]] = Deferred(lambda _: end())

    def read(self, data: bytes) -> None:
        """Take output of the command."""
        self._take(self._cutter.feed(data))
        if not self.first.called:
            if self._quiet is None:
                self._quiet = self._reactor.callLater(QUIET_SECONDS, self._answer)
            else:
                self._quiet.reset(QUIET_SECONDS)

    def command_ended(self, ran: commands.Ran) -> None:
        """Take the end of the command: nothing more comes."""
        self._ran = ran
        self._take(self._cutter.end())
        if not self.first.called:
            self._answer()
        elif self._follower is not None:
            words = ran.failure or "the log command has ended"
            self._follower([f"[{words}]".encode()])

    def close(self, ran: Deferred[Any]) -> None:
        """End the command, and give nothing more."""
        self._stop_waiting()
        if self._follower is not None:
            self._follower.close()
        if self._ran is None:
            ran.cancel()
        if not self.first.called:
            self.first.errback(Failed("the stream was ended before its first lines"))

    def _take(self, lines: Sequence[bytes]) -> None:
        if self.first.called and self._follower is not None:
            self._follower(lines)
        else:
            self._ring.add(lines)

    def _answer(self) -> None:
        self._stop_waiting()
        if self.first.called:
            return
        failure = "" if self._ran is None else self._ran.failure
        if failure:
            last = "".join(f": {line}" for line in self._ring.last(1))
            self.first.errback(Failed(f"the log command {failure}{last}"))
            self._end()
            return
        self.first.callback(last_lines(self._ring.last(self._lines)))
        if self._follower is None or self._ran is not None:
            self._end()

    def _stop_waiting(self) -> None:
        for call in (self._latest, self._quiet):
            if call is not None and call.active():
                call.cancel()
