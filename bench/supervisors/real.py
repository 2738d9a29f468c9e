"""The daemon's unit under systemd itself; see ``bench.supervisors.booted``.

The units are those of ``contrib/systemd`` with a drop-in: other addresses and files, and without
the keys that would hide the files of this environment from the daemon.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from bench.supervisors.booted import JOB_SECONDS, BootedSystemd
from bench.supervisors.unit import REPOSITORY, SOCKETS, UNIT, Supervisor, Unit

UNITS = REPOSITORY / "contrib" / "systemd"
GROUP = "cortexd-bench"

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
        self._systemd = BootedSystemd(unit.folder, GROUP)

    @staticmethod
    def can_boot() -> bool:
        """Return whether this machine has what the boot needs."""
        return BootedSystemd.can_boot()

    def __enter__(self) -> Self:
        self._write_units(self._systemd.units)
        self._systemd.__enter__()
        return self

    def _write_units(self, units: Path) -> None:
        units.mkdir()
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

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._systemd.run(*command)

    def __exit__(self, *exception: object) -> None:
        self._systemd.__exit__()

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
