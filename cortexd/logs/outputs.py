"""Where lines go, without ever waiting for the reader or the disk.

A line goes out at once if the output takes it. Otherwise it waits in a ``Backlog``, and the next
line or ``retry`` tries again. No thread is needed for that, so that no lock and no queue has to
survive the fork of twistd, and a line costs one system call, as before.

We never set O_NONBLOCK on standard output: the flag belongs to the open file, which the shell and
other processes share. A socket is written with MSG_DONTWAIT. A pipe or a terminal is opened anew
through ``/proc/self/fd``, which makes an open file of our own. Where that is forbidden, because
another user has made the pipe, we write only if poll(2) says that there is room, and at most
PIPE_BUF bytes, for which there is room then unless another process takes it in the same moment.
"""

import atexit
import io
import os
import select
import socket
import stat
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO, cast

from twisted.python.logfile import LogFile

from cortexd.logs.backlog import Backlog

WAITING_BYTES: Final = 4 * 1024 * 1024
"""How many bytes of lines may wait: some 15,000 lines."""

LAST_SECONDS: Final = 2.0
"""How long the end of the process may wait for a reader of the lines that wait."""

_SLICE_SECONDS: Final = 0.05

Write = Callable[[bytes], int]
"""Writes some of the bytes and returns how many. Raises BlockingIOError if there is no room."""


class Output:
    """Writes lines in order. If it cannot, they wait, and if too many wait they are dropped.

    ``notice`` returns the line that stands for a number of dropped lines. Any thread may write.
    """

    def __init__(self, notice: Callable[[int], bytes], limit: int = WAITING_BYTES) -> None:
        self._backlog = Backlog(limit, notice)
        # Reentrant, because a signal handler of Python may log in the middle of a write.
        self._lock = threading.RLock()
        _outputs.add(self)

    @property
    def dropped(self) -> int:
        """The number of lines that were dropped."""
        return self._backlog.dropped

    def write(self, line: bytes) -> None:
        """Write a line, which includes its line break, or let it wait, or drop it."""
        with self._lock:
            written = 0
            if not self._backlog:
                try:
                    written = self.write_some(line)
                except (OSError, ValueError):
                    written = 0
                if written == len(line):
                    return
            self._backlog.add(line, written)
            self._drain()

    def retry(self) -> bool:
        """Try to write the lines that wait. Return whether any still waits."""
        if self._backlog:
            with self._lock:
                self._drain()
        return bool(self._backlog)

    def finish(self) -> None:
        """Wait up to LAST_SECONDS for a reader of the lines that wait."""
        for _ in range(round(LAST_SECONDS / _SLICE_SECONDS)):
            if not self.retry():
                return
            self.wait(_SLICE_SECONDS)

    def _drain(self) -> None:
        while self._backlog:
            try:
                self._backlog.note_written(self.write_some(self._backlog.first()))
            except (OSError, ValueError):
                # There is no room, the reader is gone, or the stream is closed. A report of that
                # would have to go the same way.
                return

    def write_some(self, data: bytes) -> int:
        """Write some of the bytes at once; return how many. Raises OSError or ValueError."""
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        """Wait until there may be room, or for so many seconds."""
        threading.Event().wait(seconds)

    def forked(self) -> None:
        """Go on in a child process, where no thread holds the lock."""
        self._lock = threading.RLock()


class NoOutput(Output):
    """Drops every line, because there is no standard output: its descriptor was closed."""

    def __init__(self, notice: Callable[[int], bytes]) -> None:
        super().__init__(notice, limit=0)

    def write_some(self, data: bytes) -> int:
        """Raise ValueError."""
        raise ValueError("there is no standard output")


class StreamOutput(Output):
    """Writes to a stream of text that is not a file of the system."""

    def __init__(self, stream: TextIO, notice: Callable[[int], bytes]) -> None:
        super().__init__(notice)
        self._stream = stream

    def write_some(self, data: bytes) -> int:
        """Write all of the bytes; raises as the stream does."""
        self._stream.write(data.decode())
        self._stream.flush()
        return len(data)


class DescriptorOutput(Output):
    """Writes to what a descriptor refers to: a pipe, a terminal, a socket, a file or a device."""

    def __init__(self, descriptor: int, notice: Callable[[int], bytes], **options: Any) -> None:
        super().__init__(notice, **options)
        self._descriptor = descriptor
        self._write: Write | None = None
        self._own: int | socket.socket | None = None

    def write_some(self, data: bytes) -> int:
        """Write some of the bytes; raises OSError."""
        if self._write is None:
            self._write = self._writer()
        return self._write(data)

    def wait(self, seconds: float) -> None:
        """Wait until the descriptor is writable, or for so many seconds."""
        try:
            _poll(self._descriptor, seconds)
        except OSError:
            super().wait(seconds)

    def forked(self) -> None:
        """Close our own open file: twistd's daemon must not keep the caller's terminal open."""
        super().forked()
        self._write = None
        self.close()

    def close(self) -> None:
        """Close our own open file, if there is one."""
        own, self._own = self._own, None
        if isinstance(own, socket.socket):
            own.close()
        elif own is not None:
            os.close(own)

    def _writer(self) -> Write:
        mode = os.fstat(self._descriptor).st_mode
        if stat.S_ISSOCK(mode):
            opened = self._own = socket.socket(fileno=os.dup(self._descriptor))
            return lambda data: opened.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if not stat.S_ISFIFO(mode) and not os.isatty(self._descriptor):
            return lambda data: os.write(self._descriptor, data)
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            own = self._own = os.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            return self._write_if_ready
        return lambda data: os.write(own, data)

    def _write_if_ready(self, data: bytes) -> int:
        if not _poll(self._descriptor, 0.0):
            raise BlockingIOError
        return os.write(self._descriptor, data[: select.PIPE_BUF])


class FileOutput(Output):
    """Writes to a file of twistd's ``--logfile``, which is rotated at each megabyte.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: str, notice: Callable[[int], bytes]) -> None:
        super().__init__(notice)
        self._file = _RotatedFile.fromFullPath(path)

    def write_some(self, data: bytes) -> int:
        """Write some of the bytes; raises OSError or ValueError."""
        return cast(int, self._file.write_some(data))

    def rotate(self) -> None:
        """Begin a new file, as twistd does at SIGUSR1."""
        with self._lock:
            self._file.rotate()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _RotatedFile(LogFile):
    """Twisted's file, which after an error writes the rest of a line, or opens its file again."""

    def write_some(self, data: bytes) -> int:
        if self._file.closed:
            self._openFile()
        if self.shouldRotate():
            self.rotate()
        written: int = self._file.write(data)
        self.size += written
        return written


def output_to(stream: TextIO | None, notice: Callable[[int], bytes]) -> Output:
    """Return the output to a stream, which must have been flushed.

    Without a stream, as Python's standard output is if its descriptor was closed, nothing is ever
    written. The end of the process waits for a reader up to LAST_SECONDS.
    """
    if stream is None:
        return NoOutput(notice)
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return StreamOutput(stream, notice)
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
    output = DescriptorOutput(descriptor, notice)
    atexit.register(output.finish)
    return output


def is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Return whether a stream goes to journald, which says so in ``JOURNAL_STREAM``.

    The variable has the device and the inode of the stream: systemd.exec(5).
    """
    if stream is None or "JOURNAL_STREAM" not in environ:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ["JOURNAL_STREAM"] == f"{status.st_dev}:{status.st_ino}"


def retry() -> bool:
    """Try to write all lines that wait. Return whether any still waits."""
    waiting = [output.retry() for output in list(_outputs)]
    return any(waiting)


def dropped_lines() -> int:
    """Return how many lines of this process were dropped."""
    return sum(output.dropped for output in list(_outputs))


def _poll(descriptor: int, seconds: float) -> bool:
    """Return whether a descriptor is writable, or has an error, within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _forked() -> None:
    for output in list(_outputs):
        output.forked()


_outputs: weakref.WeakSet[Output] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forked)
