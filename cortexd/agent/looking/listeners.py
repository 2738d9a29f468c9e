"""Which process listens at a port: how the agent finds an engine of which its file says nothing.

The kernel lists the sockets of TCP in /proc/net/tcp and tcp6, and each process's descriptors in
/proc/PID/fd, which only its own user and root may read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from cortexd.agent.looking.processes import PROC

LISTENS: Final = "0A"
"""The state of a listening socket in those tables."""

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
EVERY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def listening_sockets(table: str, port: int) -> dict[str, str]:
    """Return the sockets that listen on a port, from the text of such a table.

    Each inode comes with the address to which its socket is bound.
    """
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENS:
            address, _, number = fields[1].rpartition(":")
            with suppress(ValueError):
                if int(number, 16) == port:
                    found[fields[9]] = _read_address(address)
    return found


def _read_address(digits: str) -> str:
    """Return an address of such a table, which has each 32 bits as this machine's numbers."""
    packed = bytes.fromhex(digits)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    in_order = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _plain(str(ip_address(in_order)))


def _plain(address: str) -> str:
    """Return an address in its usual form; an IPv4 address within an IPv6 one is the former."""
    parsed = ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def at_host(sockets: Mapping[str, str], host: str | None) -> set[str]:
    """Return the inodes of the sockets of ``listening_sockets`` that a client of a host reaches.

    A socket of that address comes before those of all addresses. A name may stand for any address,
    but for localhost.
    """
    try:
        wanted = LOOPBACK if host == "localhost" else {_plain(host or "")}
    except ValueError:
        return set(sockets)
    exact = {inode for inode, address in sockets.items() if address in wanted}
    return exact or {inode for inode, address in sockets.items() if address in EVERY}


def pid_at(host: str | None, port: int, proc: str = PROC) -> tuple[int | None, bool]:
    """Return the process that listens at a port of a host, and whether any does.

    ``host`` is an address of this machine or a name, ``None`` for any. Another user's process may
    not be seen, although it listens. Of several, as where a process has passed its socket on to
    children, the oldest number is returned.
    """
    sockets: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        with suppress(OSError), open(f"{proc}/net/{name}") as file:  # noqa: PTH123 - as below
            sockets |= listening_sockets(file.read(), port)
    inodes = at_host(sockets, host)
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
