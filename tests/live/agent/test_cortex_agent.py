"""`twistd cortex-agent` in a process of its own, with neither gateway nor accelerator beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import STOP_SECONDS, TWISTD, eventually

NOTIFY_SECONDS = 60.0
MOST_BYTES = 50_000_000
"""What an idle agent may take: the figure of the benches, which also measure its CPU time."""


@dataclass
class Agent:
    """A running agent, its configuration, and the socket at which systemd would listen."""

    process: subprocess.Popen[bytes]
    config: Path
    systemd: socket.socket
    is_ending: bool = False

    def end(self) -> None:
        """Ask it to end, once: a second signal at the end of its interpreter would kill it."""
        if not self.is_ending:
            self.is_ending = True
            self.process.terminate()

    def told(self, word: bytes) -> bytes:
        """Return the first message to systemd that has a line."""
        while True:
            message = self.systemd.recv(4096)
            if word in message.splitlines():
                return message

    def log(self) -> str:
        return (self.config.parent / "log").read_text()

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


def command(*arguments: str) -> list[str]:
    return [str(TWISTD), "-n", "--pidfile=", "cortex-agent", *arguments]


def write_config(folder: Path, endpoint: str, extra: str = "") -> Path:
    path = folder / "agent.toml"
    path.write_text(
        '[agent]\nnode = "gpu"\ngateway = "127.0.0.1:1"\n'
        f'[engine]\nendpoint = "{endpoint}"\n{extra}'
    )
    return path


@contextmanager
def running_agent(folder: Path, endpoint: str) -> Iterator[Agent]:
    """Run an agent until the block is left; it must end with status 0."""
    config = write_config(folder, endpoint)
    with (
        tempfile.TemporaryDirectory() as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        (folder / "log").open("wb") as log,
    ):
        systemd.bind(f"{short}/notify")
        systemd.settimeout(NOTIFY_SECONDS)
        # What measures the coverage of a process takes memory in it.
        environment = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        with subprocess.Popen(  # noqa: S603 - a fixed command of this environment's own twistd
            command("--config", str(config)),
            cwd=folder,
            env={**environment, "NOTIFY_SOCKET": f"{short}/notify", "HOME": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                agent = Agent(process, config, systemd)
                yield agent
                agent.end()
                assert 0 == process.wait(STOP_SECONDS)
            finally:
                process.kill()


def test_it_starts_with_nothing_around_it(tmp_path: Path) -> None:
    """Without gateway, engine and library, systemd hears that it is ready, and of its end."""
    with running_agent(tmp_path, "http://127.0.0.1:1") as agent:
        assert b"STATUS=watching the engine" in agent.told(b"READY=1").splitlines()
        assert "engine_life life=unknown" in agent.log()
        agent.end()
        agent.told(b"STOPPING=1")


def test_it_is_small(tmp_path: Path, fast_node: RunningNode) -> None:
    """Beside an engine, an idle agent takes less memory than it may."""
    with running_agent(tmp_path, fast_node.base_url) as agent:
        agent.told(b"READY=1")
        eventually(lambda: "engine_life life=answers" in agent.log(), "the first look")

        assert agent.resident_bytes() < MOST_BYTES


def test_a_hangup_reads_the_file_again(tmp_path: Path) -> None:
    """A wrong file changes nothing; a right one is followed, or waits for a restart."""
    with running_agent(tmp_path, "http://127.0.0.1:1") as agent:
        agent.told(b"READY=1")
        agent.config.write_text("[agent]\nwhat = 1\n")
        agent.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload_refused" in agent.log(), "the refusal")
        write_config(tmp_path, "http://127.0.0.1:2")
        agent.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in agent.log(), "the reload")

        assert "wait_for_restart=['engine']" in agent.log()


def test_it_loads_nothing_heavy() -> None:
    """Neither the gateway's rooms nor its libraries are loaded, which would cost memory."""
    program = "import sys, cortexd.agent.tap; print(*sys.modules)"
    ended = subprocess.run(  # noqa: S603 - a fixed command of this environment's own Python
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    loaded = set(ended.stdout.split())
    assert "cortexd.agent.daemon" in loaded
    heavy = {"treq", "klein", "prometheus_client", "sqlite3"}
    heavy |= {f"cortexd.{room}" for room in ("assembly", "gateway", "scheduling", "store")}
    heavy |= {f"cortexd.{room}" for room in ("upstream", "downstream", "telemetry", "control")}
    assert set() == heavy & loaded


@pytest.mark.parametrize(("extra", "status"), [("", 0), ("wrong = 1\n", 1)])
def test_a_check_shows_what_the_file_comes_to(tmp_path: Path, extra: str, status: int) -> None:
    """A check prints the parts of a right file, and one line for a wrong one."""
    config = write_config(tmp_path, "http://127.0.0.1:1", extra)
    ended = subprocess.run(  # noqa: S603 - as above
        command("--check", "--config", str(config)),
        capture_output=True,
        text=True,
        timeout=NOTIFY_SECONDS,
        check=False,
    )

    assert status == ended.returncode
    if status:
        assert f"{config}: unknown key engine.wrong; " in ended.stderr
        assert 1 == ended.stderr.count("\n")
    else:
        assert f"{config}: valid, the agent of gpu at 127.0.0.1:1\n" in ended.stdout
