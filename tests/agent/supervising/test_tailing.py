"""The engine's log for the gateway."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.engine_lines import LONGEST_BYTES
from cortexd.agent.supervising.output import EngineOutput
from cortexd.agent.supervising.tailing import MOST_STREAMS, WAITING_BYTES, Logs
from cortexd.link.contract import MAX_LOG_LINES, Failed
from tests.doubles.process_world import OneProcess, ProcessWorld

COMMAND = ("journalctl", "-f")
MOST_BYTES = 65_535
"""The largest value of AMP."""


class Reader:
    """The gateway's end of a stream, which takes the next message once it is let go on."""

    def __init__(self) -> None:
        self.messages: list[Sequence[str]] = []
        self.taking: list[Deferred[object]] = []

    def __call__(self, lines: Sequence[str]) -> Deferred[object]:
        """Take one message."""
        assert len(msgspec.json.encode(lines)) <= MOST_BYTES
        self.messages.append(lines)
        taken: Deferred[object] = Deferred()
        self.taking.append(taken)
        return taken

    def go_on(self) -> None:
        """Let the message through."""
        self.taking.pop(0).callback({})

    def read_all(self) -> list[str]:
        """Take all that waits, and return all lines."""
        while self.taking:
            self.go_on()
        return [line for lines in self.messages for line in lines]


class OutputTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make the output of an engine that the agent runs."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.world = ProcessWorld()
        self.output = EngineOutput(self.world, Path(folder.name))
        self.output.open()
        self.addCleanup(self.output.close)
        self.engine = self.output.writing_end()
        self.addCleanup(os.close, self.engine)
        self.logs = Logs(self.world, self.world, self.output, {})

    def write(self, text: bytes) -> None:
        """Let the engine write."""
        while text:
            written = os.write(self.engine, text[:65536])
            text = text[written:]
            self.output.doRead()

    def test_last_lines(self) -> None:
        """As many as were asked, and no line that has not ended."""
        self.write(b"one\ntwo\nthree\nfo")
        assert ["two", "three"] == self.successResultOf(self.logs.tail(1, 2, None))
        assert [] == self.successResultOf(self.logs.tail(1, -5, None))

    def test_an_answer_fits_one_message(self) -> None:
        """Long lines make the answer shorter, so that the link can carry it."""
        self.write(b'"' * LONGEST_BYTES + b"\n" + (b"x" * 1000 + b"\n") * 100)
        lines = self.successResultOf(self.logs.tail(1, 10**9, None))
        assert len(msgspec.json.encode(lines)) <= MOST_BYTES
        assert len(lines) > 50

    def test_further_lines(self) -> None:
        """They come in messages, one after the other, until the stream is ended."""
        reader = Reader()
        self.logs.tail(7, 10, reader)
        self.write(b"a\n")
        self.write(b"b\nc\n")
        assert [["a"]] == reader.messages
        reader.go_on()
        assert [["a"], ["b", "c"]] == reader.messages

        self.logs.end(7)
        self.write(b"d\n")
        assert ["a", "b", "c"] == reader.read_all()
        self.logs.end(7)

    def test_a_slow_reader_loses_lines(self) -> None:
        """Not more than WAITING_BYTES wait, and the gap has its number."""
        reader = Reader()
        self.logs.tail(7, 0, reader)
        line = b"x" * 99 + b"\n"
        count = 3 * WAITING_BYTES // 100
        self.write(line * count)
        lines = reader.read_all()
        kept = lines.count("x" * 99)
        assert abs(kept - WAITING_BYTES // 100) < 1000
        (gap,) = set(lines) - {"x" * 99}
        assert f"[{count - kept} lines left out]" == gap

    def test_a_reader_that_takes_all_at_once(self) -> None:
        """Messages that are taken at once are all sent, whatever their number."""
        seen: list[str] = []

        def take(lines: Sequence[str]) -> Deferred[object]:
            seen.extend(lines)
            return succeed(None)

        self.logs.tail(7, 0, take)
        self.write((b"x" * 999 + b"\n") * 500)
        assert 500 == len(seen)

    def test_a_reader_that_fails(self) -> None:
        """The stream ends with it, and there is room for another one."""
        reader = Reader()
        self.logs.tail(7, 0, reader)
        self.write(b"a\n")
        reader.taking.pop().errback(ConnectionError("the link has ended"))
        self.write(b"b\n")
        assert [["a"]] == reader.messages
        assert [] == self.output.listeners

    def test_a_few_streams(self) -> None:
        """Each one costs memory: there is a limit, which the same number does not reach."""
        for _ in range(2):
            for stream in range(MOST_STREAMS):
                self.logs.tail(stream, 0, Reader())
        with self.assertRaises(Failed):
            self.logs.tail(100, 0, Reader())
        self.logs.end_all()
        assert [] == self.output.listeners


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make the log of an engine that another program runs."""
        self.world = ProcessWorld()
        self.commands: list[OneProcess] = []
        self.world.started = self.commands.append
        self.logs = Logs(self.world, self.world, COMMAND, {})

    def tearDown(self) -> None:
        """Check that nothing is left."""
        self.logs.end_all()
        self.world.run(0.1)
        assert [] == self.world.living()
        assert [] == self.world.getDelayedCalls()

    def test_last_lines_of_a_command_that_goes_on(self) -> None:
        """They are complete once it is quiet for a moment; then it is ended."""
        lines = self.logs.tail(1, 2, None)
        (command,) = self.commands
        assert COMMAND == tuple(command.command)
        self.world.write(command, b"one\ntwo\n")
        self.world.run(0.3)
        self.world.write(command, b"three\n")
        self.world.run(0.4)
        self.assertNoResult(lines)
        self.world.run(0.2)
        assert ["two", "three"] == self.successResultOf(lines)
        assert not command.is_alive

    def test_last_lines_of_a_command_that_ends(self) -> None:
        """It has nothing more to say then, not even a line break."""
        lines = self.logs.tail(1, 2, None)
        self.world.write(self.commands[0], b"one\ntwo")
        self.world.end(self.commands[0], 0)
        self.world.run()
        assert ["one", "two"] == self.successResultOf(lines)

    def test_no_lines(self) -> None:
        """A log without a line is no failure."""
        lines = self.logs.tail(1, 2, None)
        self.world.run(5.1)
        assert [] == self.successResultOf(lines)

    def test_further_lines(self) -> None:
        """The command runs as long as its stream, and its end is the last line."""
        reader = Reader()
        lines = self.logs.tail(1, MAX_LOG_LINES, reader)
        (command,) = self.commands
        self.world.write(command, b"one\n")
        self.world.run(1.0)
        assert ["one"] == self.successResultOf(lines)
        self.world.write(command, b"two\nthr")
        self.world.write(command, b"ee\n")
        self.world.end(command, 1)
        self.world.run(1.0)
        assert ["two", "three", "[journalctl ended with status 1]"] == reader.read_all()

    def test_a_stream_that_is_ended(self) -> None:
        """The command goes with it, also before its first lines."""
        reader = Reader()
        lines = self.logs.tail(1, 10, reader)
        self.logs.end(1)
        self.failureResultOf(lines, Failed)
        self.world.run(0.1)
        assert not self.commands[0].is_alive

    def test_a_question_that_is_cancelled(self) -> None:
        """The link may end meanwhile."""
        lines = self.logs.tail(1, 10, None)
        lines.cancel()
        self.failureResultOf(lines)
        self.world.run(0.1)
        assert not self.commands[0].is_alive

    def test_a_command_that_fails(self) -> None:
        """The failure has its last words."""
        lines = self.logs.tail(1, 10, None)
        self.world.write(self.commands[0], b"No journal files were found.\n")
        self.world.end(self.commands[0], 1)
        self.world.run()
        words = str(self.failureResultOf(lines, Failed).value)
        assert "journalctl ended with status 1: No journal files were found." in words

    def test_without_a_command(self) -> None:
        """The failure says what is missing."""
        with self.assertRaises(Failed):
            Logs(self.world, self.world, (), {}).tail(1, 10, None)
