"""The engine as another program runs it: systemd, a container's own init, or a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from cortexd.agent.supervising import commands
from cortexd.agent.supervising.finding import UnitState, read_pid, read_unit, show_command
from cortexd.agent.supervising.kernel import Kernel, ProcessId
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.link.contract import Failed
from cortexd.logs import get_logger

LOOK_SECONDS: Final = 1.0
"""How often the process is sought while there is none."""

NO_LIMIT: Final = 24 * 3600.0
"""The limit of ``restart_command`` is that of its order, which cancels it."""

SHOW_SECONDS: Final = 5.0
"""How long systemd may take to answer."""

GROUPS: Final = (
    Path("/sys/fs/cgroup"),
    Path("/sys/fs/cgroup/unified"),
    Path("/sys/fs/cgroup/systemd"),
)
"""Where a control group of systemd may be, by the version of control groups."""

log = get_logger("cortexd.agent")


class Elsewhere:
    """Finds the engine by ``unit`` or ``pid_file``, and runs ``restart_command``; see Runner.

    ``systemctl`` is the command that asks the systemd of the unit, ``None`` if there is none.
    """

    def __init__(
        self,
        reactor: Any,
        kernel: Kernel,
        terms: ProcessTerms,
        environ: Mapping[str, str],
        systemctl: list[str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._kernel = kernel
        self._terms = terms
        self._environ = environ
        self._systemctl = systemctl if terms.unit else None
        self._group = ""
        self._stop_watching: Callable[[], None] = lambda: None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._asked: Deferred[UnitState] | None = None
        self._note = ""
        self._commands = 0
        self.changed: Callable[[], None] = lambda: None
        self.main: ProcessId | None = None
        self.restarts = 0
        self.reason = ""
        self.is_given_up = False
        self._service = _Service(self)

    @property
    def sees_process(self) -> bool:
        """Whether the process can be found; see EngineControl."""
        return bool(self._terms.pid_file or self._systemctl) and not self._note

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen; see EngineControl."""
        if self._note:
            return (self._note,)
        if self._terms.unit and self._systemctl is None:
            return (f"there is no systemctl to ask for {self._terms.unit}: use pid_file",)
        return ()

    @property
    def service(self) -> IService:
        """The service that watches the process."""
        return self._service

    def pids(self) -> tuple[int, ...]:
        """Return the processes of the unit's control group, or the one of the pid file."""
        if self.main is None:
            return ()
        others: list[int] = []
        for root in GROUPS if self._group else ():
            with suppress(OSError, ValueError):
                path = root / self._group.lstrip("/") / "cgroup.procs"
                others = [int(word) for word in path.read_text(encoding="ascii").split()]
                break
        return self.main.pid, *(pid for pid in others if pid != self.main.pid)

    def replace(self) -> Deferred[None]:
        """Run ``restart_command``; see Runner."""
        command = self._terms.restart_command
        if not command:
            raise Failed("the agent's file has neither command nor restart_command in [engine]")
        ran = commands.run(self._reactor, self._kernel, command, self._environ, NO_LIMIT)
        return ran.addCallback(self._has_run)

    def begin(self) -> None:
        """Begin to look for the process."""
        if self._terms.pid_file or self._systemctl:
            self._seek()

    def end(self) -> None:
        """Look no longer; the engine goes on."""
        if self._loop.running:
            self._loop.stop()
        if self._asked is not None:
            self._asked.cancel()
        self._stop_watching()

    def _has_run(self, ran: commands.Ran) -> None:
        # Whatever is seen of the unit from before this does not count.
        self._commands += 1
        self.is_given_up = False
        if ran.failure:
            raise Failed(f"restart_command: {ran.failure}")

    def _seek(self) -> None:
        if not self._loop.running:
            self._loop.start(LOOK_SECONDS).addErrback(_not_watched)

    def _look(self) -> Deferred[None]:
        """Look for the process once."""
        self._asked = self._found()
        return self._asked.addCallback(self._take, self._commands).addErrback(_unless_cancelled)

    def _found(self) -> Deferred[UnitState]:
        unit, path = self._terms.unit, self._terms.pid_file
        if unit and self._systemctl:
            asked = commands.run(
                self._reactor,
                self._kernel,
                show_command(self._systemctl, unit),
                self._environ,
                SHOW_SECONDS,
            )
            return asked.addCallback(self._read, unit)
        try:
            pid = read_pid(Path(path or "").read_text(encoding="ascii", errors="replace"))
        except OSError as error:
            return succeed(UnitState(ending=f"{path}: {error.strerror}"))
        words = (
            f"{path}: the process {pid} has ended" if pid else f"{path}: there is no number in it"
        )
        return succeed(UnitState(pid or 0, ending=words))

    def _read(self, ran: commands.Ran, unit: str) -> UnitState:
        if ran.failure:
            return UnitState(ending=f"systemctl cannot be asked: {ran.failure}", is_known=False)
        return read_unit(ran.output.decode("utf-8", "replace"), unit)

    def _take(self, state: UnitState, commands_before: int) -> None:
        if commands_before != self._commands:
            return
        note = "" if state.is_known else state.ending
        process = self._kernel.find(state.main_pid) if state.main_pid else None
        ending = state.ending or f"the process {state.main_pid} has ended"
        reason = "" if process is not None else ending
        before = (self.main, self.reason, self.is_given_up, self._note)
        self.main, self.reason, self._note = process, reason, note
        self.is_given_up = state.is_given_up
        self._group = state.control_group
        if process is not None:
            self._loop.stop()
            self._stop_watching = self._kernel.watch(process, self._has_ended)
        if (self.main, self.reason, self.is_given_up, self._note) != before:
            log.info(
                "engine_found" if process is not None else "engine_not_found",
                pid=process and process.pid,
                reason=reason,
            )
            self.changed()

    def _has_ended(self) -> None:
        pid = self.main and self.main.pid
        self._stop_watching = lambda: None
        self.main = None
        self.restarts += 1
        self.reason = f"the process {pid} has ended"
        log.info("engine_ended", pid=pid)
        self.changed()
        self._seek()


def _unless_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


def _not_watched(failure: Failure) -> None:
    log.error("engine_not_watched", failure=failure)


class _Service(Service):
    def __init__(self, engine: Elsewhere) -> None:
        self._engine = engine

    def startService(self) -> None:
        """Begin to look for the process."""
        super().startService()
        self._engine.begin()

    def stopService(self) -> None:
        """Look no longer."""
        super().stopService()
        self._engine.end()
