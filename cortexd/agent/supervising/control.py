"""EngineControl, made of the parts of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from cortexd.agent.engine_control import Health, HealthCheck, Take
from cortexd.agent.supervising import commands
from cortexd.agent.supervising.kernel import Kernel
from cortexd.agent.supervising.orders import Orders
from cortexd.agent.supervising.restarted import Seen, lack
from cortexd.agent.supervising.runner import Runner
from cortexd.agent.supervising.tailing import Logs
from cortexd.agent.supervising.terms import ProcessTerms
from cortexd.agent.supervising.words import span
from cortexd.link.contract import Failed
from cortexd.logs import get_logger
from cortexd.text import one_line

HEALTH_SECONDS: Final = 0.5
"""How often the engine is asked during a restart."""

SUSPEND_DELAY: Final = 1.0
"""The time in which the answer to an order of sleep reaches the gateway."""

SUSPEND_SECONDS: Final = 60.0
"""How long ``suspend_command`` may take."""

LONGEST_REASON: Final = 300

log = get_logger("cortexd.agent")


class Control:
    """What the agent can do with its engine; see EngineControl."""

    def __init__(
        self,
        reactor: Any,
        kernel: Kernel,
        terms: ProcessTerms,
        health: HealthCheck,
        environ: Mapping[str, str],
        runner: Runner,
        logs: Logs,
    ) -> None:
        self._reactor = reactor
        self._kernel = kernel
        self._terms = terms
        self._health = health
        self._environ = environ
        self._runner = runner
        self._logs = logs
        self._restarts: Orders[float] = Orders()
        self._sleeps: Orders[None] = Orders()
        self._doing = ""
        self._sleep_note = ""
        self._falling_asleep: Any = None
        self._asleep: Deferred[Any] | None = None
        self._changed: Callable[[], None] = lambda: None
        self._service = _Service(self)
        self.can_restart = bool(terms.command or terms.restart_command)
        self.can_suspend = bool(terms.suspend_command)
        self.has_log = logs.has_source

    @property
    def changed(self) -> Callable[[], None]:
        """What is called after a change; see EngineControl."""
        return self._changed

    @changed.setter
    def changed(self, changed: Callable[[], None]) -> None:
        self._changed = self._runner.changed = changed

    @property
    def sees_process(self) -> bool:
        """Whether the process can be found at all."""
        return self._runner.sees_process

    @property
    def restarts(self) -> int:
        """How many processes of the engine have ended."""
        return self._runner.restarts

    @property
    def reason(self) -> str:
        """Why no process runs."""
        return self._runner.reason

    @property
    def is_given_up(self) -> bool:
        """Whether nothing but an order starts the engine again."""
        return self._runner.is_given_up

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen, and an order of sleep that failed."""
        return (*self._runner.notes, self._sleep_note) if self._sleep_note else self._runner.notes

    @property
    def service(self) -> IService:
        """The service that watches or runs the engine."""
        return self._service

    def pids(self) -> tuple[int, ...]:
        """Return the engine's processes, the main one first."""
        return self._runner.pids()

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine; see EngineControl."""
        return self._restarts.give(
            order, lambda: Deferred.fromCoroutine(self._restart(order, reason, limit))
        )

    def suspend(self, order: str) -> Deferred[None]:
        """Let the machine sleep a moment after the answer; see EngineControl."""
        return self._sleeps.give(order, lambda: self._suspend(order))

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Return the last lines of the log; see EngineControl."""
        return maybeDeferred(self._logs.tail, stream, lines, take)

    def end_log(self, stream: int) -> None:
        """End a stream; see EngineControl."""
        self._logs.end(stream)

    def end_logs(self) -> None:
        """End all streams; see EngineControl."""
        self._logs.end_all()

    def begin(self) -> None:
        """Begin to watch or run the engine."""
        self._runner.service.startService()

    def end(self) -> Deferred[None]:
        """End what goes on here, then the service of the process."""
        self._restarts.stop()
        self._logs.end_all()
        if self._falling_asleep is not None and self._falling_asleep.active():
            self._falling_asleep.cancel()
        if self._asleep is not None:
            self._asleep.cancel()
        return maybeDeferred(self._runner.service.stopService)

    async def _restart(self, order: str, reason: str, limit: float) -> float:
        began_at = self._reactor.seconds()
        words = one_line(reason)[:LONGEST_REASON]
        log.info("engine_restart_ordered", order=one_line(order)[:LONGEST_REASON], reason=words)
        restarting = Deferred.fromCoroutine(self._replace())
        try:
            await restarting.addTimeout(limit, self._reactor)
        except TimedOut:
            failure = f"the restart took longer than {span(limit)}: {self._doing}"
        except CancelledError:
            failure = "the agent stops"
        except Failed as error:
            failure = str(error)
        else:
            seconds: float = self._reactor.seconds() - began_at
            log.info("engine_restarted", seconds=round(seconds, 1))
            return seconds
        log.warning("engine_not_restarted", reason=failure)
        raise Failed(failure)

    async def _replace(self) -> None:
        """Put another process in place of the engine's, and wait until it is well."""
        self._doing = "the engine was asked how it is"
        before = await self._seen()
        is_child = bool(self._terms.command)
        self._doing = (
            "the old process has not ended" if is_child else "restart_command has not ended"
        )
        await self._runner.replace()
        replaced_at = self._reactor.seconds()
        while True:
            now = await self._seen()
            missing = lack(before, now)
            if missing is None:
                return
            if now.sees_process and now.process is None and self._runner.reason:
                missing = self._runner.reason
            self._doing = missing
            if self._runner.is_given_up:
                raise Failed(missing)
            if self._reactor.seconds() - replaced_at >= self._terms.start_seconds:
                limit = span(self._terms.start_seconds)
                raise Failed(f"the engine was not well within {limit} (start_seconds): {missing}")
            await deferLater(self._reactor, HEALTH_SECONDS)

    async def _seen(self) -> Seen:
        """Ask the engine; what is seen of its process is from before that."""
        process = self._runner.main
        started_at = None if process is None else self._kernel.started_at(process)
        health: Health = await self._health.look()
        return Seen(self._runner.sees_process, process, started_at, health)

    def _suspend(self, order: str) -> Deferred[None]:
        command = self._terms.suspend_command
        if not command:
            raise Failed("the agent's file has no suspend_command in [power]")
        if shutil.which(command[0], path=self._environ.get("PATH")) is None:
            raise Failed(f"suspend_command cannot be run: there is no program {command[0]}")
        log.info("suspend_ordered", order=one_line(order)[:LONGEST_REASON])
        self._falling_asleep = self._reactor.callLater(SUSPEND_DELAY, self._fall_asleep)
        return succeed(None)

    def _fall_asleep(self) -> None:
        self._asleep = commands.run(
            self._reactor, self._kernel, self._terms.suspend_command, self._environ, SUSPEND_SECONDS
        )
        self._asleep.addCallback(self._has_slept).addErrback(_unless_cancelled)

    def _has_slept(self, ran: commands.Ran) -> None:
        note = f"suspend_command: {ran.failure}" if ran.failure else ""
        if note:
            log.warning("suspend_failed", reason=ran.failure)
        if note != self._sleep_note:
            self._sleep_note = note
            self._changed()


class _Service(Service):
    def __init__(self, control: Control) -> None:
        self._control = control

    def startService(self) -> None:
        """Begin to watch or run the engine."""
        super().startService()
        self._control.begin()

    def stopService(self) -> Deferred[None]:
        """Stop all of it."""
        super().stopService()
        return self._control.end()


def _unless_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
