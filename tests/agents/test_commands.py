"""How the run of a command ends, on a clock; tests/live/agent has real processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.commands import MOST_OUTPUT, MOST_SHOWN, OUTPUT_SECONDS, CommandFailed, run

LIMIT = 60.0


class OneProcess(Clock):
    """A reactor and the one process that it starts; the test ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = False
        self.has_exited = False
        self.signals: list[str] = []

    def spawnProcess(self, protocol: Any, program: str, args: Sequence[str], env: None) -> None:
        """Start it, unless its program is missing."""
        assert program == args[0]
        if self.missing:
            raise FileNotFoundError(2, "No such file", program)
        self.protocol = protocol
        protocol.makeConnection(self)

    def signalProcess(self, name: str) -> None:
        """Keep the signal; raise as Twisted does where the process has exited."""
        if self.has_exited:
            raise ProcessExitedAlready
        self.signals.append(name)

    def exit(self, code: int = 0) -> None:
        """Exit, with the output still open."""
        self.has_exited = True
        self.reason = Failure(ProcessTerminated(code) if code else ProcessDone(0))
        self.protocol.processExited(self.reason)

    def close(self) -> None:
        """Close the output after the exit."""
        self.protocol.processEnded(self.reason)


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.process = OneProcess()
        self.addCleanup(lambda: self.assertEqual([], self.process.getDelayedCalls()))

    def run_one(self) -> Any:
        """Begin a run."""
        return run(self.process, ["suspend-it"], LIMIT)

    def test_success(self) -> None:
        """A run is over once the process has exited and its output is closed."""
        done = self.run_one()
        self.process.exit()
        self.assertNoResult(done)
        self.process.close()
        assert None is self.successResultOf(done)

    def test_output_that_stays_open(self) -> None:
        """A child of the command's own that keeps the output open is awaited for a moment only."""
        done = self.run_one()
        self.process.exit()
        self.process.advance(OUTPUT_SECONDS)
        assert None is self.successResultOf(done)
        self.process.close()

    def test_the_end_of_the_output(self) -> None:
        """A failure is told with the last words of a long output, in one line."""
        done = self.run_one()
        self.process.protocol.childDataReceived(1, b"x" * MOST_OUTPUT)
        self.process.protocol.childDataReceived(2, b"access\ndenied\n")
        self.process.exit(3)
        self.process.close()
        words = str(self.failureResultOf(done, CommandFailed).value)
        assert "exit code 3" in words
        assert words.endswith("denied")
        assert "\n" not in words
        assert len(words) < 2 * MOST_SHOWN

    def test_too_long(self) -> None:
        """It is killed after its limit, and its end is told as that."""
        done = self.run_one()
        self.process.advance(LIMIT)
        assert ["KILL"] == self.process.signals
        self.process.exit(9)
        self.process.close()
        words = str(self.failureResultOf(done, CommandFailed).value)
        assert "it has not ended within 60 s" == words

    def test_given_up(self) -> None:
        """It is killed, and its end is nobody's concern any more."""
        done = self.run_one()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        assert ["KILL"] == self.process.signals
        self.process.exit(9)
        self.process.close()

    def test_given_up_after_the_exit(self) -> None:
        """There is nothing to kill while only the output is open."""
        done = self.run_one()
        self.process.exit()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.process.close()
        assert [] == self.process.signals

    def test_missing(self) -> None:
        """A program that is not there is a failure of the command."""
        self.process.missing = True
        words = str(self.failureResultOf(self.run_one(), CommandFailed).value)
        assert words.startswith("it cannot be run: ")
