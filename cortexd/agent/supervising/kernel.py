"""What the agent asks of the machine's kernel about processes: proc(5), pidfd_open(2), kill(2).

A process is named by its number and the time of its start in ticks since the machine's boot, so
that a number which another process has got since is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from cortexd.logs import get_logger

MARK: Final = "CORTEX_AGENT_ENGINE"
"""The variable that all processes of one agent's engine have, whatever they do with themselves."""

LOOK_SECONDS: Final = 1.0
"""How often a process is looked at where the kernel has no pidfd_open, as before Linux 5.3."""

log = get_logger("cortexd.agent")


class ProcessId(NamedTuple):
    """A process: its number, and the ticks from the machine's boot to its start."""

    pid: int
    ticks: int


class Kernel(Protocol):
    """The processes of this machine."""

    def find(self, pid: int) -> ProcessId | None:
        """Return the process that has a number now, ``None`` if none has or if it has ended."""

    def started_at(self, process: ProcessId) -> float | None:
        """Return when a process started, in unix seconds."""

    def family(self, session: int, mark: str) -> list[ProcessId]:
        """Return the processes of a session, and those of our user with MARK of this value.

        Processes that have ended, and wait for their parents, are not among them, nor is this one.
        """

    def kill(self, processes: Iterable[ProcessId], number: signal.Signals) -> None:
        """Send a signal to those processes that are still there."""

    def watch(self, process: ProcessId, ended: Callable[[], None]) -> Callable[[], None]:
        """Call ``ended`` once a process has ended, never at once; return a way to stop that."""


class LinuxKernel:
    """The kernel of this machine; see Kernel."""

    def __init__(self, reactor: Any, proc: Path = Path("/proc")) -> None:
        self._reactor = reactor
        self._proc = proc

    def find(self, pid: int) -> ProcessId | None:
        """Return a process; see Kernel."""
        found = self._stat(pid)
        return None if found is None else ProcessId(pid, found.ticks)

    def started_at(self, process: ProcessId) -> float | None:
        """Return the start of a process; see Kernel."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = (self._proc / "stat").read_text(encoding="ascii").splitlines()
            booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
            return booted + process.ticks / os.sysconf("SC_CLK_TCK")
        return None

    def family(self, session: int, mark: str) -> list[ProcessId]:
        """Return the processes that belong together; see Kernel."""
        wanted = f"{MARK}={mark}".encode()
        found = []
        for pid in self._pids():
            if pid == os.getpid():
                continue
            stat = self._stat(pid)
            if stat is not None and (
                (session and stat.session == session) or wanted in self._environment(pid)
            ):
                found.append(ProcessId(pid, stat.ticks))
        return found

    def kill(self, processes: Iterable[ProcessId], number: signal.Signals) -> None:
        """Send a signal; see Kernel."""
        for process in processes:
            if self.find(process.pid) == process:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)

    def watch(self, process: ProcessId, ended: Callable[[], None]) -> Callable[[], None]:
        """Watch a process; see Kernel."""
        try:
            descriptor = os.pidfd_open(process.pid)
        except (OSError, AttributeError):
            return self._look_often(process, ended)
        reader = _EndOfProcess(descriptor, ended, self._reactor)
        if self.find(process.pid) != process:  # the descriptor may be another process's
            reader.close()
            return self._look_often(process, ended)
        self._reactor.addReader(reader)
        return reader.close

    def _look_often(self, process: ProcessId, ended: Callable[[], None]) -> Callable[[], None]:
        def look() -> None:
            if self.find(process.pid) != process:
                loop.stop()
                ended()

        loop = LoopingCall(look)
        loop.clock = self._reactor
        loop.start(LOOK_SECONDS, now=False).addErrback(
            lambda failure: log.error("process_not_watched", failure=failure)
        )
        return lambda: loop.stop() if loop.running else None

    def _pids(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._proc):  # noqa: PTH208 - a Path for each costs more
                if name.isdecimal():
                    yield int(name)

    def _stat(self, pid: int) -> Stat | None:
        try:
            with open(f"{self._proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 - likewise
                return read_stat(file.read())
        except (OSError, ValueError, IndexError):
            return None

    def _environment(self, pid: int) -> list[bytes]:
        try:
            with open(f"{self._proc}/{pid}/environ", "rb") as file:  # noqa: PTH123 - likewise
                return file.read().split(b"\0")
        except OSError:  # another user's
            return []


class Stat(NamedTuple):
    """What /proc/PID/stat says: the session, and the start in ticks since the boot."""

    session: int
    ticks: int


def read_stat(text: bytes) -> Stat | None:
    """Read /proc/PID/stat; return ``None`` for a process that has ended.

    The name of the program, in parentheses, may itself have blanks and parentheses. Raises
    ValueError or IndexError for any other text.
    """
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in b"ZX":
        return None
    return Stat(session=int(fields[3]), ticks=int(fields[19]))


@implementer(IReadDescriptor)
class _EndOfProcess:
    """A descriptor of a process, which becomes readable at its end."""

    def __init__(self, descriptor: int, ended: Callable[[], None], reactor: Any) -> None:
        self._descriptor = descriptor
        self._ended = ended
        self._reactor = reactor

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """Return the name for Twisted's log."""
        return "engine"

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Take the end of the process."""
        self.close()
        self._ended()

    def connectionLost(self, reason: Failure) -> None:
        """Close the descriptor: the reactor ends."""
        self.close()

    def close(self) -> None:
        """Watch no longer."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1
