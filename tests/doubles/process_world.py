"""A double of the kernel's processes and of the reactor that starts them, on a clock of its own.

It is stricter than both: it takes only programs by their full paths, environments of text, open
descriptors, and no folder, for which Twisted would fork instead of using posix_spawn; and nothing
ends in the middle of the call that ends it. ``tests/support/kernel_rules.py`` states what holds for
it as for Linux, and is checked on both.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from cortexd.agent.supervising.kernel import MARK, ProcessId
from cortexd.agent.supervising.shim import SCRIPT

BOOTED_AT: Final = 1_000_000.0
TICKS: Final = 100


@dataclass
class OneProcess:
    """A process: its command, what it does with signals, and whether it still runs."""

    pid: int
    ticks: int
    session: int
    mark: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    ignored: frozenset[int] = frozenset()
    signals: list[int] = field(default_factory=list)
    is_alive: bool = True
    ended: list[Callable[[int | None, int | None], None]] = field(default_factory=list)
    transport: Transport | None = None

    @property
    def id(self) -> ProcessId:
        """The process as the kernel names it."""
        return ProcessId(self.pid, self.ticks)


class ProcessWorld(MemoryReactorClock):
    """The reactor and the kernel of one machine. ``started`` is called with each new process."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[int, OneProcess] = {}
        self.started: Callable[[OneProcess], None] = lambda _: None
        self._numbers = itertools.count(100)

    # The reactor.

    def spawnProcess(
        self,
        processProtocol: ProcessProtocol,  # noqa: N803 - likewise
        executable: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        path: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: bool = False,  # noqa: N803 - likewise
        childFDs: Mapping[int, int | str] | None = None,  # noqa: N803 - likewise
    ) -> Transport:
        """Start a process; AssertionError for arguments that Twisted takes and we should not."""
        assert (path, uid, gid) == (None, None, None)
        assert not usePTY
        assert os.path.isabs(executable), executable  # noqa: PTH117 - what exec takes
        assert args[0] == executable, args
        assert args[-1] != SCRIPT, "no command"
        assert env is not None
        assert all(isinstance(text, str) for pair in env.items() for text in pair)
        assert childFDs is not None
        for descriptor in childFDs.values():
            assert descriptor in ("r", "w") or os.fstat(int(descriptor))
        directory, *command = args[args.index(SCRIPT) + 1 :]
        pid = next(self._numbers)
        process = OneProcess(
            pid, self._ticks(), pid, env.get(MARK, ""), command, dict(env), directory
        )
        self.processes[pid] = process
        transport = Transport(self, process, processProtocol, childFDs)
        process.transport = transport
        process.ended.append(transport.process_ended)
        processProtocol.makeConnection(transport)
        self.started(process)
        return transport

    # The kernel.

    def find(self, pid: int) -> ProcessId | None:
        """Return a process; see Kernel."""
        process = self.processes.get(pid)
        return process.id if process is not None and process.is_alive else None

    def started_at(self, process: ProcessId) -> float | None:
        """Return the start of a process; see Kernel."""
        return BOOTED_AT + process.ticks / TICKS

    def family(self, session: int, mark: str) -> list[ProcessId]:
        """Return the processes that belong together; see Kernel."""
        return [
            each.id
            for each in self.processes.values()
            if each.is_alive and ((session and each.session == session) or each.mark == mark)
        ]

    def kill(self, processes: Iterable[ProcessId], number: signal.Signals) -> None:
        """Send a signal; see Kernel."""
        for process in processes:
            if self.find(process.pid) == process:
                self._signal(self.processes[process.pid], number)

    def watch(self, process: ProcessId, ended: Callable[[], None]) -> Callable[[], None]:
        """Watch a process; see Kernel."""
        found = self.processes.get(process.pid)
        if found is None or found.id != process or not found.is_alive:
            call = self.callLater(0, ended)
            return lambda: call.cancel() if call.active() else None

        def tell(status: int | None, number: int | None) -> None:
            ended()

        found.ended.append(tell)
        return lambda: found.ended.remove(tell) if tell in found.ended else None

    # What tests do.

    def fork(
        self, parent: OneProcess, *, ignored: Iterable[int] = (), own_session: bool = False
    ) -> OneProcess:
        """Let a process have a child."""
        pid = next(self._numbers)
        session = pid if own_session else parent.session
        child = OneProcess(
            pid,
            self._ticks(),
            session,
            parent.mark,
            ["child"],
            parent.environment,
            parent.directory,
            frozenset(ignored),
        )
        self.processes[pid] = child
        return child

    def end(self, process: OneProcess, status: int | None = 0, number: int | None = None) -> None:
        """Let a process end by itself, or by a signal."""
        if process.is_alive:
            process.is_alive = False
            for ended in list(process.ended):
                self.callLater(0, ended, None if number else status, number)

    def write(self, process: OneProcess, data: bytes) -> None:
        """Let a process write to a pipe of ours."""
        assert process.transport is not None
        process.transport.write_out(data)

    def living(self) -> list[OneProcess]:
        """Return the processes that run."""
        return [each for each in self.processes.values() if each.is_alive]

    def run(self, seconds: float = 0.0, pace: float = 0.05) -> None:
        """Let time pass, in small steps."""
        self.pump([0.0, *[pace] * round(seconds / pace), 0.0])

    def signal_by_number(self, process: OneProcess, number: int) -> None:
        """Send a signal, as Twisted does."""
        if not process.is_alive:
            raise ProcessExitedAlready
        self._signal(process, signal.Signals(number))

    def _signal(self, process: OneProcess, number: signal.Signals) -> None:
        process.signals.append(number)
        if number == signal.SIGKILL or number not in process.ignored:
            self.end(process, None, number)

    def _ticks(self) -> int:
        return round(self.seconds() * TICKS)


class Transport:
    """The reactor's side of a process; see IProcessTransport."""

    def __init__(
        self,
        world: ProcessWorld,
        process: OneProcess,
        protocol: ProcessProtocol,
        descriptors: Mapping[int, int | str],
    ) -> None:
        self._world = world
        self._process = process
        self._protocol = protocol
        self._reads = {each for each, kind in descriptors.items() if kind == "r"}
        self.pid = process.pid

    def closeStdin(self) -> None:
        """Close the input of the process."""

    def signalProcess(self, name: str) -> None:
        """Send a signal by its name."""
        self._world.signal_by_number(self._process, signal.Signals[f"SIG{name}"])

    def write_out(self, data: bytes) -> None:
        """Let the process write to a pipe of ours."""
        assert 1 in self._reads
        self._protocol.childDataReceived(1, data)

    def process_ended(self, status: int | None, number: int | None) -> None:
        """Tell the protocol of the end, as Twisted does."""
        error: Any = ProcessTerminated(status, number, None) if status or number else ProcessDone(0)
        reason = Failure(error)
        self._protocol.processExited(reason)
        self._protocol.processEnded(reason)
