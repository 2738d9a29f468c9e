"""Real processes under an agent: how they are started, read and ended, whatever they do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes import REPOSITORY
from tests.live.daemons import ANSWER_SECONDS, STOP_SECONDS, eventually

WORDS = "ready"
FLOOD_MB = 100
MOST_GROWTH_MB = 12


class Controlled:
    """A process that controls an engine; ``folder`` has the files of both."""

    def __init__(self, folder: Path, **terms: Any) -> None:
        self.folder = folder
        given = {"run_directory": str(folder / "run"), "port": 1, **terms}
        self.log_path = folder / "log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "tests.live.agent.control_process", json.dumps(given)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ask(self, *order: object) -> Any:
        """Give an order and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.log_path.read_text()
        name, result = json.loads(answer)
        return result if name == order[0] else f"{name}: {result}"

    def state(self) -> dict[str, Any]:
        """Return what the agent sees."""
        state: dict[str, Any] = self.ask("state")
        return state

    def engine(self, *, besides: int = 0) -> int:
        """Wait for an engine that is another process than ``besides``, and return its number."""

        def found() -> int:
            pids = self.state()["pids"]
            return pids[0] if pids and pids[0] != besides else 0

        return eventually(found, "an engine")

    def prints(self, words: str = WORDS) -> None:
        """Wait until the engine has printed a line."""
        eventually(lambda: words in self.ask("tail", 100), words)

    def stop(self) -> None:
        """Stop the agent in good order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End the agent without any warning."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the agent's log with this name."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]


@contextmanager
def controlled(folder: Path, **terms: Any) -> Iterator[Controlled]:
    """Control an engine; at the end no process of it may be left."""
    made = Controlled(folder, **terms)
    try:
        yield made
        if made.process.poll() is None:
            made.stop()
        assert "traceback" not in made.log_path.read_text()
        assert [] == family(folder)
    finally:
        made.kill()
        for pid in family(folder):
            os.kill(pid, signal.SIGKILL)


def family(folder: Path) -> list[int]:
    """Return the processes of an engine, by the variable that they have."""
    wanted = f"CORTEX_AGENT_ENGINE={folder / 'run'}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def script(text: str) -> list[str]:
    """Return an engine that is a script of the shell, which says when it is ready."""
    return ["/bin/sh", "-c", text.replace("READY", f"echo {WORDS}")]


def test_an_engine_that_is_killed_is_back(tmp_path: Path) -> None:
    """With a process of its own session; the reason said how the last one ended."""
    with controlled(tmp_path, command=script("READY; exec sleep 1000")) as made:
        first = made.engine()
        made.prints()
        assert first == os.getsid(first) == os.getpgid(first)
        began_at = time.monotonic()
        os.kill(first, signal.SIGKILL)
        second = made.engine(besides=first)
        assert time.monotonic() - began_at < ANSWER_SECONDS
        assert [second] == family(tmp_path)
        assert 1 == made.state()["restarts"]
        (ended,) = made.events("engine_ended")
        assert "was ended by SIGKILL" in ended["reason"]


def test_everything_of_an_engine_is_ended(tmp_path: Path) -> None:
    """A child that ignores SIGTERM, and a grandchild that has left the session, go too."""
    text = """
    (trap '' TERM; while :; do sleep 1; done) &
    setsid sh -c "trap '' TERM; while :; do sleep 1; done" &
    READY
    trap 'exit 0' TERM
    while :; do sleep 0.1; done
    """
    with controlled(tmp_path, command=script(text), stop_seconds=0.5) as made:
        made.prints()
        first = made.engine()
        old = family(tmp_path)
        assert len(old) >= 3
        assert isinstance(made.ask("restart", "1", 30.0), float)
        assert first != made.engine(besides=first)
        assert set() == set(old) & set(family(tmp_path))


def test_children_that_outlive_a_killed_engine_are_ended(tmp_path: Path) -> None:
    """Before the next one starts, so that it finds its port and its memory free."""
    with controlled(tmp_path, command=script("sleep 1000 & READY; wait")) as made:
        made.prints()
        first = made.engine()
        (child,) = [pid for pid in family(tmp_path) if pid != first]
        os.kill(first, signal.SIGKILL)
        made.engine(besides=first)
        assert child not in family(tmp_path)


def test_an_engine_that_flaps_is_given_up(tmp_path: Path) -> None:
    """An order starts it again."""
    flag = tmp_path / "works"
    text = f"test -e {flag} && exec sleep 1000; exit 3"
    with controlled(tmp_path, command=script(text), start_limit=3) as made:
        eventually(lambda: made.state()["given_up"], "the end of all starts")
        assert 3 == made.state()["restarts"]
        assert "the engine ended with status 3" in made.state()["reason"]
        flag.touch()
        assert isinstance(made.ask("restart", "1", 30.0), float)
        assert not made.state()["given_up"]


def test_an_engine_that_closes_its_output(tmp_path: Path) -> None:
    """It counts as running, and its end is seen."""
    text = "READY; exec >&- 2>&-; exec sleep 1000"
    with controlled(tmp_path, command=script(text)) as made:
        made.prints()
        first = made.engine()
        os.kill(first, signal.SIGTERM)
        assert made.engine(besides=first)


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    """The reason is the system's."""
    with controlled(tmp_path, command=["/nonexistent/engine"], start_limit=1) as made:
        eventually(lambda: made.state()["given_up"], "the end of all starts")
        assert made.state()["reason"].startswith(
            "the engine cannot be started: cannot run /nonexistent/engine: No such file"
        )


def test_a_port_that_another_process_has(tmp_path: Path) -> None:
    """The reason says which one, so that an operator can end it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with controlled(tmp_path, command=script("exit 1"), start_limit=1, port=port) as made:
            eventually(lambda: made.state()["given_up"], "the end of all starts")
            words = f"its port {port} is in use by process {os.getpid()} ("
            assert words in made.state()["reason"]


def test_a_flood_of_output(tmp_path: Path) -> None:
    """The agent answers meanwhile, its memory stays flat, and the engine is not held up."""
    program = f"""
import os, time
line = b"x" * 99 + b"\\n"
os.write(1, b"{WORDS}\\n")
while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
for _ in range({FLOOD_MB}): os.write(1, line * 10486)
os.write(1, b"a" * {FLOOD_MB} * 1024 * 1024 + b"\\n")
os.write(1, b"done\\n")
time.sleep(1000)
"""
    with controlled(tmp_path, command=[sys.executable, "-c", program]) as made:
        made.prints()
        before = made.state()["memory"]
        (tmp_path / "go").touch()
        asked, longest = 0, 0.0
        while "done" not in made.ask("tail", 1):
            began_at = time.monotonic()
            made.state()
            longest = max(longest, time.monotonic() - began_at)
            asked += 1
        assert asked > 3
        assert longest < ANSWER_SECONDS
        assert made.state()["memory"] - before < MOST_GROWTH_MB
        assert made.ask("tail", 2)[0].endswith(" bytes more]")
        assert made.events("engine_lines_left_out")
        assert made.log_path.stat().st_size < FLOOD_MB * 1024 * 1024 / 4


def test_an_agent_that_is_killed_leaves_its_engine(tmp_path: Path) -> None:
    """The next one takes charge of it, reads what it wrote meanwhile, and sees its end."""
    go = tmp_path / "go"
    text = f"READY; while ! test -e {go}; do sleep 0.1; done; echo alone; exec sleep 1000"
    first = Controlled(tmp_path, command=script(text))
    try:
        first.prints()
        engine = first.engine()
    finally:
        first.kill()
    assert [engine] == [pid for pid in family(tmp_path) if pid == engine]
    go.touch()
    with controlled(tmp_path, command=script(text)) as made:
        assert engine == made.engine()
        made.prints("alone")
        os.kill(engine, signal.SIGKILL)
        assert made.engine(besides=engine)
        assert isinstance(made.ask("restart", "1", 30.0), float)


@pytest.mark.parametrize("does", [True, False])
def test_a_restart_command(tmp_path: Path, does: bool) -> None:
    """The engine is another process afterwards, or the restart fails in words."""
    pid_file = tmp_path / "pid"
    start = f"{{ CORTEX_AGENT_ENGINE={tmp_path / 'run'} sleep 1000 & echo $! > {pid_file}; }}"
    command = f"kill -9 $(cat {pid_file}); {start}" if does else "echo refused; exit 4"
    subprocess.run(["/bin/sh", "-c", start], check=True)  # noqa: S603 - a fixed script
    terms = {"restart_command": script(command), "pid_file": str(pid_file), "command": []}
    made = Controlled(tmp_path, **terms)
    try:
        first = made.engine()
        answer = made.ask("restart", "1", 30.0)
        if does:
            assert isinstance(answer, float), answer
            second = made.engine(besides=first)
            os.kill(second, signal.SIGKILL)
            eventually(lambda: not made.state()["pids"], "the end of the engine")
            assert f"the process {second} has ended" in made.state()["reason"]
        else:
            assert "failed: restart_command: /bin/sh ended with status 4: refused" == answer
            assert first == made.engine()
    finally:
        made.kill()
        for pid in family(tmp_path):
            os.kill(pid, signal.SIGKILL)
