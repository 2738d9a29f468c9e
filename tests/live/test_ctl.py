"""``cortexctl`` as people run it, before control services on real sockets."""

import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cortexd import __version__
from tests.live.command_lines import END_SECONDS, cortexctl, finish, launch, next_line

# A fleet of two nodes behind a control service, which says so once it listens.
SERVER = """
import sys
from twisted.internet import reactor
from cortexd.control.server import ControlFactory
from cortexd.control.socket import control_service
from cortexd.dispatcher import Dispatcher
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.scheduler import Scheduler
from cortexd.telemetry.metrics import Metrics

now = reactor.seconds()
fleet = Fleet(
    [NodeTerms(name, f"http://{name}:8000", 80000) for name in ("large", "small")],
    {},
    Footprints(lambda node, model: 1, {}),
    default_terms=ModelTerms(32),
    now=now,
    down_after=1,
    load_timeout=60.0,
)
states = {f"org/model-{number:04}": ReplicaState.LOADED for number in range(int(sys.argv[2]))}
fleet.observe("large", Observation(created=1, replicas=states), now)
dispatcher = Dispatcher(Scheduler(fleet, SchedulingTerms()), reactor, Metrics())
factory = ControlFactory(dispatcher, None, reactor, now, {})
service = control_service(reactor, sys.argv[1], "660", factory)
service.startService()
reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
reactor.callWhenRunning(print, "ready", flush=True)
reactor.run()
"""


def launch_server(path: Path, models: int) -> subprocess.Popen[str]:
    """Start a server with so many models, and wait until it listens at the path."""
    server = launch("-c", SERVER, str(path), str(models))
    if next_line(server) != "ready\n":
        raise AssertionError(finish(server).errors)
    return server


@contextmanager
def serving(path: Path, models: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Give a server that listens at the path, with so many models, until the block ends."""
    server = launch_server(path, models)
    try:
        yield server
        server.terminate()
    finally:
        finished = finish(server)
    assert (0, "", "") == finished


def test_status(tmp_path: Path) -> None:
    """The fleet is shown to people as tables and to programs as one JSON object."""
    path = tmp_path / "run:1" / "control=.sock"
    with serving(path):
        for_people = cortexctl("--socket", str(path), "status")
        for_programs = cortexctl("status", "--json", environ={"CORTEX_SOCKET": str(path)})
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)

    assert (0, "") == (for_people.status, for_people.errors)
    assert for_people.output.startswith("NAME   HEALTH   VERSION")
    assert "\norg/model-0001  large  loaded  1    0/32    " in for_people.output
    assert (0, "") == (for_programs.status, for_programs.errors)
    [line] = for_programs.output.splitlines()
    status = json.loads(line)
    large, small = status["nodes"]
    assert ("up", "unknown") == (large["health"], small["health"])
    assert ["org/model-0000", "org/model-0001"] == [r["model"] for r in large["replicas"]]
    assert [] == status["leases"]


def test_large_fleet(tmp_path: Path) -> None:
    """A fleet of many pages arrives whole."""
    path = tmp_path / "control.sock"
    with serving(path, models=3000):
        status = json.loads(cortexctl("--socket", str(path), "status", "--json").output)

    assert 3000 == len({replica["model"] for replica in status["nodes"][0]["replicas"]})


def test_version(tmp_path: Path) -> None:
    """The version is told with the daemon's process."""
    path = tmp_path / "control.sock"
    with serving(path) as server:
        for_people = cortexctl("--socket", str(path), "version")
        for_programs = cortexctl("--socket", str(path), "version", "--json")

    assert for_people.output.startswith(f"cortexctl {__version__}")
    version = json.loads(for_programs.output)
    assert (__version__, server.pid) == (version["version"], version["pid"])


def test_no_daemon(tmp_path: Path) -> None:
    """Without a daemon the exit status is 3, and one line names the socket and says what to do."""
    missing, left_over = tmp_path / "missing.sock", tmp_path / "left-over.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left_over))
    for path in (missing, left_over):
        for run in (
            cortexctl("--socket", str(path), "status"),
            cortexctl("version", "--json", environ={"CORTEX_SOCKET": str(path)}),
        ):
            assert (3, "") == (run.status, run.output)
            [line] = run.errors.splitlines()
            assert line.startswith("cortexctl: no daemon answers")
            assert str(path) in line
            assert "systemctl start cortexd" in line


def test_silent_daemon(tmp_path: Path) -> None:
    """A daemon that hangs is given up after the timeout."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        begun = time.monotonic()
        run = cortexctl("--socket", str(path), "--timeout", "0.2", "status")

    assert (3, "") == (run.status, run.output)
    expected = f"cortexctl: the daemon at {path} did not answer within 0.2 s; "
    assert run.errors.startswith(expected)
    assert 0.2 < time.monotonic() - begun


def test_stranger(tmp_path: Path) -> None:
    """What answers in another language is refused with status 1, without a traceback."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        asking = launch("-m", "cortexd.ctl.main", "--socket", str(path), "status")
        listening.settimeout(END_SECONDS)
        connection, _address = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"\x00\x07_answer\x00\x011\x00\x00")
            run = finish(asking)

    assert (1, "") == (run.status, run.output)
    [line] = run.errors.splitlines()
    assert f"the answer from {path} cannot be understood" in line


def test_usage() -> None:
    """Wrong usage ends with 2 and says what is right; help ends with 0."""
    wrong, asked = cortexctl("levitate"), cortexctl("--help")
    assert (2, "") == (wrong.status, wrong.output)
    assert "'status'" in wrong.errors
    assert (0, "") == (asked.status, asked.errors)
    assert "exit status" in asked.output


def test_reader_leaves(tmp_path: Path) -> None:
    """A reader that has seen enough ends the output without a word."""
    path = tmp_path / "control.sock"
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with serving(path, models=3000):
            asking = launch(
                "-m", "cortexd.ctl.main", "--socket", str(path), "status", stdout=write_end
            )
            run = finish(asking)
    finally:
        os.close(write_end)

    assert (0, "", "") == run


def test_full_disk(tmp_path: Path) -> None:
    """An answer that cannot be written is a failure, told in one line."""
    path = tmp_path / "control.sock"
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with serving(path):
            asking = launch("-m", "cortexd.ctl.main", "--socket", str(path), "status", stdout=full)
            run = finish(asking)
    finally:
        os.close(full)

    assert (1, "cortexctl: cannot write the answer: No space left on device\n") == (
        run.status,
        run.errors,
    )


def test_any_locale(tmp_path: Path) -> None:
    """A terminal that knows ASCII only gets ASCII."""
    path = tmp_path / "größe.sock"
    environ = {"PYTHONIOENCODING": "ascii"}
    run = cortexctl("--socket", str(path), "status", environ=environ)
    assert 3 == run.status
    assert run.errors.isascii()


def test_restart_after_kill(tmp_path: Path) -> None:
    """What a killed daemon leaves behind does not keep the next one from listening."""
    path = tmp_path / "control.sock"
    killed = launch_server(path, models=1)
    killed.kill()
    finish(killed)
    assert path.is_socket()
    assert 3 == cortexctl("--socket", str(path), "status").status
    with serving(path):
        assert 0 == cortexctl("--socket", str(path), "status").status


def test_second_daemon(tmp_path: Path) -> None:
    """A second daemon for the same socket does not start, and the first one goes on."""
    path = tmp_path / "control.sock"
    with serving(path) as first:
        second = finish(launch("-c", SERVER, str(path), "1"))
        assert 0 == cortexctl("--socket", str(path), "status").status

    assert (1, "") == (second.status, second.output)
    last = second.errors.splitlines()[-1]
    assert f"cannot listen on the control socket {path}" in last
    assert f"says that process {first.pid} uses it" in last


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """A daemon that is told to stop hangs up on its clients and takes its socket away."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as client:
        with serving(path):
            client.connect(str(path))
            assert 0 == cortexctl("--socket", str(path), "status").status
        client.settimeout(END_SECONDS)
        assert b"" == client.recv(1)
    assert [] == list(tmp_path.iterdir())
