"""systemd itself, booted as process 1 of namespaces of its own; this needs root and Linux.

The units are those of ``contrib/systemd`` with a drop-in: other addresses and files, and without
the keys that would hide the files of this environment from the daemon.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from bench.supervisors.unit import REPOSITORY, SOCKETS, UNIT, Supervisor, Unit

SYSTEMD = Path("/lib/systemd/systemd")
UNITS = REPOSITORY / "contrib" / "systemd"
BOOT_SECONDS = 20.0
JOB_SECONDS = 60.0
GROUP = "cortexd-bench"

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
DROP_IN = """[Unit]
DefaultDependencies=no
After=
[Service]
ExecStart=
ExecStart={command}
ExecReload=
ExecReload={reload}
{environment}
StandardOutput=append:{log}
StandardError=append:{log}
RestartSec=1
LimitNOFILE=infinity
DynamicUser=no
User=root
WorkingDirectory={folder}
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
PrivateDevices=no
CapabilityBoundingSet=~
SystemCallFilter=
RestrictNamespaces=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectKernelLogs=no
ProtectControlGroups=no
ProtectClock=no
ProtectHostname=no
ProtectProc=default
"""


class RealSystemd(Supervisor):
    """Runs the processes of ``unit`` under systemd; use it in a ``with``."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self._outer: subprocess.Popen[bytes] | None = None
        self._manager = 0

    @staticmethod
    def can_boot() -> bool:
        """Return whether this machine has what the boot needs."""
        programs = all(map(shutil.which, ("unshare", "nsenter", "systemctl")))
        return os.geteuid() == 0 and SYSTEMD.exists() and programs

    def __enter__(self) -> Self:
        units = self.unit.folder / "units"
        self._write_units(units)
        inner = self.unit.folder / "inner.sh"
        inner.write_text(INNER.format(units=units, systemd=SYSTEMD))
        outer = self.unit.folder / "outer.sh"
        outer.write_text(OUTER.format(group=GROUP, inner=inner))
        command = ["unshare", "--mount", "--propagation", "private", "sh", str(outer)]
        with (self.unit.folder / "boot.log").open("wb") as log:
            self._outer = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + BOOT_SECONDS
        while not self._is_booted():
            if time.monotonic() > deadline or self._outer.poll() is not None:
                self.__exit__()
                raise RuntimeError(
                    "systemd has not booted: " + (self.unit.folder / "boot.log").read_text()
                )
            time.sleep(0.1)
        return self

    def _write_units(self, units: Path) -> None:
        units.mkdir()
        (units / "bench.target").write_text("[Unit]\nDescription=the bench\n")
        for name, listener in SOCKETS.items():
            shutil.copy(UNITS / name, units)
            host, port = self.unit.addresses[listener]
            folder = units / f"{name}.d"
            folder.mkdir()
            (folder / "bench.conf").write_text(
                "[Unit]\nDefaultDependencies=no\n"
                f"[Socket]\nListenStream=\nListenStream={host}:{port}\n"
            )
        shutil.copy(UNITS / UNIT, units)
        folder = units / f"{UNIT}.d"
        folder.mkdir()
        given = self.unit.environment().items()
        drop_in = DROP_IN.format(
            command=" ".join(self.unit.command()),
            reload=" ".join(self.unit.reload_command()),
            environment="\n".join(f"Environment={name}={value}" for name, value in given),
            log=self.unit.log,
            folder=self.unit.folder,
        )
        (folder / "bench.conf").write_text(drop_in)

    def _is_booted(self) -> bool:
        self._manager = _first_process(self._outer.pid) if self._outer is not None else 0
        return self._manager > 0 and self._run("systemctl", "list-jobs").returncode == 0

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
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

    def start(self) -> int:
        """Start the unit; return the status of systemctl."""
        return self._run("systemctl", "start", *SOCKETS, UNIT).returncode

    def restart(self) -> int:
        """Restart the unit; return the status of systemctl."""
        return self._run("systemctl", "restart", UNIT).returncode

    def reload(self) -> int:
        """Reload the unit; return the status of systemctl."""
        return self._run("systemctl", "reload", UNIT).returncode

    def stop(self) -> None:
        """Stop the unit."""
        self._run("systemctl", "stop", UNIT)

    def processes(self) -> list[int]:
        """Return the pids of the unit's processes, as this machine counts them."""
        found = self._run("cat", f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs").stdout
        return [int(pid) for pid in found.split()]

    def wait_until_ready(self) -> bool:
        """Return whether the unit gets active in time."""
        deadline = time.monotonic() + JOB_SECONDS
        while self._run("systemctl", "is-active", UNIT).stdout.strip() != "active":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def status(self) -> str:
        """Return what ``systemctl status`` shows."""
        return self._run("systemctl", "status", UNIT).stdout


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
