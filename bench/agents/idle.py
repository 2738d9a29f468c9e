"""What an idle agent costs: a real one beside a simulated node, with a link to a real gateway."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.daemons import running_daemon
from bench.processes import Child, cpu_nanoseconds, machine_nanoseconds, resident_bytes
from bench.targets import READY_SECONDS, free_ports

MOST_CORE_PERCENT: Final = 0.5
"""The most CPU time of an idle agent, in percent of one core."""

MOST_MEGABYTES: Final = 50.0
"""The most resident memory of an idle agent, in MB of 1,000,000 bytes."""

SETTLE_SECONDS: Final = 10.0
"""How long after its start an agent counts as idle."""

NODE: Final = "gpu"


@dataclass(frozen=True)
class Cost:
    """What one process took: percent of a core, MB, and the share of the machine that was busy."""

    core_percent: float
    megabytes: float
    busy_percent: float

    @property
    def is_small(self) -> bool:
        """Whether both are below their limits."""
        return self.core_percent < MOST_CORE_PERCENT and self.megabytes < MOST_MEGABYTES

    def __str__(self) -> str:
        return (
            f"an idle agent: {self.core_percent:.2f} % of a core (limit {MOST_CORE_PERCENT:g}), "
            f"{self.megabytes:.1f} MB resident (limit {MOST_MEGABYTES:g}), while the machine was "
            f"busy with {self.busy_percent:.0f} % of a core"
        )


def measure(seconds: float) -> Cost:
    """Run an agent for some seconds after its start, and return what it cost."""
    with tempfile.TemporaryDirectory() as name, _running_agent(Path(name)) as agent:
        time.sleep(SETTLE_SECONDS)
        agent.check()
        before, machine_before, began = _cpu(agent), machine_nanoseconds(), time.monotonic()
        time.sleep(seconds)
        agent.check()
        elapsed = time.monotonic() - began
        return Cost(
            core_percent=(_cpu(agent) - before) / elapsed / 1e7,
            megabytes=resident_bytes([agent.pid]) / 1e6,
            busy_percent=(machine_nanoseconds() - machine_before) / elapsed / 1e7,
        )


def _cpu(agent: Child) -> int:
    return cpu_nanoseconds([agent.pid])


@contextmanager
def _running_agent(folder: Path) -> Iterator[Child]:
    """Run a simulated node, a gateway before it, and an agent that has linked itself to it."""
    link, port = free_ports(2)
    command = [sys.executable, "-m", "cortexd.testing", "--fast", "--port", str(port)]
    node = Child(command, folder / "node.log")
    endpoint = f"http://127.0.0.1:{port}"
    extra = f'[agents]\nlisten = "127.0.0.1:{link}"\n'
    try:
        node.wait_until(lambda: endpoint in node.output(), "simulated node", READY_SECONDS)
        with running_daemon(folder, {NODE: endpoint}, extra):
            config = folder / "agent.toml"
            config.write_text(
                f'[agent]\nnode = "{NODE}"\ngateway = "127.0.0.1:{link}"\n'
                f'[engine]\nendpoint = "{endpoint}"\n'
            )
            command = [sys.executable, "-c", _TWISTD, "-n", "--pidfile=", "--logger"]
            command += ["cortexd.logs.json_observer", "cortex-agent", "--config", str(config)]
            agent = Child(command, folder / "agent.log")
            try:
                agent.wait_until(lambda: "link_made" in agent.output(), "link", READY_SECONDS)
                yield agent
            finally:
                agent.stop()
    finally:
        node.stop()


_TWISTD: Final = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
