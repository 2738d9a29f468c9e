"""Machines of a fleet: an engine of its own on each, run by an agent, on an address of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.engine.processes import REPOSITORY, Boot, boots, held
from tests.live.daemons import ANSWER_SECONDS, STOP_SECONDS, TWISTD, eventually

Address = tuple[str, int]

ENGINE_PORT: Final = 1234
LINK_PORT: Final = 8700
GATEWAY: Final = "127.0.0.1"


def loopback_address(port: int = 0) -> Address:
    """Return an address of loopback that nothing else uses, with a port that is free there.

    A process that is started again finds its port free: the system gives nobody else this address.
    """
    host = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])  # noqa: S311 - no secret
    if not port:
        with socket.create_server((host, 0)) as probe:
            port = probe.getsockname()[1]
    return host, port


def spelt(address: Address) -> str:
    """Return an address as configurations have it."""
    return f"{address[0]}:{address[1]}"


@dataclass
class Machine:
    """A machine with an agent, and where its engine listens.

    ``folder`` has the agent's files, ``hold_folder`` those that hold up the engine or harm it.
    """

    name: str
    folder: Path
    hold_folder: Path
    engine: Address
    agent: subprocess.Popen[bytes] = field(init=False)

    @property
    def endpoint(self) -> str:
        """The URL of the engine, no slash at the end."""
        return f"http://{spelt(self.engine)}"

    def boots(self) -> list[Boot]:
        """Return the processes that the engine has had."""
        return boots(self.hold_folder)

    def living(self) -> list[int]:
        """Return the engine's processes that have not ended."""
        return [boot.pid for boot in self.boots() if _lives(boot.pid)]

    @property
    def engine_pid(self) -> int:
        """The process of the engine that was started last."""
        return self.boots()[-1].pid

    def kill_engine(self) -> int:
        """Kill the engine's process with signal 9, and return its pid."""
        pid = self.engine_pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def engine_since(self, pid: int) -> Boot | None:
        """Return the engine's process that listens now, ``None`` while it is still this one."""
        last = self.boots()[-1]
        return last if last.pid != pid and last.listened_at else None

    def poison(self) -> None:
        """Let the next work of the engine poison its device, for the life of its process."""
        (self.hold_folder / "poison").touch()

    def brick(self, model: str) -> None:
        """Reload a loaded model past the gateway, so that its id is stuck (docs/nodes.md 2.3)."""
        answer = self.ask("/v1/models/reload", {"model_id": model})
        assert "not_found" == answer["status"]

    def ask(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Ask the engine itself, past the gateway."""
        answer = httpx2.post(self.endpoint + path, json=body, timeout=ANSWER_SECONDS)
        assert 200 == answer.status_code, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def is_up(self) -> bool:
        """Tell whether the engine answers."""
        try:
            return httpx2.get(f"{self.endpoint}/health", timeout=ANSWER_SECONDS).status_code == 200
        except httpx2.TransportError:
            return False

    def answers_held(self) -> AbstractContextManager[object]:
        """Let no answer of the engine go on behind its first chunk until the block is left."""
        return held(self.hold_folder / "answers")

    def log(self) -> str:
        """Return all that the agent has logged until now."""
        return (self.folder / "stdout").read_text()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the agent's log, decoded; those of one event where it is given."""
        whole = self.log().rpartition("\n")[0].splitlines()
        decoded = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in decoded if event is None or line["event"] == event]


def engine_command(engine: Address, hold_folder: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command line of an engine node; ``arguments`` as of ``engine_arguments``."""
    host, port = engine
    command = [sys.executable, "-m", "tests.engine.node", f"--host={host}", f"--port={port}"]
    return [*command, f"--hold-folder={hold_folder}", *arguments]


def write_agent_config(
    machine_folder: Path,
    *,
    node: str,
    gateway: Address,
    engine: Address,
    command: Sequence[str],
    enrolment: Path | None = None,
    extra: str = "",
) -> Path:
    """Write the configuration of an agent that runs an engine's command; return its path.

    ``extra`` is TOML that goes to the end, in the table [engine] at first.
    """
    environment = {"PYTHONPATH": str(REPOSITORY)}
    lines = [
        "[agent]",
        f'node = "{node}"',
        f'gateway = "{spelt(gateway)}"',
        *([] if enrolment is None else [f'enrolment = "{enrolment}"']),
        "[gpu]",
        'source = "none"',
        "[engine]",
        f'endpoint = "http://{spelt(engine)}"',
        f"command = {json.dumps(list(command))}",
        f'directory = "{REPOSITORY}"',
        "environment = { " + ", ".join(f'{k} = "{v}"' for k, v in environment.items()) + " }",
        extra,
    ]
    path = machine_folder / "agent.toml"
    path.write_text("\n".join([*lines, ""]))
    return path


@contextmanager
def running_agent(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``twistd cortex-agent`` until the block is left; then it must end by itself.

    What it writes goes to the files ``stdout`` and ``stderr`` beside its configuration.
    """
    observer = "cortexd.logs.json_observer"
    command = [str(TWISTD), "-n", "--pidfile=", "--logger", observer, "cortex-agent"]
    folder = config.parent
    with (
        (folder / "stdout").open("ab") as output,
        (folder / "stderr").open("ab") as complaints,
        subprocess.Popen(  # noqa: S603 - a fixed command of this environment's own twistd
            [*command, "--config", str(config)],
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "RUNTIME_DIRECTORY": str(folder / "run")},
            stdout=output,
            stderr=complaints,
        ) as process,
    ):
        try:
            yield process
            if process.poll() is None:
                process.terminate()
                process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def kill_agent(machine: Machine) -> None:
    """Kill the agent with signal 9, and wait for its end."""
    machine.agent.kill()
    machine.agent.wait(STOP_SECONDS)


@contextmanager
def running_machine(
    folder: Path,
    name: str,
    gateway: Address,
    arguments: Sequence[str],
    *,
    engine: Address | None = None,
    enrolment: Path | None = None,
    extra: str = "",
) -> Iterator[Machine]:
    """Run an agent with its engine until the block is left; the engine must end with its agent.

    ``gateway`` is where the gateway takes agents, ``arguments`` those of ``engine_arguments``, and
    ``engine`` where the engine is to listen, ``None`` for anywhere.
    """
    own, hold = folder / name, folder / f"{name}-hold"
    own.mkdir()
    hold.mkdir()
    engine = engine or loopback_address(ENGINE_PORT)
    config = write_agent_config(
        own,
        node=name,
        gateway=gateway,
        engine=engine,
        command=engine_command(engine, hold, arguments),
        enrolment=enrolment,
        extra=extra,
    )
    machine = Machine(name, own, hold, engine)
    try:
        with running_agent(config) as machine.agent:
            eventually(lambda: _is_booted(machine), f"the start of the engine of {name}")
            yield machine
        eventually(lambda: not machine.living(), "the end of the engine", STOP_SECONDS)
    finally:
        # An agent that was killed, or has failed, leaves its engine behind.
        for pid in machine.living():
            os.kill(pid, signal.SIGKILL)


def _is_booted(machine: Machine) -> bool:
    assert machine.agent.poll() is None, (machine.folder / "stderr").read_text() + machine.log()
    return bool(machine.boots()) and machine.is_up()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
