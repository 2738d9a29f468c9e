"""Which process listens at a port: how the agent finds an engine of which its file says nothing.

The kernel lists the sockets of TCP in /proc/net/tcp and tcp6, and each process's descriptors in
/proc/PID/fd, which only its own user and root may read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from cortexd.agent.looking.processes import PROC

LISTENS: Final = "0A"
"""The state of a listening socket in those tables."""


def listening_sockets(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, from the text of such a table."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENS:
            with suppress(ValueError):
                if int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def pid_at(port: int, proc: str = PROC) -> tuple[int | None, bool]:
    """Return the process that listens at a port, and whether any does.

    Another user's process may not be seen, although it listens. Of several, as where a process has
    passed its socket on to children, the oldest number is returned.
    """
    inodes: set[str] = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError), open(f"{proc}/net/{name}") as file:  # noqa: PTH123 - as below
            inodes |= listening_sockets(file.read(), port)
    if not inodes:
        return None, False
    links = {f"socket:[{inode}]" for inode in inodes}
    numbers = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())  # noqa: PTH208 - Paths cost more
    for pid in numbers:
        with suppress(OSError):
            folder = f"{proc}/{pid}/fd"
            for name in os.listdir(folder):  # noqa: PTH208 - likewise
                with suppress(OSError):
                    if os.readlink(f"{folder}/{name}") in links:  # noqa: PTH115 - likewise
                        return pid, True
    return None, True
