"""The agent's unit under systemd itself, as ``contrib/systemd`` has it but for what hides files."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.supervisors.booted import BootedSystemd
from tests.engine.processes import REPOSITORY
from tests.live.agent.machines import loopback_address, spelt
from tests.live.daemons import TWISTD, eventually
from tests.live.units.test_unit_files import UNITS

AGENT, ENGINE, DROP_IN = (
    "cortex-agent.service",
    "mistralrs.service",
    "cortex-agent.service.d/supervised.conf",
)
SHOWN = """
[Unit]
DefaultDependencies=no
After=
[Service]
User=root
Group=
DynamicUser=no
SupplementaryGroups=
StateDirectory=
Environment=PYTHONPATH={repository}
StandardOutput=append:{log}
StandardError=append:{log}
WorkingDirectory={folder}
MemorySwapMax=
DevicePolicy=auto
DeviceAllow=
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
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

pytestmark = pytest.mark.skipif(
    not BootedSystemd.can_boot(), reason="needs root, Linux and systemd"
)


class Machine:
    """A machine with an agent and an engine, each with its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        host, port = loopback_address()
        self.engine = [sys.executable, "-m", "http.server", "--bind", host, str(port)]
        self.endpoint = f"http://{spelt((host, port))}"
        self.systemd = BootedSystemd(folder, "cortexd-agent-test")

    def write(self, engine: str, *drop_ins: str) -> None:
        """Write the agent's file, whose [engine] goes on with ``engine``, and the units."""
        config = self.folder / "agent.toml"
        config.write_text(
            '[agent]\nnode = "n"\ngateway = "127.0.0.1:9"\n[gpu]\nsource = "none"\n'
            f'[engine]\nendpoint = "{self.endpoint}"\n{engine}\n'
        )
        observer = "cortexd.logs.json_observer"
        twistd = f"{TWISTD} -n --pidfile= --logger {observer}"
        self._unit(AGENT, f"{twistd} cortex-agent --config {config}")
        self._unit(ENGINE, " ".join(self.engine))
        for name in drop_ins:
            shutil.copy(UNITS / name, self.systemd.units / name)

    def _unit(self, name: str, command: str) -> None:
        self.systemd.units.mkdir(exist_ok=True)
        text = (UNITS / name).read_text()
        text = re.sub(r"^ExecStart=.*", f"ExecStart={command}", text, flags=re.MULTILINE)
        (self.systemd.units / name).write_text(text)
        folder = self.systemd.units / f"{name}.d"
        folder.mkdir()
        shown = SHOWN.format(repository=REPOSITORY, log=self.folder / name, folder=self.folder)
        (folder / "zz-test.conf").write_text(shown)

    def does(self, *command: str) -> str:
        """Let systemctl do something, successfully; return what it says."""
        done = self.systemd.run("systemctl", *command)
        assert 0 == done.returncode, done.stderr + self.log()
        return done.stdout

    @property
    def is_active(self) -> bool:
        """Whether the agent has said that it is ready."""
        return self.systemd.run("systemctl", "is-active", "--quiet", AGENT).returncode == 0

    def log(self) -> str:
        """Return the log of the agent."""
        path = self.folder / AGENT
        return path.read_text() if path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the agent's log with this name."""
        lines = (line for line in self.log().rpartition("\n")[0].splitlines() if line[:1] == "{")
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def engines(self) -> list[str]:
        """Return the processes of the engine, as the machine counts them."""
        found = self.systemd.run("pgrep", "-f", "--", " ".join(self.engine[1:]))
        return found.stdout.split()


@contextmanager
def machine(folder: Path, engine: str, *drop_ins: str) -> Iterator[Machine]:
    """Boot a machine whose agent runs."""
    made = Machine(folder)
    made.write(engine.replace("COMMAND", json.dumps(made.engine)), *drop_ins)
    with made.systemd:
        yield made
    assert "traceback" not in made.log()


def test_an_engine_with_a_unit_of_its_own(tmp_path: Path) -> None:
    """The agent finds its process, sees its end at once, and finds the one that systemd starts."""
    with machine(tmp_path, f'unit = "{ENGINE}"') as made:
        made.does("start", ENGINE)
        made.does("start", AGENT)
        assert made.is_active
        (found,) = made.events("engine_found")
        assert [str(found["pid"])] == made.engines()

        made.systemd.run("kill", f"-{signal.SIGKILL}", str(found["pid"]))
        again = eventually(lambda: made.events("engine_found")[1:], "another process")
        assert [str(again[0]["pid"])] == made.engines()
        assert [found["pid"]] == [each["pid"] for each in made.events("engine_ended")]

        made.does("stop", ENGINE)
        eventually(lambda: "the unit is inactive" in made.log(), "the reason")
        made.does("restart", AGENT)


def test_an_engine_that_the_agent_runs(tmp_path: Path) -> None:
    """It outlives a restart of the agent and its death, and ends when the agent is stopped."""
    with machine(tmp_path, "command = COMMAND", DROP_IN) as made:
        made.does("start", AGENT)
        (started,) = made.events("engine_started")
        engine = [str(started["pid"])]
        assert engine == made.engines()

        made.does("restart", AGENT)
        assert engine == made.engines()
        assert 1 == len(made.events("engine_left_running"))
        made.does("kill", "--kill-whom=main", "--signal=SIGKILL", AGENT)
        eventually(lambda: made.events("engine_adopted")[1:], "the next agent")
        assert engine == made.engines()
        eventually(lambda: made.is_active, "the start")

        made.does("stop", AGENT)
        assert [] == made.engines()
        assert 1 == len(made.events("engine_started"))
