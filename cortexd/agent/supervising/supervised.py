"""The engine as the agent's own child: started, started again, and ended with all its processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from cortexd.agent.supervising.adopting import RunDirectory, RunDirectoryError
from cortexd.agent.supervising.journal import EngineLog
from cortexd.agent.supervising.kernel import MARK, Kernel, ProcessId
from cortexd.agent.supervising.output import EngineOutput
from cortexd.agent.supervising.port_holder import holder_of
from cortexd.agent.supervising.shim import FAILED_MARK, FAILED_STATUS, child_of
from cortexd.agent.supervising.starts import SETTLED_SECONDS, Starts
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.agent.supervising.words import hint_of, how_ended, span
from cortexd.link.contract import Failed
from cortexd.logs import get_logger

LEFT_SECONDS: Final = 2.0
"""How long children that have outlived the engine may take to end by SIGTERM."""

FAMILY_SECONDS: Final = 30.0
"""How old the list of the engine's other processes may be."""

NOT_INHERITED: Final = (
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
"""Variables of the agent's own unit, which would mislead the engine."""

log = get_logger("cortexd.agent")


class Supervised:
    """Runs ``command`` while its service runs; see Runner.

    ``outlives`` decides at the stop whether the engine goes on: it does if the agent is restarted,
    and the next agent takes charge of it.
    """

    def __init__(
        self,
        reactor: Any,
        kernel: Kernel,
        terms: ProcessTerms,
        environ: Mapping[str, str],
        outlives: Callable[[], Deferred[bool]] = lambda: succeed(False),
    ) -> None:
        self._reactor = reactor
        self._kernel = kernel
        self._terms = terms
        self._environ = environ
        self._outlives = outlives
        self._directory = RunDirectory(terms.run_directory)
        self._mark = str(terms.run_directory)
        self._starts = Starts(terms.start_limit, terms.start_interval)
        self._course: Deferred[None] | None = None
        self._ending: Deferred[None] | None = None
        self._pause: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._session = 0
        self._began_at = 0.0
        self._others: tuple[float, tuple[int, ...]] | None = None
        self._adopted_other = False
        self.changed: Callable[[], None] = lambda: None
        self.main: ProcessId | None = None
        self.restarts = 0
        self.reason = "the engine has not been started yet"
        self.is_given_up = False
        self.output = EngineOutput(reactor, terms.run_directory)
        self.output.listeners.append(EngineLog(reactor.seconds))
        self._service = _Service(self)

    @property
    def service(self) -> IService:
        """The service that runs the engine; its start may raise RunDirectoryError."""
        return self._service

    @property
    def sees_process(self) -> bool:
        """Its own child is always seen."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know; see EngineControl."""
        if not self._adopted_other or self.main is None:
            return ()
        return (
            "the engine runs with an earlier [engine] command; a restart of the engine begins to "
            "use the new one",
        )

    def pids(self) -> tuple[int, ...]:
        """Return the engine's processes; the children of the main one may be some seconds late."""
        if self.main is None:
            return ()
        now = self._reactor.seconds()
        if self._others is None or now - self._others[0] >= FAMILY_SECONDS:
            pids = (each.pid for each in self._family() if each != self.main)
            self._others = now, tuple(pids)
        return self.main.pid, *self._others[1]

    def replace(self) -> Deferred[None]:
        """End the engine and start it again at once, also one that was given up; see Runner."""
        self._starts.forget()
        started: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(started)
        if self.main is not None and self._ending is None:
            self._ending = Deferred.fromCoroutine(self._end_family(self._terms.stop_seconds))
        elif self._pause is not None:
            pause, self._pause = self._pause, None
            pause.callback(None)
        return started

    def begin(self) -> None:
        """Take charge of an engine that an earlier agent has left, or start one."""
        self._directory.open()
        try:
            self.output.open()
        except OSError as error:
            self._directory.close()
            raise RunDirectoryError(
                f"{self._directory.path}: the pipe of the engine's output cannot be made there: "
                f"{error.strerror}"
            ) from None
        self._course = Deferred.fromCoroutine(self._keep())
        self._course.addErrback(self._failed)

    async def end(self) -> None:
        """End the engine and all its processes, unless it outlives this agent."""
        outlives = await self._outlives()
        if self._course is not None:
            self._course.cancel()
        if self._ending is not None:
            self._ending.addErrback(_unless_cancelled).cancel()
        self._fail_waiting("the agent stops")
        if outlives:
            log.info("engine_left_running", pid=self.main and self.main.pid)
        else:
            await self._end_family(self._terms.stop_seconds)
            self._directory.forget()
            self.output.read_rest()
        self.output.close()
        self._directory.close()

    async def _keep(self) -> None:
        ended = self._adopt()
        while True:
            if ended is None:
                await self._end_family(LEFT_SECONDS)
                try:
                    ended = self._start()
                except OSError as error:
                    self.reason = f"the engine cannot be started: {error.strerror}"
                    await self._rest()
                    continue
            self._note_start()
            status, number = await ended
            ended = None
            is_ordered = self._ending is not None
            self._note_end(status, number, is_ordered)
            if self._ending is not None:
                await self._ending
                self._ending = None
            else:
                await self._rest()

    def _adopt(self) -> Deferred[tuple[int | None, int | None]] | None:
        """Return the end of the process that an earlier agent has left, if it still runs."""
        left = self._directory.left()
        if left is None or self._kernel.find(left[0].pid) != left[0]:
            return None
        process, command = left
        ended: Deferred[tuple[int | None, int | None]] = Deferred(lambda _: stop())
        stop = self._kernel.watch(process, lambda: ended.callback((None, None)))
        self._adopted_other = command != list(self._terms.command)
        self.main, self._session = process, process.pid
        log.info("engine_adopted", pid=process.pid, has_other_command=self._adopted_other)
        return ended

    def _start(self) -> Deferred[tuple[int | None, int | None]]:
        """Start the engine, and return its end: its status, or the signal that ended it."""
        terms = self._terms
        child = _Child()
        program, arguments = child_of(terms.command, terms.directory)
        environment = {
            name: value for name, value in self._environ.items() if name not in NOT_INHERITED
        }
        environment |= {**terms.environment, MARK: self._mark}
        self._starts.began(self._reactor.seconds())
        output, nothing = self.output.writing_end(), os.open(os.devnull, os.O_RDWR)
        try:
            transport = self._reactor.spawnProcess(
                child,
                program,
                arguments,
                env=environment,
                childFDs={0: nothing, 1: output, 2: output},
            )
        finally:
            os.close(output)
            os.close(nothing)
        # It may have ended already, and then has no time of a start.
        self.main = self._kernel.find(transport.pid) or ProcessId(transport.pid, -1)
        self._session = transport.pid
        self._adopted_other = False
        try:
            self._directory.note(self.main, list(terms.command))
        except OSError as error:
            log.warning("engine_not_noted", reason=str(error))
        log.info("engine_started", pid=transport.pid)
        return child.ended

    def _note_start(self) -> None:
        self._began_at = self._reactor.seconds()
        self._others = None
        self.reason, self.is_given_up = "", False
        waiting, self._waiting = self._waiting, []
        self.changed()
        for each in waiting:
            each.callback(None)

    def _note_end(self, status: int | None, number: int | None, is_ordered: bool) -> None:
        """Keep in words how the process ended."""
        self.output.read_rest()
        ran = self._reactor.seconds() - self._began_at
        words = f"the engine {how_ended(status, number)} after {span(ran)}"
        words += "" if is_ordered else hint_of(number)
        last = self.output.ring.last(1)
        if status == FAILED_STATUS and last and last[0].startswith(FAILED_MARK):
            words = f"the engine cannot be started: {last[0].removeprefix(FAILED_MARK)}"
        elif not is_ordered and ran < SETTLED_SECONDS and (status or number):
            holder = holder_of(self._terms.host, self._terms.port)
            if holder is not None:
                words += f"; its port {self._terms.port} is in use by {holder}"
        pid = self.main and self.main.pid
        self.main = None
        self.restarts += 1
        self.reason = words
        log.info("engine_ended", pid=pid, reason=words, is_ordered=is_ordered)
        if is_ordered:
            self.changed()

    async def _rest(self) -> None:
        """Wait as long as the rule says, or until an order if it gives up."""
        seconds = self._starts.ended(self._reactor.seconds())
        if seconds is None:
            limit, interval = self._terms.start_limit, self._terms.start_interval
            self.is_given_up = True
            self.reason += (
                f"; {limit} starts within {interval:.0f} s are the limit (start_limit, "
                "start_interval): `cortexctl restart NODE` tries again"
            )
            log.error("engine_given_up", reason=self.reason)
            self._fail_waiting(self.reason)
        else:
            self.reason += f"; it is started again after a pause of {span(seconds)}"
        self.changed()
        self._pause = Deferred(lambda _: None)
        call = None
        if seconds is not None:
            call = self._reactor.callLater(seconds, self._go_on)
        try:
            await self._pause
        finally:
            self._pause = None
            if call is not None and call.active():
                call.cancel()

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(Failed(reason))

    def _go_on(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.callback(None)

    def _family(self) -> list[ProcessId]:
        return self._kernel.family(self._session, self._mark)

    async def _end_family(self, seconds: float) -> None:
        """End all processes of the engine: by SIGTERM, and after so many seconds by SIGKILL."""
        family = self._family()
        if family:
            self._kernel.kill(family, signal.SIGTERM)
        began_at, pace, is_late = self._reactor.seconds(), 0.05, False
        while family:
            await deferLater(self._reactor, pace)
            family = self._family()
            if family and self._reactor.seconds() - began_at >= seconds:
                if not is_late:
                    pids = [each.pid for each in family]
                    log.warning("engine_killed", pids=pids, stop_seconds=seconds)
                is_late = True
                self._kernel.kill(family, signal.SIGKILL)
            pace = min(0.5, pace * 1.5)
        if self.main is None:
            self._session = 0

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.reason = f"the agent cannot run the engine: {failure.getErrorMessage()}"
            self.is_given_up = True
            log.error("supervision_failed", failure=failure)
            self.changed()


def _unless_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


class _Child(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[tuple[int | None, int | None]] = Deferred(lambda _: None)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """Take the end of the process."""
        error = reason.value
        if self.ended.called:
            return
        if isinstance(error, ProcessTerminated):
            self.ended.callback((error.exitCode, error.signal))
        else:
            self.ended.callback((0, None))


class _Service(Service):
    def __init__(self, engine: Supervised) -> None:
        self._engine = engine

    def startService(self) -> None:
        """Begin to run the engine."""
        super().startService()
        self._engine.begin()

    def stopService(self) -> Deferred[None]:
        """End the engine, unless it outlives this agent."""
        super().stopService()
        return Deferred.fromCoroutine(self._engine.end())
