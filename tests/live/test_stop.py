"""The end of a daemon: in good order at a signal, in any order by a kill."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import KILLED, TWISTD, Daemon, eventually, running_daemon
from tests.live.streams import OpenStream

MODEL = "acme/chat"
A_FEW = 5
# At the slow node's 50 tokens a second.
FOREVER = 100_000
# An answer of some 5 MB, more than kernels take in for a reader that has stopped.
MANY = 2500
LONG_WORDS = " ".join(["x" * 2000] * 10)


@pytest.fixture
def daemon(tmp_path: Path, slow_node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon before a node of 50 tokens a second."""
    with running_daemon(tmp_path, {"node": slow_node.base_url}) as running:
        yield running


def refuses_connections(daemon: Daemon) -> bool:
    try:
        socket.create_connection(daemon.address, timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):
        # Reset: it was in the queue of those to be accepted when the listener closed.
        return True
    return False


def unread_stream(daemon: Daemon) -> OpenStream:
    return OpenStream(daemon, "acme/chat", MANY, text=LONG_WORDS, read_buffer=4096)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_ends_whole_before_the_daemon_does(
    daemon: Daemon, slow_node: RunningNode, number: signal.Signals
) -> None:
    """At the signal nobody else is let in, the stream goes on to its end, and the status is 0."""
    with slow_node.answers_held() as let_go, OpenStream(daemon, MODEL, A_FEW) as stream:
        stream.read_until_content()
        daemon.signal(number)
        eventually(lambda: refuses_connections(daemon), "refusal of connections")
        assert daemon.runs()
        let_go()
        stream.read_to_end()
        assert stream.is_whole
    *_, finish, done = stream.events()
    assert ("length", "[DONE]") == (finish["choices"][0]["finish_reason"], done)
    assert 0 == daemon.end()
    (line,) = daemon.lines("stopping")
    assert number.name == line["signal"]


def test_an_idle_daemon_ends_at_once(daemon: Daemon) -> None:
    """With nothing to wait for, kept connections of clients and of nodes hold nothing up."""
    assert 200 == daemon.http.get("/v1/models").status_code
    daemon.signal(signal.SIGTERM)
    # The grace is twice as long as its end is waited for.
    assert 0 == daemon.end()
    assert [] == daemon.lines("draining")


def test_a_request_on_a_kept_connection_is_refused_while_stopping(
    daemon: Daemon, slow_node: RunningNode
) -> None:
    """A client with a connection from before is told to come back later, and to reconnect."""
    with slow_node.answers_held() as let_go, OpenStream(daemon, MODEL, A_FEW) as stream:
        stream.read_until_content()
        assert 200 == daemon.http.get("/health").status_code
        daemon.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(daemon), "refusal of connections")
        answer = daemon.http.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": [], "max_tokens": 1}
        )
        assert (503, "close") == (answer.status_code, answer.headers["connection"])
        assert int(answer.headers["retry-after"]) >= 1
        assert "stopping" in answer.json()["error"]["message"]
        with pytest.raises(httpx2.ConnectError):
            daemon.http.get("/health")
        let_go()
        stream.read_to_end()
        assert stream.is_whole


def test_a_stream_beyond_the_grace_is_ended_in_band(tmp_path: Path, slow_node: RunningNode) -> None:
    """After grace_seconds a stream gets an error event, and no end that could pass for a whole."""
    with running_daemon(
        tmp_path, {"node": slow_node.base_url}, gateway={"grace_seconds": 0.5}
    ) as daemon:
        with OpenStream(daemon, MODEL, FOREVER) as stream:
            stream.read_until_content()
            daemon.signal(signal.SIGTERM)
            stream.read_to_end()
        error = stream.events()[-1]["error"]
        assert ("server_error", "overloaded") == (error["type"], error["code"])
        assert "stopping" in error["message"]
        assert not stream.is_whole
        assert 0 == daemon.end()


def test_a_second_signal_hastens(daemon: Daemon) -> None:
    """The grace of 30 seconds is over at the second signal, in-band, with status 0."""
    with OpenStream(daemon, MODEL, FOREVER) as stream:
        stream.read_until_content()
        daemon.signal(signal.SIGTERM)
        eventually(lambda: daemon.lines("draining"), "the drain")
        daemon.signal(signal.SIGTERM)
        stream.read_to_end()
    assert "error" in stream.events()[-1]
    assert 0 == daemon.end()


@pytest.mark.parametrize("grace", [30.0, 0.5], ids=["to-its-end", "cut-off"])
def test_what_a_slow_reader_has_yet_to_read_is_not_lost(
    tmp_path: Path, fast_node: RunningNode, grace: float
) -> None:
    """Bytes that wait for the client go out before the daemon ends, whichever way they end."""
    settings = {"grace_seconds": grace}
    with running_daemon(tmp_path, {"node": fast_node.base_url}, gateway=settings) as daemon:
        with unread_stream(daemon) as stream:
            stream.read_until_content()
            daemon.signal(signal.SIGTERM)
            eventually(lambda: refuses_connections(daemon), "refusal of connections")
            if grace < 1:
                eventually(lambda: daemon.lines("cutting"), "the cut")
            stream.read_to_end()
        last = stream.events()[-1]
        assert "[DONE]" == last if grace > 1 else "error" in last
        assert stream.is_whole is (grace > 1)
        assert 0 == daemon.end()


def test_a_client_that_never_reads_does_not_hold_the_daemon_up(
    tmp_path: Path, fast_node: RunningNode
) -> None:
    """When the grace is over a client that has stopped reading is left behind."""
    settings = {"grace_seconds": 0.5}
    with (
        running_daemon(tmp_path, {"node": fast_node.base_url}, gateway=settings) as daemon,
        unread_stream(daemon) as stream,
    ):
        stream.read_until_content()
        daemon.signal(signal.SIGTERM)
        assert 0 == daemon.end()


def test_systemd_hears_of_the_start_and_the_stop(tmp_path: Path, slow_node: RunningNode) -> None:
    """READY=1 comes once it listens; STOPPING=1 when the stop begins, not when it is over."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(10)
        with running_daemon(
            tmp_path,
            {"node": slow_node.base_url},
            environment={"NOTIFY_SOCKET": str(path)},
        ) as daemon:
            assert b"READY=1" in systemd.recv(4096).splitlines()
            with slow_node.answers_held() as let_go, OpenStream(daemon, MODEL, A_FEW) as stream:
                stream.read_until_content()
                daemon.signal(signal.SIGTERM)
                assert b"STOPPING=1" in systemd.recv(4096).splitlines()
                assert daemon.runs()
                let_go()
                stream.read_to_end()
                assert stream.is_whole


def test_a_killed_daemon_can_be_started_again(tmp_path: Path, slow_node: RunningNode) -> None:
    """What a kill leaves behind, the control socket with its lock, hinders no later start."""
    nodes = {"node": slow_node.base_url}
    with running_daemon(tmp_path, nodes) as killed:
        killed.signal(signal.SIGKILL)
        killed.expected_status = killed.end()
        assert KILLED == killed.expected_status
        assert killed.control_socket.exists()
    with running_daemon(tmp_path, nodes) as daemon:
        cortexctl = TWISTD.with_name("cortexctl")
        command = [str(cortexctl), "--socket", str(daemon.control_socket), "status"]
        status = subprocess.run(command, capture_output=True, timeout=20, check=False)  # noqa: S603 - our own client
        assert (0, b"") == (status.returncode, status.stderr)
        assert b"node" in status.stdout
    assert not daemon.control_socket.exists()
