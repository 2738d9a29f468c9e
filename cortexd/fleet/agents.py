"""What an agent reports of its node: values that the link carries and the fleet takes.

An agent runs beside a node's engine. It sees the accelerators, the engine's process and the answers
of the engine on the same machine. Memory is in MiB, times are in seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cortexd.fleet.states import SystemInfo

MOST_MB: Final = 1 << 30
"""More MiB than any machine has; an agent that says so is wrong."""


class EngineLife(enum.Enum):
    """What an agent knows of the engine's process.

    *answers*: it runs, and its health is well. *silent*: it runs and does not answer, as while it
    starts. *ended*: there is no process. *given_up*: the agent has restarted it so often that it
    does not try again by itself. *unknown*: the agent cannot see the process.
    """

    ANSWERS = "answers"
    SILENT = "silent"
    ENDED = "ended"
    GIVEN_UP = "given_up"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator.

    ``engine_mb`` is what the engine's processes take of it, ``others_mb`` what other processes
    take; both are ``None`` where its driver does not tell.
    """

    name: str
    total_mb: int
    free_mb: int
    engine_mb: int | None = None
    others_mb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcess:
    """The engine's process: ``started_at`` is in unix seconds, ``cpu_seconds`` since then.

    ``restarts`` counts the processes that have ended since the agent began to watch.
    """

    pid: int
    started_at: float
    rss_mb: int
    cpu_seconds: float
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReport:
    """What an agent sees now.

    ``memory_total_mb`` and ``memory_free_mb`` are the memory that models share: of all accelerators
    if there are any, otherwise the machine's memory less what the engine's own process takes.
    ``others_mb`` is what other programs take of it. Each of them is ``None`` where the agent cannot
    tell. ``source`` says where they come from: "nvml", "amdsmi", "engine" or "process".
    ``version`` is the engine's, empty while unknown. ``reason`` tells why the engine has ended or
    does not answer, ``notes`` what the agent cannot see, and what to do about it.
    """

    life: EngineLife
    reason: str = ""
    process: EngineProcess | None = None
    devices: tuple[Device, ...] = ()
    source: str = ""
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    others_mb: int | None = None
    version: str = ""
    notes: tuple[str, ...] = ()

    @property
    def system(self) -> SystemInfo | None:
        """The report as a node's own report of its memory.

        ``None`` without an amount, or with amounts that no memory has.
        """
        total_mb, free_mb, others_mb = (
            self.memory_total_mb,
            self.memory_free_mb,
            self.others_mb or 0,
        )
        if total_mb is None or free_mb is None or others_mb < 0:
            return None
        if not 0 <= free_mb <= total_mb <= MOST_MB:
            return None
        return SystemInfo(self.version, total_mb, free_mb, min(others_mb, total_mb))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAbilities:
    """What an agent may be asked to do beside reports; ``version`` is its cortexd's."""

    version: str
    can_restart: bool = False
    can_suspend: bool = False
    has_log: bool = False
