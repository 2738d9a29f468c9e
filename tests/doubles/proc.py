"""A folder that stands for /proc, with the files of proc(5) that an agent reads.

Checked against the man page and Linux 6: the fields of ``stat`` after the program's name, which may
itself have blanks and parentheses, the tables of TCP, and descriptors as links such as
``socket:[7]``. Ticks and pages are those of this machine.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

BOOTED_AT = 1_700_000_000
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Proc:
    """The folder at ``path``; it is empty of processes at first."""

    def __init__(self, path: Path, memory_mb: int = 32_000) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "stat").write_text(f"cpu  1 2 3\nbtime {BOOTED_AT}\nprocesses 99\n")
        (path / "meminfo").write_text(
            f"MemTotal:       {memory_mb * 1024} kB\nMemFree:        1024 kB\n"
        )
        (path / "net").mkdir()
        self._sockets: dict[int, tuple[str, int]] = {}
        self._write_sockets()

    def add(
        self,
        pid: int,
        *,
        started: float = 10.0,
        rss_mb: int = 100,
        cpu_seconds: float = 1.0,
        name: str = "mistralrs (a) b",
        state: str = "S",
        environ: dict[str, str] | None = None,
        cgroup: str = "/",
    ) -> None:
        """Add a process, or change it; ``started`` is in seconds after the boot."""
        folder = self.path / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        (folder / "fd").mkdir(exist_ok=True)
        fields = ["0"] * 50
        fields[0], fields[1] = state, "1"
        fields[11] = str(int(cpu_seconds * TICKS) - 1)
        fields[12] = "1"
        fields[19] = str(int(started * TICKS))
        fields[21] = str(rss_mb * 1024 * 1024 // PAGE)
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        words = [f"{key}={value}" for key, value in (environ or {}).items()]
        (folder / "environ").write_text("\0".join([*words, ""]))
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        (folder / "task" / str(pid) / "children").write_text("")

    def adopt(self, parent: int, *children: int) -> None:
        """Make processes the children of another's main thread."""
        path = self.path / str(parent) / "task" / str(parent) / "children"
        path.write_text(" ".join(map(str, children)) + " ")

    def end(self, pid: int) -> None:
        """Remove a process, with its sockets."""
        shutil.rmtree(self.path / str(pid))

    def listen(
        self, pid: int | None, port: int, inode: int = 7, *, address: str = "127.0.0.1"
    ) -> None:
        """Let a process listen at a port; with ``None``, one whose descriptors are not readable."""
        self._sockets[inode] = (_as_in_tables(address), port)
        self._write_sockets()
        if pid is not None:
            folder = self.path / str(pid) / "fd"
            (folder / "0").symlink_to("/dev/null")
            (folder / "3").symlink_to(f"socket:[{inode}]")

    def _write_sockets(self) -> None:
        lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid"]
        lines += [
            f"   0: {address}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 "
            f"1000        0 {inode} 1 0000000000000000 100 0 0 10 0"
            for inode, (address, port) in self._sockets.items()
        ]
        lines.append(
            "   9: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 1000 0 9 1"
        )
        (self.path / "net" / "tcp").write_text("\n".join(lines) + "\n")


def _as_in_tables(address: str) -> str:
    """Return an IPv4 address as the kernel writes it: a number of 32 bits as the machine has it."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
