"""What /proc says of the process that a pidfile names: proc(5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CLOCK_SLACK_SECONDS: Final = 2.0
"""How much later than its pidfile a process may seem to have started: /proc counts in ticks."""

PROC: Final = Path("/proc")


def is_of_twistd(pid: int, written_at: float, proc: Path = PROC) -> bool:
    """Return whether a process may be a twistd that wrote its pidfile at ``written_at``.

    It is not if it has started later, in Unix seconds, or if its command line does not have the
    word "twistd". A process of which nothing can be read may be one, this process itself is none.
    """
    if pid == os.getpid():
        return False
    try:
        command = (proc / str(pid) / "cmdline").read_bytes()
        started_at = _started_at(
            (proc / str(pid) / "stat").read_text(), (proc / "stat").read_text()
        )
    except (OSError, ValueError, LookupError):
        return True
    return b"twistd" in command and started_at <= written_at + CLOCK_SLACK_SECONDS


def _started_at(process: str, machine: str) -> float:
    """Return when a process started, from the texts of /proc/PID/stat and /proc/stat.

    The name of the program, in parentheses, may itself have blanks and parentheses. The time is the
    20th field after it, in ticks since the machine's start.
    """
    ticks = int(process[process.rindex(")") + 2 :].split()[19])
    booted_at = next(line for line in machine.splitlines() if line.startswith("btime "))
    return int(booted_at.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
