"""A reload of a running daemon: what runs and waits goes on, and a wrong file changes nothing."""

from __future__ import annotations

import json
import signal
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.certificates import write_certificate
from tests.engine.processes import RunningNode, simulated_node
from tests.live.command_lines import Finished, cortexctl, finish, launch
from tests.live.daemons import Daemon, eventually, running_daemon, write_config
from tests.live.streams import OpenStream

MODEL = "acme/chat"
STREAMS = 20
A_FEW = 5
SLOTS = f'[[models]]\nid = "{MODEL}"\nmax_concurrency = {STREAMS}\n'


def rewrite(daemon: Daemon, nodes: dict[str, str], extra: str = "", **gateway: object) -> None:
    write_config(daemon.folder, nodes, gateway, extra)


def reload(daemon: Daemon, *arguments: str) -> Finished:
    return cortexctl(*(arguments or ("reload",)), f"--socket={daemon.control_socket}")


def hang_up(daemon: Daemon, event: str) -> dict[str, Any]:
    """Send SIGHUP, and return the line of the log that says what came of it."""
    before = len(daemon.lines(event))
    daemon.process.send_signal(signal.SIGHUP)
    return eventually(lambda: daemon.lines(event)[before:], event)[0]


@pytest.fixture
def daemon(tmp_path: Path, slow_node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon before one node."""
    with running_daemon(tmp_path, {"old": slow_node.base_url}, extra=SLOTS) as running:
        yield running


def test_nodes_change_under_streams_and_a_queue(tmp_path: Path, slow_node: RunningNode) -> None:
    """The node of 20 streams leaves and another comes: no stream is cut, and the queue moves."""
    aliased = SLOTS.replace("[[models]]", '[[models]]\naliases = ["quick"]\npinned_on = ["new"]')
    with ExitStack() as stack:
        other = stack.enter_context(simulated_node(fast=False))
        daemon = stack.enter_context(
            running_daemon(tmp_path, {"old": slow_node.base_url}, extra=SLOTS)
        )
        let_go = stack.enter_context(slow_node.answers_held())
        streams = [stack.enter_context(OpenStream(daemon, MODEL, A_FEW)) for _ in range(STREAMS)]
        for stream in streams:
            stream.read_until_content()
        queued = [stack.enter_context(OpenStream(daemon, MODEL, A_FEW)) for _ in range(A_FEW)]
        eventually(lambda: _waiting(daemon) == A_FEW, "a queue")
        rewrite(daemon, {"new": other.base_url}, aliased)

        done = reload(daemon)

        assert (0, "") == (done.status, done.errors)
        assert "nodes (old): removed" in done.output
        assert "nodes (new): added" in done.output
        for stream in queued:
            stream.read_to_end()
            assert stream.is_whole
        with OpenStream(daemon, "quick", A_FEW) as by_alias:
            by_alias.read_to_end()
            assert by_alias.is_whole
        let_go()
        for stream in streams:
            stream.read_to_end()
            assert stream.is_whole
            assert "[DONE]" == stream.events()[-1]
        expected = {"old": STREAMS, "new": A_FEW + 1}
        eventually(lambda: _answered_by(daemon) == expected, "a line for each request")
        (line,) = daemon.lines("reloaded")
        assert any("nodes (old): removed" in change for change in line["changes"])
        events = reload(daemon, "events")
        for kind in ("reloaded", "node_added", "node_removed"):
            assert kind in events.output


def _waiting(daemon: Daemon) -> int:
    status = json.loads(reload(daemon, "status", "--json").output)
    return sum(model["waiting"] for model in status["waiting"])


def _answered_by(daemon: Daemon) -> dict[str, int]:
    count: dict[str, int] = {}
    for line in daemon.lines("request"):
        count[line["node"]] = count.get(line["node"], 0) + (line["status"] == 200)
    return count


def test_a_wrong_file_changes_nothing(daemon: Daemon, slow_node: RunningNode) -> None:
    """By a signal or by command: the daemon serves on, and the log and the command say why."""
    (daemon.folder / "cortex.toml").write_text("[gateway]\nhold = 5\n")

    line = hang_up(daemon, "reload_refused")

    assert "unknown key gateway.hold" in line["reason"]
    assert daemon.is_ready()
    for arguments in (["reload"], ["plan", "reload"]):
        refused = reload(daemon, *arguments)
        assert (1, "") == (refused.status, refused.output)
        assert "unknown key gateway.hold" in refused.errors
    assert ["old"] == [node["name"] for node in _nodes(daemon)]


def _nodes(daemon: Daemon) -> list[Any]:
    nodes: list[Any] = json.loads(reload(daemon, "nodes", "--json").output)["nodes"]
    return nodes


def test_a_plan_changes_nothing(daemon: Daemon, slow_node: RunningNode) -> None:
    """It says what a reload would change, also what waits for a restart."""
    rewrite(
        daemon,
        {"old": slow_node.base_url},
        SLOTS,
        hold_seconds=1,
        state_dir=str(daemon.folder / "elsewhere"),
    )

    planned = reload(daemon, "plan", "reload")

    assert 0 == planned.status
    assert "gateway.hold_seconds: 5.0 -> 1.0\n" in planned.output
    assert "takes effect at the next restart" in planned.output
    assert [] == daemon.lines("reloaded")
    assert "gateway.hold_seconds" in reload(daemon).output
    assert "gateway.hold_seconds" not in reload(daemon).output


def test_an_address_changes(daemon: Daemon, slow_node: RunningNode) -> None:
    """The new one is open before the old one closes; connections of the old one live on."""
    with slow_node.answers_held() as let_go, OpenStream(daemon, MODEL, A_FEW) as stream:
        stream.read_until_content()
        rewrite(daemon, {"old": slow_node.base_url}, SLOTS, listen="127.0.0.2:0")

        hang_up(daemon, "reloaded")

        address = daemon.lines("listening")[-1]["address"]
        assert address.startswith("127.0.0.2:")
        with urllib.request.urlopen(f"http://{address}/health", timeout=10) as answer:
            assert 200 == answer.status
        let_go()
        stream.read_to_end()
        assert stream.is_whole


def test_an_address_that_is_taken_refuses_the_reload(
    daemon: Daemon, slow_node: RunningNode
) -> None:
    """As a whole: nothing else of the file holds then."""
    taken = daemon.metrics_url.removeprefix("http://")
    rewrite(daemon, {"new": slow_node.base_url}, SLOTS, listen=taken)

    line = hang_up(daemon, "reload_refused")

    assert "gateway.listen" in line["reason"]
    assert "Address already in use" in line["reason"]
    assert ["old"] == [node["name"] for node in _nodes(daemon)]
    assert daemon.is_ready()


def test_a_renewed_certificate(tmp_path: Path, slow_node: RunningNode) -> None:
    """Under the same path: new connections get it, and a broken one refuses the reload."""
    file = tmp_path / "certificate.pem"
    first = write_certificate(file)
    listen = f"ssl:0:interface=127.0.0.1:privateKey={file}:certKey={file}"
    with running_daemon(
        tmp_path, {"old": slow_node.base_url}, gateway={"metrics_listen": listen}
    ) as daemon:
        host, _, port = daemon.metrics_url.removeprefix("http://").rpartition(":")

        def shown() -> str:
            return ssl.get_server_certificate((host, int(port)))

        assert first == shown()
        second = write_certificate(file)

        line = hang_up(daemon, "reloaded")

        assert any("gateway.metrics_listen" in change for change in line["changes"])
        assert second == shown()
        file.write_text("broken")
        assert "gateway.metrics_listen" in hang_up(daemon, "reload_refused")["reason"]
        assert second == shown()


def test_a_hangup_stops_nothing_during_the_drain(daemon: Daemon, slow_node: RunningNode) -> None:
    """The reload is refused, and the streams go on to their end."""
    with slow_node.answers_held() as let_go, OpenStream(daemon, MODEL, A_FEW) as stream:
        stream.read_until_content()
        daemon.signal(signal.SIGTERM)
        eventually(lambda: daemon.lines("draining"), "the drain")

        line = hang_up(daemon, "reload_refused")

        assert "stopping" in line["reason"]
        let_go()
        stream.read_to_end()
        assert stream.is_whole


def test_many_changes_come_in_pages(daemon: Daemon, slow_node: RunningNode) -> None:
    """More than a value of the protocol can hold is printed whole."""
    names = [f"model-{number:04}-{'x' * 40}" for number in range(900)]
    models = "".join(f'[[models]]\nid = "{name}"\n' for name in names)
    rewrite(daemon, {"old": slow_node.base_url}, SLOTS + models)

    done = reload(daemon)

    assert 0 == done.status
    assert 901 == len(done.output.splitlines())
    assert all(name in done.output for name in names)


def test_reloads_at_once(daemon: Daemon, slow_node: RunningNode) -> None:
    """Each of several commands is answered, and none sees half of another's."""
    rewrite(daemon, {"old": slow_node.base_url}, SLOTS, hold_seconds=1)
    socket = f"--socket={daemon.control_socket}"

    running = [launch("-m", "cortexd.ctl.main", "reload", socket) for _ in range(4)]

    assert [0] * 4 == [finish(each).status for each in running]
    assert daemon.is_ready()
