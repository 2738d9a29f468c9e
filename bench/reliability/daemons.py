"""The real daemon before nodes of the bench, for scenes that need a limit or a log of it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.processes import Address, Child, answers_ok, get
from bench.targets import READY_SECONDS, Target, free_ports, start_upstream
from bench.wire import MODEL

CONFIG = """\
[gateway]
listen = "127.0.0.1:{port}"
metrics_listen = "127.0.0.1:{metrics_port}"
control_socket = "{directory}/control.sock"
state_dir = "{directory}/state"
{gateway}

[polling]
interval = 0.5
{polling}

[scheduling]
probe = false

[[models]]
id = "{model}"
max_concurrency = {max_concurrency}
"""
NODE = '[[nodes]]\nname = "{name}"\nendpoint = "http://{host}:{port}"\nvram_mb = 49152\n'


@dataclass(frozen=True, slots=True)
class Played:
    """A daemon in a process of its own, and the nodes behind it; ``directory`` has all files."""

    address: Address
    metrics_address: Address
    child: Child
    nodes: list[Target]
    directory: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of its log with this event, decoded."""
        lines = self.child.output().rpartition("\n")[0].splitlines()
        decoded = (json.loads(line) for line in lines if line.startswith("{"))
        return [line for line in decoded if line.get("event") == name]

    def metric(self, series: str) -> float:
        """Return the sum of all samples whose name and labels begin with ``series``.

        Infinite if the daemon does not give its metrics.
        """
        try:
            text = get(self.metrics_address, "/metrics")[1].decode()
        except (OSError, HTTPException):
            return inf
        found = re.findall(rf"^{re.escape(series)}\S* (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


@contextmanager
def daemon(
    nodes: int = 1,
    *,
    gateway: str = "",
    polling: str = "",
    open_files: int | None = None,
    file_blocks: int | None = None,
    max_concurrency: int = 4096,
) -> Iterator[Played]:
    """Run a daemon before so many nodes until the block is left.

    ``gateway`` and ``polling`` are further keys of these tables, ``open_files`` its limit of them,
    ``file_blocks`` its limit for the size of each file that it writes. The model has
    ``max_concurrency`` slots on each node.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="cortex-scene-")))
        targets: list[Target] = []
        for number in range(nodes):
            (directory / f"node-{number}").mkdir()
            targets.append(start_upstream(directory / f"node-{number}"))
            stack.callback(targets[-1].stop)
        port, metrics_port = free_ports(2)
        config = directory / "cortex.toml"
        config.write_text(
            CONFIG.format(
                port=port,
                metrics_port=metrics_port,
                directory=directory,
                gateway=gateway,
                polling=polling,
                model=MODEL,
                max_concurrency=max_concurrency,
            )
            + "".join(
                NODE.format(name=f"node-{i}", host=target.address[0], port=target.address[1])
                for i, target in enumerate(targets)
            )
        )
        child = Child(limited(command(config), open_files, file_blocks), directory / "cortexd.log")
        stack.callback(child.stop)
        address = ("127.0.0.1", port)
        child.wait_until(lambda: answers_ok(address, "/ready"), "readiness", READY_SECONDS)
        yield Played(address, ("127.0.0.1", metrics_port), child, targets, directory)


def command(config: Path) -> list[str]:
    """Return the command line of the systemd unit, for the cortexd of this environment."""
    twistd = Path(sys.executable).with_name("twistd")
    logger = ["--logger", "cortexd.logs.json_observer"]
    return [str(twistd), "-n", "--pidfile=", *logger, "cortex", "--config", str(config)]


def limited(
    command: Sequence[str], open_files: int | None, file_blocks: int | None = None
) -> list[str]:
    """Return a command line that runs ``command`` under hard limits of the shell's ``ulimit``."""
    limits = {"-n": open_files, "-f": file_blocks}
    words = [f"ulimit {option} {most} && " for option, most in limits.items() if most is not None]
    if not words:
        return list(command)
    return ["/bin/sh", "-c", "".join(words) + 'exec "$@"', "sh", *command]
