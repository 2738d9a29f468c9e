"""What agents send, within bounds: pure. Nothing of an agent is trusted beyond its own node.

Amounts that cannot be are refused with the whole report, and texts become short lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cortexd.fleet.agents import (
    MOST_MB,
    AgentAbilities,
    AgentReport,
    Device,
    EngineProcess,
)
from cortexd.link.contract import MAX_LOG_LINES
from cortexd.link.limits import line_of, words_of

MAX_DEVICES: Final = 64
MAX_NOTES: Final = 16
MAX_COUNT: Final = 2**53
"""The largest number that every reader of JSON knows exactly."""


class Nonsense(Exception):
    """Raised for a report with amounts that cannot be; the message names the first of them."""


def report_of(found: AgentReport) -> AgentReport:
    """Return a report within bounds. Raises Nonsense."""
    if len(found.devices) > MAX_DEVICES:
        raise Nonsense(f"{len(found.devices)} devices")
    _check("memory_total_mb", found.memory_total_mb, MOST_MB)
    total_mb = MOST_MB if found.memory_total_mb is None else found.memory_total_mb
    _check("memory_free_mb", found.memory_free_mb, total_mb)
    _check("others_mb", found.others_mb, MOST_MB)
    return replace(
        found,
        reason=words_of(found.reason),
        process=None if found.process is None else _process(found.process),
        devices=tuple(map(_device, found.devices)),
        source=words_of(found.source),
        version=words_of(found.version),
        notes=tuple(words_of(note) for note in found.notes[:MAX_NOTES]),
    )


def abilities_of(found: AgentAbilities) -> AgentAbilities:
    """Return abilities within bounds."""
    return replace(found, version=words_of(found.version))


def log_lines(found: Sequence[str]) -> list[str]:
    """Return lines of a log within bounds."""
    return [line_of(line) for line in found[:MAX_LOG_LINES]]


def seconds_of(found: float) -> float:
    """Return a span of time that an agent has measured. Raises Nonsense."""
    _check("seconds", found, MAX_COUNT)
    return found


def _process(found: EngineProcess) -> EngineProcess:
    _check("pid", found.pid, MAX_COUNT)
    _check("started_at", found.started_at, MAX_COUNT)
    _check("rss_mb", found.rss_mb, MOST_MB)
    _check("cpu_seconds", found.cpu_seconds, MAX_COUNT)
    _check("restarts", found.restarts, MAX_COUNT)
    return found


def _device(found: Device) -> Device:
    _check("total_mb", found.total_mb, MOST_MB)
    _check("free_mb", found.free_mb, found.total_mb)
    _check("engine_mb", found.engine_mb, MOST_MB)
    _check("others_mb", found.others_mb, MOST_MB)
    return replace(found, name=words_of(found.name))


def _check(name: str, value: float | None, most: float | None) -> None:
    if value is None:
        return
    if not math.isfinite(value) or value < 0 or (most is not None and value > most):
        raise Nonsense(f"{name} is {value}")
