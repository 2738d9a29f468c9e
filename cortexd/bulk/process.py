"""The daemon's end of the process that translates large bodies.

It is started by its first job, and again by the next job after it has ended. It inherits no sockets
and no log, only its pipes and two files in memory. Its calls wait, so they belong into a thread.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from cortexd.bulk import child, jobs
from cortexd.bulk.frames import Channel, memory_file
from cortexd.errors import CortexError, Overloaded

LEAST_MEMORY: Final = 1024 * 1024 * 1024
MEMORY_PER_BYTE: Final = 24
"""The address space that the process may use: so much, and so much for each byte of a body."""

_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS")

RETRY_SECONDS: Final = 2.0
END_SECONDS: Final = 1.0


class Crashed(Exception):
    """Raised for a mistake of ours in the other process; the message is its traceback."""


class Helper(Protocol):
    """Does jobs on a desk elsewhere; see ``cortexd.bulk.jobs``."""

    def do(self, job: Callable[..., Any], arguments: list[object]) -> Any:
        """Do a job and return its result, or raise its CortexError, or Crashed.

        The list is emptied, so that no frame of an error keeps its texts.
        """

    def clear(self) -> None:
        """Take the request off the desk."""

    def reconfigure(self, most_bytes: int) -> None:
        """Take bodies up to another length from the next process on, in any thread."""

    def end(self) -> None:
        """End at once, also in the middle of a job, which then fails; the next job begins anew."""

    def close(self) -> None:
        """Let go of everything, once no job runs."""


class Process:
    """A helper in another process, for bodies up to ``most_bytes``. ``end`` may be called in any
    thread, everything else in one.
    """

    def __init__(self, most_bytes: int, environ: Mapping[str, str]) -> None:
        self.reconfigure(most_bytes)
        self._running_with = 0
        self._environ = environ
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._files: tuple[int, int] = (-1, -1)
        self._is_to_end = False

    def reconfigure(self, most_bytes: int) -> None:
        """Take bodies up to another length; a process that runs ends after its next job."""
        self._most_memory = LEAST_MEMORY + MEMORY_PER_BYTE * most_bytes

    @property
    def pid(self) -> int | None:
        """The number of the process, ``None`` before its start."""
        return None if self._child is None else self._child.pid

    def do(self, job: Callable[..., Any], arguments: list[object]) -> Any:
        """Do a job; see Helper. Raises Overloaded where the process has ended or cannot start."""
        try:
            channel = self._channel or self._started()
            channel.send((job, arguments))
            arguments.clear()
            done: child.Answer = channel.receive()
        except (EOFError, OSError) as error:
            status = self._forget()
            if status is None:
                reason = f"cannot be used: {error.strerror if isinstance(error, OSError) else ''}"
            elif status < 0:
                reason = f"was ended by signal {-status}; it may have needed too much memory"
            else:
                reason = f"ended with status {status}"
            raise Overloaded(
                f"the process that translates large requests and answers {reason}; try again "
                "later, or with less at once",
                retry_after=RETRY_SECONDS,
            ) from None
        self._is_to_end = done.is_last or self._running_with != self._most_memory
        if done.crash:
            raise Crashed(done.crash)
        if isinstance(done.error, CortexError):
            raise done.error
        return done.result

    def clear(self) -> None:
        """Take the request off the desk, and end the process if it has grown too large."""
        if self._channel is None:
            return
        if self._is_to_end:
            self._forget()
        else:
            with contextlib.suppress(CortexError):
                self.do(jobs.clear, [])

    def end(self) -> None:
        """End the process at once; see Helper."""
        running = self._child
        if running is not None:
            running.kill()

    def close(self) -> None:
        """End the process and wait for its end."""
        self._forget()

    def _started(self) -> Channel:
        self._files = memory_file(), -1  # the second may fail
        self._files = self._files[0], memory_file()
        environ = {name: self._environ[name] for name in self._environ}
        for name in _NOT_INHERITED:
            environ.pop(name, None)
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._running_with = self._most_memory
        arguments = [*map(str, self._files), str(self._running_with)]
        self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-c", child.COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=self._files,
            env=environ,
            start_new_session=True,
        )
        given, taken = self._child.stdout, self._child.stdin
        if given is None or taken is None:
            raise OSError("no pipes")
        file_in, file_out = self._files
        self._channel = Channel(given.fileno(), taken.fileno(), file_out, file_in)
        return self._channel

    def _forget(self) -> int | None:
        """End the process; return its status if it had ended by itself."""
        running, self._child, self._channel = self._child, None, None
        self._is_to_end = False
        for descriptor in self._files:
            if descriptor >= 0:
                os.close(descriptor)
        self._files = (-1, -1)
        if running is None:
            return None
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                pipe.close()  # it ends then
        try:
            return running.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            return running.wait()
