"""The unit of the daemon and its files: what both supervisors start."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Address
from bench.targets import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = "cortexd.service"
SOCKETS = {"cortexd.socket": "http", "cortexd-metrics.socket": "metrics"}


@dataclass(frozen=True)
class Unit:
    """The daemon as a unit: its folder, its configuration, and the addresses of its sockets."""

    folder: Path
    config: Path
    addresses: Mapping[str, Address]

    @property
    def log(self) -> Path:
        """The file with the output of all processes of the unit."""
        return self.folder / "unit.log"

    @property
    def address(self) -> Address:
        """The address for clients."""
        return self.addresses["http"]

    def output(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the log lines of one event."""
        lines = (line for line in self.output().splitlines() if line.startswith("{"))
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def command(self) -> list[str]:
        """Return the command of ExecStart=, as the unit file has it, but from this environment."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        daemon = [twistd, "-n", "--pidfile=", "--logger", "cortexd.logs.json_observer", "cortex"]
        guard = [sys.executable, "-m", "cortexd.service.guard", "--unit", UNIT, "--"]
        return [*guard, *daemon, "--config", str(self.config)]

    def reload_command(self) -> list[str]:
        """Return the command of ExecReload=, from this environment and for this control socket."""
        cortexctl = str(Path(sys.executable).with_name("cortexctl"))
        return [cortexctl, "--socket", str(self.control_socket), "reload"]

    @property
    def control_socket(self) -> Path:
        """The socket for cortexctl."""
        return self.folder / "control.sock"

    def environment(self) -> dict[str, str]:
        """Return the variables of Environment=."""
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        return {"CORTEX_UNIT": UNIT, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}

    def write_config(self, nodes: Mapping[str, str], keys: str = "", extra: str = "") -> None:
        """Write the configuration for ``nodes``; ``keys`` are more of [gateway], in TOML."""
        lines = [
            "[gateway]",
            'listen = "systemd:domain=INET:name=http"',
            'metrics_listen = "systemd:domain=INET:name=metrics"',
            f"control_socket = {json.dumps(str(self.control_socket))}",
            f"state_dir = {json.dumps(str(self.folder / 'state'))}",
            keys,
            "[polling]\ninterval = 0.5\ntimeout = 10",
            "[scheduling]\nprobe = false",
        ]
        for name, endpoint in nodes.items():
            lines += ["[[nodes]]", f'name = "{name}"', f'endpoint = "{endpoint}"']
            lines.append("vram_mb = 24576")
        self.config.write_text("\n".join([*lines, extra, ""]))


def make_unit(folder: Path) -> Unit:
    """Return a unit with free addresses, whose files are in ``folder``."""
    ports = free_ports(len(SOCKETS))
    addresses = {
        name: ("127.0.0.1", port) for name, port in zip(SOCKETS.values(), ports, strict=True)
    }
    return Unit(folder, folder / "cortex.toml", addresses)


class Supervisor(AbstractContextManager["Supervisor"], ABC):
    """Runs the processes of ``unit`` until the block is left, in which all of them end.

    ``complaints`` are what it found wrong with them.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.complaints: list[str] = []

    @abstractmethod
    def start(self) -> int:
        """Start the unit; return 0 once it is ready, and another number if it failed."""

    @abstractmethod
    def restart(self) -> int:
        """Restart the unit; return as ``start`` does."""

    @abstractmethod
    def reload(self) -> int:
        """Reload the unit; return 0 once the file is in effect, and another number if it is not."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the unit."""

    @abstractmethod
    def processes(self) -> list[int]:
        """Return the pids of the unit that run, also those of earlier starts."""

    @abstractmethod
    def wait_until_ready(self) -> bool:
        """Return whether the unit, which is started again and again, gets ready in time."""
