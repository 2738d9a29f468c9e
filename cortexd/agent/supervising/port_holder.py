"""Which process has the engine's port, in words: an engine that finds it in use cannot start."""

from __future__ import annotations

from pathlib import Path

from cortexd.agent.looking.listeners import pid_at
from cortexd.agent.looking.processes import PROC
from cortexd.text import printable


def holder_of(host: str | None, port: int, proc: str = PROC) -> str | None:
    """Return in words which process listens on a port of a host, ``None`` if none does."""
    pid, is_in_use = pid_at(host, port, proc)
    if pid is None:
        return "a process of another user" if is_in_use else None
    try:
        name = Path(proc, str(pid), "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({printable(name)})"
