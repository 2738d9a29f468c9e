"""Starts of the real daemon that other processes, living or dead, stand in the way of."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.live.daemons import START_SECONDS, STOP_SECONDS, TWISTD, eventually, write_config


@contextmanager
def background(folder: Path, config: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Start the daemon without -n, as an operator does; end it when the block is left."""
    finished = subprocess.run(  # noqa: S603 - a fixed command of this environment's own twistd
        [str(TWISTD), "cortex", "--config", str(config)],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    try:
        yield finished
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = int((folder / "twistd.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end", STOP_SECONDS)


@contextmanager
def sleeper() -> Iterator[int]:
    """Run a process that has nothing to do with the daemon."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # noqa: S603 - fixed
        yield process.pid
        process.kill()


def test_leftovers_of_a_killed_daemon_whose_id_another_process_has(tmp_path: Path) -> None:
    """Its pidfile and the lock of its control socket do not keep the next daemon from starting."""
    config = write_config(tmp_path, {"node": "http://127.0.0.1:1"})
    with sleeper() as pid:
        (tmp_path / "twistd.pid").write_text(f"{pid}\n")
        (tmp_path / "control.sock.lock").symlink_to(str(pid))
        with background(tmp_path, config) as finished:
            assert (finished.returncode, finished.stderr) == (0, "")
            assert (tmp_path / "twistd.pid").read_text() != f"{pid}\n"
            assert (tmp_path / "control.sock").is_socket()
            assert "[cortexd.services#info] listening" in (tmp_path / "twistd.log").read_text()
            assert "Starting factory" not in (tmp_path / "twistd.log").read_text()

            # This daemon lives: its own pidfile and lock count.
            with background(tmp_path, config) as second:
                assert second.returncode == 1
                assert "Another twistd server is running" in second.stderr
                # It is ended here, and the outer block finds nothing to end.


@pytest.mark.parametrize("what", ["port", "state", "control socket"])
def test_a_failed_start_in_the_background_has_a_status(tmp_path: Path, what: str) -> None:
    """Status 1 and the reason on the caller's standard error, and no pidfile that stays."""
    with socket.socket() as port, socket.socket(socket.AF_UNIX) as control:
        gateway: dict[str, object] = {}
        words = "Address already in use"
        if what == "port":
            port.bind(("127.0.0.1", 0))
            port.listen()
            gateway["listen"] = f"127.0.0.1:{port.getsockname()[1]}"
        elif what == "control socket":
            (tmp_path / "control.sock.lock").symlink_to(str(os.getpid()))
            control.bind(str(tmp_path / "control.sock"))
            control.listen()
            words = f"says that process {os.getpid()} uses it"
        config = write_config(tmp_path, {"node": "http://127.0.0.1:1"}, gateway)
        if what != "state":
            with background(tmp_path, config) as finished:
                assert finished.returncode == 1
            assert words in finished.stderr
        else:
            other = tmp_path / "other"
            other.mkdir()
            with background(tmp_path, config), background(other, config) as finished:
                assert finished.returncode == 1
                assert "another daemon (process " in finished.stderr
                assert not (other / "twistd.pid").exists()
        log = tmp_path / "twistd.log" if what != "state" else other / "twistd.log"
        assert "start_failed" in log.read_text()
        assert not (tmp_path / "twistd.pid").exists()
