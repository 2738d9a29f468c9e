"""Commands of the agent's own file: each runs in a session of its own, with a limit."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from cortexd.agent.supervising.engine_lines import shown
from cortexd.agent.supervising.kernel import Kernel
from cortexd.agent.supervising.shim import FAILED_MARK, FAILED_STATUS, child_of
from cortexd.agent.supervising.words import how_ended, span

KEPT_BYTES: Final = 16 * 1024
"""How much of a command's output is kept: its end, which has the error."""

LAST_LINES: Final = 4
SHOWN_CHARACTERS: Final = 300
"""How much of it becomes the words of a failure."""

LAST_OUTPUT_SECONDS: Final = 0.5
"""How long output may come after the end of a command: children of its may hold the pipe."""

COMMAND_MARK: Final = "(a command of the agent)"
"""No process has this MARK: a command's processes are found by their session only."""


class Ran(NamedTuple):
    """How a command has ended: well, or with words that say why not; and the end of its output."""

    failure: str
    output: bytes


def run(
    reactor: Any,
    kernel: Kernel,
    command: Sequence[str],
    environ: Mapping[str, str],
    limit: float,
    take: Callable[[bytes], None] | None = None,
) -> Deferred[Ran]:
    """Run a command; return how it has ended, which after ``limit`` seconds is a failure.

    At the limit, and if the Deferred is cancelled, all processes of its session are killed. After
    a good end they stay: a command may leave an engine behind. ``take`` gets the output as it
    comes; without it, the end of the output is in the answer.
    """
    program, arguments = child_of(command, None)
    running = _Command(reactor, kernel, command[0], limit, take)
    try:
        transport = reactor.spawnProcess(
            running, program, arguments, env=dict(environ), childFDs={0: "w", 1: "r", 2: "r"}
        )
    except OSError as error:
        running.give_up(f"cannot be started: {error.strerror}")
    else:
        running.pid = transport.pid
    return running.done


class _Command(ProcessProtocol):
    def __init__(
        self,
        reactor: Any,
        kernel: Kernel,
        name: str,
        limit: float,
        take: Callable[[bytes], None] | None,
    ) -> None:
        self._kernel = kernel
        self._name = name
        self._limit = limit
        self._take = take
        self._output = b""
        self._exit: Failure | None = None
        self._timer = reactor.callLater(limit, self._expired)
        self.pid = 0
        self.done: Deferred[Ran] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        """Give the command no input."""
        if self.transport is not None:
            self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 - Twisted's names
        """Take output, for as long as it matters: a child may write on after the command."""
        if self.done.called:
            return
        if self._take is not None:
            self._take(data)
        else:
            self._output = (self._output + data)[-KEPT_BYTES:]

    def processExited(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """Wait a moment for the rest of the output."""
        if not self.done.called:
            self._exit = reason
            self._timer.reset(LAST_OUTPUT_SECONDS)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """Return how the command has ended."""
        if not self.done.called:
            self._end(reason)

    def give_up(self, words: str) -> None:
        """Return a failure: the name of the command, and these words."""
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(Ran(f"{self._name} {words}", self._output))

    def _expired(self) -> None:
        if self._exit is not None:
            self._end(self._exit)
        else:
            self._kill()
            self.give_up(f"did not end within {span(self._limit)}{self._last_words()}")

    def _end(self, reason: Failure) -> None:
        error = reason.value
        if isinstance(error, ProcessTerminated):
            last = self._last_words()
            if error.exitCode == FAILED_STATUS and FAILED_MARK in last:
                self.give_up(f"cannot be run: {last.partition(FAILED_MARK)[2]}")
            else:
                self.give_up(f"{how_ended(error.exitCode, error.signal)}{last}")
            return
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(Ran("", self._output))

    def _cancelled(self, _: object) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._exit is None:
            self._kill()

    def _kill(self) -> None:
        self._kernel.kill(self._kernel.family(self.pid, COMMAND_MARK), signal.SIGKILL)
        if self._exit is None and self.transport is not None:  # it may have no session yet
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")

    def _last_words(self) -> str:
        """Return the last lines of the output, after a colon: the cause, and often some advice."""
        lines = filter(
            None, (shown(line).strip() for line in self._output.split(b"\n")[-LAST_LINES:])
        )
        words = "; ".join(lines)
        return f": {words[:SHOWN_CHARACTERS]}" if words else ""
