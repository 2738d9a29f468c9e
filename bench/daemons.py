"""The real daemon in a process of its own, whose reactor's turns are measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Address, Child, answers_ok
from bench.targets import READY_SECONDS, free_ports
from bench.turns import Turn, longest


@dataclass
class Daemon:
    """A running daemon: the addresses of its clients' side and of its metrics, its socket."""

    child: Child
    address: Address
    metrics: Address
    control_socket: Path
    turns: Path

    def longest_turn(self, since: float) -> Turn:
        """Return the turn of its reactor since a time of the monotonic clock with most CPU."""
        return longest(self.turns, since)


@contextmanager
def running_daemon(
    folder: Path,
    nodes: Mapping[str, str],
    extra: str = "",
    path: str = "/health",
    gateway: str = "",
) -> Iterator[Daemon]:
    """Run a daemon before ``nodes``, endpoints by name, until the block is left.

    ``extra`` is TOML at the beginning of its configuration, ``gateway`` further keys of [gateway];
    ``path`` must answer 200 before the block begins.
    """
    port, metrics_port = free_ports(2)
    socket = folder / "control.sock"
    keys = {
        "listen": f"127.0.0.1:{port}",
        "metrics_listen": f"127.0.0.1:{metrics_port}",
        "control_socket": str(socket),
        "state_dir": str(folder / "state"),
    }
    lines = [extra, "[gateway]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    lines += [gateway, "[scheduling]\nprobe = false"]
    for name, endpoint in nodes.items():
        lines += [
            "[[nodes]]",
            f'name = "{name}"',
            f'endpoint = "{endpoint}"',
            "vram_mb = 24576",
        ]
    config = folder / "cortex.toml"
    config.write_text("\n".join([*lines, ""]))
    turns = folder / "turns"
    command = [sys.executable, "-m", "bench.turns", str(turns), "-n", "--pidfile=", "--logger"]
    command += ["cortexd.logs.json_observer", "cortex", "--config", str(config)]
    child = Child(command, folder / "daemon.log")
    address = ("127.0.0.1", port)
    try:
        child.wait_until(lambda: answers_ok(address, path), f"200 from {path}", READY_SECONDS)
        yield Daemon(child, address, ("127.0.0.1", metrics_port), socket, turns)
    finally:
        child.stop()
