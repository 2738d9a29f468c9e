"""Which process listens on the engine's port, so that an engine that finds it in use can be helped.

The kernel tells the listeners of TCP in /proc/net/tcp and tcp6, and each process's sockets in
/proc/PID/fd, which only its own user may read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cortexd.text import printable

PROC: Final = Path("/proc")
_LISTENS: Final = "0A"


def listening_sockets(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, from the text of /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:
            with suppress(ValueError):
                if int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def holder_of(port: int, proc: Path = PROC) -> str | None:
    """Return in words which process listens on a port, ``None`` if none does."""
    inodes: set[str] = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            inodes |= listening_sockets((proc / "net" / name).read_text(), port)
    if not inodes:
        return None
    for pid in _holders(inodes, proc):
        with suppress(OSError):
            name = (proc / pid / "comm").read_text(errors="replace").strip()
            return f"process {pid} ({printable(name)})"
    return "a process of another user"


def _holders(inodes: set[str], proc: Path) -> Iterator[str]:
    links = {f"socket:[{inode}]" for inode in inodes}
    for entry in os.listdir(proc):  # noqa: PTH208 - a Path for each of many costs more
        if entry.isdecimal():
            with suppress(OSError):
                folder = f"{proc}/{entry}/fd"
                for name in os.listdir(folder):  # noqa: PTH208 - likewise
                    if os.readlink(f"{folder}/{name}") in links:  # noqa: PTH115 - likewise
                        yield entry
                        break
