"""What the agent reports, of all that it has seen, and when a report is due: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cortexd.fleet.agents import AgentReport, Device, EngineLife, EngineProcess
from cortexd.fleet.states import Hardware
from cortexd.text import one_line

CHANGE_MB: Final = 4
"""By how many MiB an amount of memory must differ from the last report: less is fluctuation."""

CHANGE_CPU_SECONDS: Final = 5.0
"""How much CPU time of the engine is a change by itself."""

MAX_WORDS: Final = 300
"""The most characters of a reason or a note."""

MAX_NOTES: Final = 16
"""The most notes of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSeen:
    """What the engine answers: ``is_well`` is ``None`` before the first answer or silence.

    ``hardware`` is what it said of its machine last, ``None`` if it says nothing.
    """

    is_well: bool | None = None
    reason: str = ""
    hardware: Hardware | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSeen:
    """What is known of the engine's process.

    ``is_visible``: the agent can tell whether there is one. ``reason`` says why none runs.
    ``limit_mb`` is the memory that the engine can have of the machine, 0 while unknown.
    """

    is_visible: bool = False
    is_given_up: bool = False
    reason: str = ""
    process: EngineProcess | None = None
    limit_mb: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerators:
    """What a library tells of the accelerators that the engine can use; ``source`` names it.

    Without a device that tells its memory, ``devices`` is empty.
    """

    source: str = ""
    devices: tuple[Device, ...] = ()


def life(engine: EngineSeen, process: ProcessSeen) -> EngineLife:
    """Return what is known of the engine's life: an answer proves most."""
    if engine.is_well:
        return EngineLife.ANSWERS
    if process.is_given_up:
        return EngineLife.GIVEN_UP
    if process.process is not None:
        return EngineLife.SILENT
    return EngineLife.ENDED if process.is_visible else EngineLife.UNKNOWN


def compose(
    engine: EngineSeen,
    process: ProcessSeen,
    accelerators: Accelerators,
    notes: Sequence[str] = (),
) -> AgentReport:
    """Return the report of what was seen."""
    state = life(engine, process)
    reason = ""
    if state is not EngineLife.ANSWERS:
        reason = process.reason if state is not EngineLife.SILENT else ""
        reason = reason or engine.reason
    report = AgentReport(
        life=state,
        reason=_line(reason),
        process=process.process,
        version=engine.hardware.system.version if engine.hardware is not None else "",
        notes=tuple(dict.fromkeys(map(_line, notes)))[:MAX_NOTES],
    )
    return _with_memory(report, engine, process, accelerators)


def _with_memory(
    report: AgentReport, engine: EngineSeen, process: ProcessSeen, accelerators: Accelerators
) -> AgentReport:
    """Return the report with the memory that models share, by the best source for it.

    An engine without accelerators keeps its models in its process's memory, whatever cards the
    machine has. An engine that does not say what it uses is taken to use what the library shows.
    """
    hardware = engine.hardware
    uses_accelerators = hardware.accelerators > 0 if hardware is not None else None
    if accelerators.devices and uses_accelerators is not False:
        return _with_devices(report, accelerators)
    if uses_accelerators is False and process.limit_mb and _knows_process(process):
        taken = process.process.rss_mb if process.process is not None else 0
        return replace(
            report,
            source="process",
            memory_total_mb=process.limit_mb,
            memory_free_mb=max(0, process.limit_mb - taken),
        )
    if hardware is None or hardware.system.memory_total_mb is None:
        return report
    return replace(
        report,
        source="engine",
        memory_total_mb=hardware.system.memory_total_mb,
        memory_free_mb=hardware.system.memory_free_mb,
    )


def _knows_process(process: ProcessSeen) -> bool:
    return process.process is not None or process.is_visible


def _with_devices(report: AgentReport, accelerators: Accelerators) -> AgentReport:
    devices = accelerators.devices
    others = [device.others_mb for device in devices]
    return replace(
        report,
        source=accelerators.source,
        devices=devices,
        memory_total_mb=sum(device.total_mb for device in devices),
        memory_free_mb=sum(device.free_mb for device in devices),
        others_mb=None if None in others else sum(size or 0 for size in others),
    )


def is_due(new: AgentReport, last: AgentReport | None) -> bool:
    """Return whether a report says something that the last one did not.

    Memory and CPU time fluctuate by themselves, so only a difference of some size counts there;
    many small ones in the same direction add up, as the last report stays the measure.
    """
    if last is None:
        return True
    if _plain(new) != _plain(last):
        return True
    if any(_differ(a, b) for a, b in zip(_amounts(new), _amounts(last), strict=True)):
        return True
    if new.process is None or last.process is None:
        return False
    return abs(new.process.cpu_seconds - last.process.cpu_seconds) >= CHANGE_CPU_SECONDS


def _plain(report: AgentReport) -> tuple[object, ...]:
    """Return the values of which each difference counts."""
    process = report.process
    return (
        report.life,
        report.reason,
        report.source,
        report.version,
        report.notes,
        process and (process.pid, process.started_at, process.restarts),
        tuple((device.name, device.total_mb) for device in report.devices),
    )


def _amounts(report: AgentReport) -> list[int | None]:
    """Return the amounts of memory; equal ``_plain`` values have equally many."""
    amounts = [report.memory_total_mb, report.memory_free_mb, report.others_mb]
    if report.process is not None:
        amounts.append(report.process.rss_mb)
    for device in report.devices:
        amounts += [device.free_mb, device.engine_mb, device.others_mb]
    return amounts


def _differ(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) >= CHANGE_MB


def _line(words: str) -> str:
    """Return words on one line, cut if they are too long."""
    return one_line(words[:MAX_WORDS])[:MAX_WORDS]
