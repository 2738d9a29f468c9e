"""Looks at everything on an interval, and reports what has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from cortexd.agent.composing import Accelerators, ProcessSeen, compose, is_due
from cortexd.agent.devices.library import (
    DeviceSeen,
    DevicesSeen,
    narrowed,
    shared_out,
    visible,
)
from cortexd.agent.devices.watch import DeviceWatch
from cortexd.agent.engine_control import EngineControl
from cortexd.agent.looking.engine_answers import EngineAnswers
from cortexd.agent.looking.engine_process import ProcessWatch
from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.logs import get_logger

LATE_LOOKS: Final = 20.0
"""After how many intervals without a look the agent counts as stuck."""

NEEDS_ENGINE: Final = ("", "engine")
"""The sources of memory with which only the engine tells it, if anything does."""

PROCESSES_UNTOLD: Final = "the driver does not tell how much memory each process takes"

log = get_logger("cortexd.agent")


class Watcher(Service):
    """Looks every ``interval`` seconds, and gives ``report`` each report that is due.

    The engine's answers and the accelerators are looked at side by side, and a look that takes
    longer than the interval is not begun again meanwhile. ``first`` fires once both have been
    looked at for the first time.
    """

    def __init__(
        self,
        reactor: Any,
        interval: float,
        control: EngineControl,
        answers: EngineAnswers,
        process: ProcessWatch,
        devices: DeviceWatch,
        report: Callable[[AgentReport], None],
    ) -> None:
        self.interval = interval
        self.first: Deferred[None] = Deferred()
        self.last: AgentReport | None = None
        self._reactor = reactor
        self._control = control
        self._answers = answers
        self._process = process
        self._devices = devices
        self._report = report
        self._process_seen = ProcessSeen()
        self._devices_seen: DevicesSeen | None = None
        self._has_seen_devices = False
        self._looking: dict[str, Deferred[None]] = {}
        self._next: IDelayedCall | None = None
        self._looked_at = 0.0

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._control.changed = self.note_change
        self._looked_at = self._reactor.seconds()
        # Not at once: the process that the agent itself runs is only about to start.
        self._next = self._reactor.callLater(0, self._tick)

    def stopService(self) -> Deferred[None]:
        """End all looks."""
        super().stopService()
        self._control.changed = lambda: None
        if self._next is not None and self._next.active():
            self._next.cancel()
        for looking in list(self._looking.values()):
            looking.cancel()
        return succeed(None)

    @property
    def is_alive(self) -> bool:
        """Whether looks still begin on time."""
        silence: float = self._reactor.seconds() - self._looked_at
        return silence < max(LATE_LOOKS * self.interval, LATE_LOOKS)

    def note_change(self) -> None:
        """Look at the process now: something of it has changed."""
        if not self.running:
            return
        self._look_at_process()
        if self._process_seen.process is None or self._answers.seen.is_well is False:
            self._begin("engine", self._look_at_engine)
        self._consider()

    def look_now(self) -> Deferred[AgentReport]:
        """Look at everything now, and return what is seen."""
        return Deferred.fromCoroutine(self._look_now())

    async def _look_now(self) -> AgentReport:
        if (running := self._looking.get("devices")) is not None:
            await _end_of(running)  # It has begun before we were asked.
        devices = self._begin("devices", self._look_at_devices)
        if self._compose().source in NEEDS_ENGINE:
            await self._answers.ask_hardware_now()
        if devices is not None:
            await _end_of(devices)
        self._look_at_process()
        return self._compose()

    def _tick(self) -> None:
        self._looked_at = self._reactor.seconds()
        self._next = self._reactor.callLater(self.interval, self._tick)
        self._look_at_process()
        self._begin("engine", self._look_at_engine)
        self._begin("devices", self._look_at_devices)

    def _begin(
        self, name: str, look: Callable[[], Coroutine[Any, Any, None]]
    ) -> Deferred[None] | None:
        """Begin a look unless it runs already; return its end, ``None`` if it has come."""
        if name in self._looking or not self.running:
            return self._looking.get(name)
        looking = Deferred.fromCoroutine(look())
        if looking.called:
            looking.addErrback(_look_failed)
            self._consider()
            return None
        self._looking[name] = looking

        def ended(result: Any) -> None:
            del self._looking[name]
            if isinstance(result, Failure) and self.running:
                _look_failed(result)
            if self.running:
                self._consider()

        looking.addBoth(ended)
        return looking

    def _look_at_process(self) -> None:
        before = self._process.main
        self._process_seen = self._process.look(bool(self._answers.seen.is_well))
        if self._process.main == before:
            return
        if self._process.main is not None:
            self._answers.forget()
        elif self._answers.seen.is_well:
            self._answers.doubt()

    async def _look_at_engine(self) -> None:
        await self._answers.ask_health()
        self._look_at_process()
        self._consider()
        self._begin("hardware", self._look_at_hardware)

    async def _look_at_hardware(self) -> None:
        await self._answers.ask_hardware(self._compose().source in NEEDS_ENGINE)

    async def _look_at_devices(self) -> None:
        self._devices_seen = await self._devices.look()
        self._has_seen_devices = True

    def _accelerators(self) -> Accelerators:
        seen = self._devices_seen
        if seen is None:
            return Accelerators()
        usable, _ = self._usable(seen)
        return Accelerators(
            source=seen.source, devices=shared_out(usable, self._process.pids, _exists)
        )

    def _usable(self, seen: DevicesSeen) -> tuple[tuple[DeviceSeen, ...], list[str]]:
        """Return the devices that the engine uses, and notes if that is unsure."""
        hardware = self._answers.seen.hardware
        chosen, unsure = visible(seen.devices, self._process.environment)
        count = hardware.accelerators if hardware is not None else None
        usable, unknown = narrowed(chosen, self._process.pids, count)
        return usable, [note for note in (unsure, unknown) if note]

    def _notes(self) -> list[str]:
        """Return what cannot be seen; an engine without accelerators needs none."""
        notes = [*self._control.notes, *self._process.notes]
        hardware = self._answers.seen.hardware
        if hardware is not None and hardware.accelerators == 0:
            return notes
        notes += self._devices.notes
        if self._devices_seen is not None:
            usable, unsure = self._usable(self._devices_seen)
            notes += unsure
            notes += [PROCESSES_UNTOLD] if any(each.used is None for each in usable) else []
        return notes

    def _compose(self) -> AgentReport:
        return compose(self._answers.seen, self._process_seen, self._accelerators(), self._notes())

    def _consider(self) -> None:
        """Report what is seen, if that is due."""
        if self._answers.seen.is_well is None or not self._has_seen_devices:
            return
        report = self._compose()
        if is_due(report, self.last):
            if self.last is None or report.life is not self.last.life:
                _log_life(report, self.last)
            self.last = report
            self._report(report)
        if not self.first.called:
            self.first.callback(None)


def _log_life(report: AgentReport, before: AgentReport | None) -> None:
    """Log a change. An engine that starts is silent until it has loaded its models."""
    pid = report.process.pid if report.process is not None else None
    answered = before is not None and before.life is EngineLife.ANSWERS
    is_well = report.life is EngineLife.ANSWERS
    is_starting = report.life is EngineLife.SILENT and not answered
    say = log.info if is_well or is_starting else log.warning
    say("engine_life", life=report.life.value, pid=pid, reason=report.reason)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _end_of(looking: Deferred[None]) -> Deferred[None]:
    """Return the end of a look that others await too; cancelling it ends only this wait."""
    end: Deferred[None] = Deferred(lambda _: None)

    def ended(result: Any) -> Any:
        if not end.called:
            end.callback(None)
        return result

    looking.addBoth(ended)
    return end


def _look_failed(failure: Failure) -> None:
    log.error("look_failed", failure=failure)
