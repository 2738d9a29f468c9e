"""systemd itself, booted as process 1 of namespaces of its own; this needs root and Linux."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

SYSTEMD = Path("/lib/systemd/systemd")
BOOT_SECONDS = 20.0
JOB_SECONDS = 60.0

OUTER = """
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit 1
mkdir -p /sys/fs/cgroup/{group} && echo $$ > /sys/fs/cgroup/{group}/cgroup.procs || exit 1
exec unshare --cgroup --pid --fork --mount-proc --kill-child sh {inner}
"""
INNER = """
umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || exit 1
mount -t tmpfs tmpfs /run || exit 1
mkdir -p /run/systemd/system && cp -r {units}/. /run/systemd/system/
export container=bench
exec {systemd} --system --unit=bench.target --log-level=notice --show-status=no < /dev/null
"""


class BootedSystemd:
    """Boots systemd with the units in ``folder`` / "units"; use it in a ``with``."""

    def __init__(self, folder: Path, group: str) -> None:
        self.units = folder / "units"
        self._folder = folder
        self._group = group
        self._outer: subprocess.Popen[bytes] | None = None
        self._manager = 0

    @staticmethod
    def can_boot() -> bool:
        """Return whether this machine has what the boot needs."""
        programs = all(map(shutil.which, ("unshare", "nsenter", "systemctl")))
        return os.geteuid() == 0 and SYSTEMD.exists() and programs

    def __enter__(self) -> Self:
        (self.units / "bench.target").write_text("[Unit]\nDescription=the bench\n")
        inner = self._folder / "inner.sh"
        inner.write_text(INNER.format(units=self.units, systemd=SYSTEMD))
        outer = self._folder / "outer.sh"
        outer.write_text(OUTER.format(group=self._group, inner=inner))
        command = ["unshare", "--mount", "--propagation", "private", "sh", str(outer)]
        with (self._folder / "boot.log").open("wb") as log:
            self._outer = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._is_booted():
            if time.monotonic() > deadline or self._outer.poll() is not None:
                self.__exit__()
                raise RuntimeError(
                    "systemd has not booted: " + (self._folder / "boot.log").read_text()
                )
            time.sleep(0.1)
        return self

    def _is_booted(self) -> bool:
        self._manager = _first_process(self._outer.pid) if self._outer is not None else 0
        return self._manager > 0 and self.run("systemctl", "list-jobs").returncode == 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespaces, and return how it has ended."""
        entering = ["nsenter", "-t", str(self._manager), "-m", "-p", "-C"]
        return subprocess.run(
            [*entering, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=JOB_SECONDS,
            check=False,
        )

    def __exit__(self, *exception: object) -> None:
        if self._manager:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._manager, signal.SIGKILL)  # and with it all of its namespace
        if self._outer is not None:
            self._outer.kill()
            self._outer.wait()


def _first_process(outer: int) -> int:
    """Return the pid of systemd below ``outer``, 0 as long as it does not run."""
    parents = [outer]
    for pid in parents:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
        except OSError:
            continue
        parents += map(int, children)
    return 0
