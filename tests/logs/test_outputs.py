"""Outputs over real pipes, sockets, terminals and files, of which some take nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import socket
import sys
import termios
from io import StringIO
from typing import TextIO, cast

from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import outputs
from cortexd.logs.outputs import (
    DescriptorOutput,
    FileOutput,
    NoOutput,
    Output,
    dropped_lines,
    is_journal,
    output_to,
    retry,
)
from tests.support.stores import free_path

LINE = b"x" * 299 + b"\n"
LIMIT = 30_000


def notice(lines: int) -> bytes:
    return b"%d lines dropped\n" % lines


def fill(output: Output, lines: int) -> None:
    """Write numbered lines."""
    for number in range(lines):
        output.write(b"%06d " % number + LINE[7:])


def check(received: bytes, output: Output) -> list[int]:
    """Return the numbers of all received lines, which are whole, in order and complete."""
    numbers, missing = [], 0
    for line in received.splitlines(keepends=True):
        if b"dropped" in line:
            missing += int(line.split()[0])
        else:
            assert len(line) == len(LINE), line
            numbers.append(int(line.split()[0]))
    assert numbers == sorted(set(numbers))
    assert missing == output.dropped
    return numbers


class DescriptorTests(SynchronousTestCase):
    """Each output has room for 100 lines that wait, and gets 5,000 that are not read."""

    def open(self, descriptor: int) -> DescriptorOutput:
        output = DescriptorOutput(descriptor, notice, limit=LIMIT)
        self.addCleanup(output.close)
        return output

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        return ends

    def everything(self, reader: int, output: Output) -> bytes:
        """Read all that comes, and have the output try again, until nothing waits or comes."""
        received = b""
        while output.retry() or select.select([reader], [], [], 0)[0]:
            received += os.read(reader, 65536)
        return received

    def hold_and_read(self, reader: int, output: DescriptorOutput) -> None:
        fill(output, 5_000)
        assert output.dropped > 1_000
        numbers = check(self.everything(reader, output), output)
        assert numbers[0] == 0
        output.write(LINE)
        assert LINE == os.read(reader, 65536)

    def test_unread_pipe(self) -> None:
        """Writing never waits; what was not dropped comes in order, with the gap told."""
        reader, writer = self.pipe()
        output = self.open(writer)
        self.hold_and_read(reader, output)

    def test_the_flags_of_others_stay(self) -> None:
        """The shell shares the open file: it stays a blocking one."""
        _reader, writer = self.pipe()
        fill(self.open(writer), 5_000)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fill(self.open(ours.fileno()), 5_000)
            assert [True, True] == [os.get_blocking(each) for each in (writer, ours.fileno())]

    def test_pipe_of_another_user(self) -> None:
        """Where the pipe cannot be opened anew, the output asks before it writes."""
        reader, writer = self.pipe()
        output = self.open(writer)

        def refuse(*_: object) -> int:
            raise PermissionError

        refusal = self.patch(os, "open", refuse)
        output.write(LINE)
        refusal.restore()
        assert LINE == os.read(reader, 65536)
        self.hold_and_read(reader, output)

    def test_unread_socket(self) -> None:
        """A stream of journald is a socket."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.hold_and_read(theirs.fileno(), self.open(ours.fileno()))

    def test_unread_terminal(self) -> None:
        """Nobody looks, or somebody has pressed Ctrl-S."""
        reader, terminal = pty.openpty()
        for end in (reader, terminal):
            self.addCleanup(os.close, end)
        attributes = termios.tcgetattr(terminal)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
        self.hold_and_read(reader, self.open(terminal))

    def test_reader_gone(self) -> None:
        """A pipe without a reader loses lines, raises nothing, and does not hold up the end."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        os.close(reader)
        output = self.open(writer)
        fill(output, 5_000)
        output.finish()
        assert output.dropped > 4_000

    def test_reader_back(self) -> None:
        """The next reader of a named pipe gets what waits, from a whole line on."""
        path = free_path(self)
        os.mkfifo(path)
        first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
        self.addCleanup(os.close, writer)
        output = self.open(writer)
        os.close(first)
        fill(output, 5_000)
        second = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, second)
        assert check(self.everything(second, output), output)[0] == 0

    def test_full_disk(self) -> None:
        """A file that takes no more gets the rest of its last line and all others later."""
        path = free_path(self)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ, and so do we here, whoever started the tests.
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGXFSZ, before)
        with path.open("wb") as file:
            output = self.open(file.fileno())
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
            try:
                fill(output, 5_000)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert path.stat().st_size == 1_000
            assert not output.retry()
        assert [0, 1, 2, 3] == check(path.read_bytes(), output)[:4]

    def test_the_end_waits_for_a_slow_reader(self) -> None:
        """Lines that wait at the end are written while the reader reads, and not forever."""
        reader, writer = self.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        output = self.open(writer)
        fill(output, 60)
        received = bytearray()

        def read(_seconds: float) -> None:
            received.extend(os.read(reader, 65536))

        self.patch(output, "wait", read)
        output.finish()
        received += self.everything(reader, output)
        assert list(range(60)) == check(bytes(received), output)

        fill(output, 5_000)
        waits: list[float] = []
        self.patch(output, "wait", waits.append)
        output.finish()
        assert round(outputs.LAST_SECONDS, 6) == round(sum(waits), 6)

    def test_a_daemon_leaves_the_terminal(self) -> None:
        """After the fork of twistd lines go to what the descriptor is then."""
        reader, writer = self.pipe()
        output = self.open(writer)
        output.write(LINE)
        assert LINE == os.read(reader, 65536)
        other_reader, other_writer = self.pipe()
        os.dup2(other_writer, writer)
        output.forked()
        output.write(LINE)
        assert LINE == os.read(other_reader, 65536)

    def test_all_outputs_of_the_process(self) -> None:
        """The daemon's timer tries again for each of them and counts what they have dropped."""
        reader, writer = self.pipe()
        before = dropped_lines()
        output = self.open(writer)
        fill(output, 5_000)
        assert retry()
        assert output.dropped == dropped_lines() - before
        self.everything(reader, output)
        assert not output.retry()


class FileTests(SynchronousTestCase):
    def test_rotation(self) -> None:
        """The file of --logfile is rotated at a megabyte, as twistd does it, and on demand."""
        path = free_path(self)
        output = FileOutput(str(path), notice)
        self.addCleanup(output.close)
        fill(output, 3_400)
        output.rotate()
        output.write(LINE)
        files = [path.with_name(f"{path.name}{end}") for end in (".2", ".1", "")]
        assert [3_334, 66, 1] == [len(each.read_bytes().splitlines()) for each in files]

    def test_a_file_that_was_lost(self) -> None:
        """If the new file cannot be opened, lines wait until it can."""
        folder = free_path(self)
        folder.mkdir()
        output = FileOutput(str(folder / "log"), notice)
        self.addCleanup(output.close)
        output.write(LINE)
        opening = self.patch(output._file, "_openFile", _fail)
        with self.assertRaises(OSError):
            output.rotate()
        output.write(LINE)
        assert output.retry()
        opening.restore()
        assert not output.retry()
        assert [LINE, LINE] == [(folder / name).read_bytes() for name in ("log", "log.1")]


def _fail() -> None:
    raise OSError(28, "No space left on device")


class StreamTests(SynchronousTestCase):
    def test_no_standard_output(self) -> None:
        """With a closed descriptor Python has no stream: lines are dropped, nothing is raised."""
        output = output_to(None, notice)
        assert isinstance(output, NoOutput)
        fill(output, 10)
        assert output.dropped >= 9

    def test_kinds_of_streams(self) -> None:
        """What has a descriptor is written by it."""
        assert isinstance(output_to(sys.__stderr__, notice), DescriptorOutput)
        stream = StringIO()
        output_to(stream, notice).write("façade\n".encode())
        assert "façade\n" == stream.getvalue()

    def test_journald(self) -> None:
        """Only the stream that JOURNAL_STREAM names goes to journald."""
        ours, theirs = socket.socketpair()
        with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
            status = os.fstat(stream.fileno())
            name = f"{status.st_dev}:{status.st_ino}"
            assert is_journal(stream, {"JOURNAL_STREAM": name})
            assert not is_journal(stream, {"JOURNAL_STREAM": f"{name}0"})
            assert not is_journal(stream, {})
        for other in (None, StringIO()):
            assert not is_journal(cast("TextIO | None", other), {"JOURNAL_STREAM": name})
