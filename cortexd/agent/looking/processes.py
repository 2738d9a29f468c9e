"""What /proc says of the engine's processes: proc(5).

Every function takes the folder in place of /proc. A file that cannot be read, because its process
has ended or is another user's, is no error: what it would say is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cortexd.fleet.agents import EngineProcess

PROC: Final = "/proc"
MEBIBYTE: Final = 1024 * 1024
MOST_PROCESSES: Final = 256
"""How many processes of an engine are read; further ones are not counted."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the machine runs: its boot, in unix seconds, and its units."""

    booted_at: float
    ticks: int
    page_bytes: int


def read_machine(proc: str = PROC) -> Machine:
    """Return the constants of this machine."""
    booted_at = 0.0
    for line in _text(f"{proc}/stat").splitlines():
        if line.startswith("btime "):
            booted_at = float(line.split()[1])
    return Machine(booted_at, os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE"))


def read_process(
    pids: Sequence[int], machine: Machine, restarts: int, proc: str = PROC
) -> EngineProcess | None:
    """Return the engine's processes as one, the main one first in ``pids``; ``None`` without it.

    Memory and CPU time are those of all of them together.
    """
    found = [
        stat for pid in pids[:MOST_PROCESSES] if (stat := read_stat(pid, machine, proc)) is not None
    ]
    if not found or found[0].pid != pids[0]:
        return None
    return EngineProcess(
        pid=found[0].pid,
        started_at=found[0].started_at,
        rss_mb=sum(stat.rss_bytes for stat in found) // MEBIBYTE,
        cpu_seconds=round(sum(stat.cpu_seconds for stat in found), 1),
        restarts=restarts,
    )


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What /proc/PID/stat says of a process that runs."""

    pid: int
    parent: int
    started_at: float
    cpu_seconds: float
    rss_bytes: int


def read_stat(pid: int, machine: Machine, proc: str = PROC) -> ProcessStat | None:
    """Return a process, ``None`` if it has ended."""
    text = _text(f"{proc}/{pid}/stat")
    # The name of the program, in parentheses, may itself have blanks and parentheses.
    fields = text[text.rfind(")") + 2 :].split()
    try:
        if fields[0] in "ZX":
            return None
        return ProcessStat(
            pid=pid,
            parent=int(fields[1]),
            started_at=machine.booted_at + int(fields[19]) / machine.ticks,
            cpu_seconds=(int(fields[11]) + int(fields[12])) / machine.ticks,
            rss_bytes=int(fields[21]) * machine.page_bytes,
        )
    except (IndexError, ValueError):
        return None


def family(pid: int, proc: str = PROC) -> tuple[int, ...]:
    """Return a process and its children, and theirs, as far as the kernel tells them."""
    found = [pid]
    for each in found:
        if len(found) >= MOST_PROCESSES:
            break
        with suppress(OSError):
            for thread in os.listdir(f"{proc}/{each}/task"):  # noqa: PTH208 - Paths cost more
                children = _text(f"{proc}/{each}/task/{thread}/children").split()
                found += [
                    int(child)
                    for child in children
                    if child.isdecimal() and int(child) not in found
                ]
    return tuple(found)


def environment(pid: int, proc: str = PROC) -> Mapping[str, str]:
    """Return the variables with which a process has started; none if that is not permitted."""
    words = _text(f"{proc}/{pid}/environ").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def memory_limit_mb(pids: Iterable[int], proc: str = PROC, groups: str = "/sys/fs/cgroup") -> int:
    """Return the MiB that the engine can have: the machine's, or less by its control group.

    0 if nothing can be read. Only the unified hierarchy of control groups is looked at, and each
    group above that of the process too.
    """
    limit = 0
    for line in _text(f"{proc}/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limit = int(line.split()[1]) // 1024
    for pid in pids:
        for line in _text(f"{proc}/{pid}/cgroup").splitlines():
            group = line.removeprefix("0::") if line.startswith("0::") else ""
            while group.startswith("/"):
                text = _text(f"{groups}{group.rstrip('/')}/memory.max").strip()
                if text.isdecimal():
                    limit = min(limit or int(text), int(text) // MEBIBYTE)
                group = group.rpartition("/")[0]
        break  # They share their group.
    return limit


def _text(path: str) -> str:
    """Return a small file's text, empty if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - Paths cost more
            return (file.readall() or b"").decode("utf-8", "replace")
    except OSError:
        return ""
