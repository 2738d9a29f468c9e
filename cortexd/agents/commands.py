"""Runs a command of the configuration: without a shell, within a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from cortexd.text import one_line

MOST_OUTPUT: Final = 4096
"""How many bytes of what a command writes are kept: the last ones."""

MOST_SHOWN: Final = 200

OUTPUT_SECONDS: Final = 1.0
"""How long the output of a command that has ended may stay open."""


class CommandFailed(Exception):
    """Raised when a command cannot be run, fails or takes too long; the message says so."""


class _Run(ProcessProtocol):
    """One run of a command; ``done`` fires when it has ended."""

    def __init__(self, clock: IReactorTime, limit: float) -> None:
        self.done: Deferred[None] = Deferred(self._cancel)
        self.timer: IDelayedCall | None = None
        self._clock = clock
        self._limit = limit
        self._reason: Failure | None = None
        self._output = b""
        self._is_late = False

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 - Twisted calls it by this name
        """Keep the end of the output."""
        self._output = (self._output + data)[-MOST_OUTPUT:]

    def expire(self) -> None:
        """Kill a command that takes too long."""
        self._is_late = True
        self._kill()

    def _cancel(self, done: Deferred[None]) -> None:
        self._stop()
        self._kill()

    def _stop(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def _kill(self) -> None:
        if self.transport is None:
            return  # it was never run
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            return

    def processExited(self, reason: Failure) -> None:  # noqa: N802 - Twisted calls it by this name
        """Wait a moment for the rest of the output, which a child of its own may keep open."""
        self._reason = reason
        self._stop()
        if self.done.called:
            return  # it was cancelled
        self.timer = self._clock.callLater(OUTPUT_SECONDS, self._finish)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted calls it by this name
        """Say how it ended, with all of its output."""
        self._reason = reason
        self._finish()

    def _finish(self) -> None:
        self._stop()
        reason = self._reason
        if reason is None or self.done.called:
            return  # it was cancelled
        if self._is_late:
            self.done.errback(CommandFailed(f"it has not ended within {self._limit:g} s"))
        elif reason.check(ProcessDone):
            self.done.callback(None)
        else:
            output = one_line(self._output.decode("utf-8", "replace").strip())[-MOST_SHOWN:]
            words = one_line(str(reason.value))
            self.done.errback(CommandFailed(f"{words} {output}".strip()))


def run(reactor: Any, command: Sequence[str], limit: float) -> Deferred[None]:
    """Run a command; CommandFailed says why it failed. Cancelling kills it."""
    protocol = _Run(reactor, limit)
    try:
        # The environment is ours: ssh, for one, needs HOME.
        reactor.spawnProcess(protocol, command[0], list(command), env=None)
    except OSError as error:
        protocol.done = Deferred()
        protocol.done.errback(CommandFailed(f"it cannot be run: {error}"))
        return protocol.done
    if protocol.timer is None and not protocol.done.called:  # It may have ended already.
        protocol.timer = reactor.callLater(limit, protocol.expire)
    return protocol.done
