"""What an operator does: ``cortexctl`` and HTTP control against the real daemon and nodes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.engine.processes import RunningNode, simulated_node
from tests.live.command_lines import END_SECONDS, Finished, cortexctl, finish, launch, next_line
from tests.live.daemons import KILLED, Daemon, eventually, running_daemon
from tests.live.streams import OpenStream

# The chat models do not fit together: the second begins unloaded.
MEMORY_MB = 12_000
CHAT, THINKER, EMBED = "acme/chat", "acme/thinker", "acme/embed"
FOOTPRINTS = "".join(
    f'[[models]]\nid = "{model}"\nvram_mb = {mb}\n'
    for model, mb in ((CHAT, 6144), (THINKER, 6144), (EMBED, 1024))
)


@pytest.fixture
def node() -> Iterator[RunningNode]:
    """Run a node of 50 tokens a second with one of its chat models loaded."""
    with simulated_node(fast=False, memory_mb=MEMORY_MB, cold=[THINKER]) as running:
        yield running


@pytest.fixture
def daemon(tmp_path: Path, node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon before it that may be controlled over HTTP too."""
    with operated(tmp_path, node, allow_http_control=True) as running:
        yield running


def operated(folder: Path, node: RunningNode, **gateway: object) -> Any:
    """Run a daemon before the node, its footprints known."""
    return running_daemon(
        folder, {"gpu": node.base_url}, gateway=gateway, extra=FOOTPRINTS, vram_mb=MEMORY_MB
    )


def ctl(daemon: Daemon, *arguments: str) -> Finished:
    """Run cortexctl to its end."""
    return cortexctl("--socket", str(daemon.control_socket), *arguments)


def answer(daemon: Daemon, *arguments: str) -> Any:
    """Return the JSON of a command that is done."""
    finished = ctl(daemon, *arguments, "--json")
    assert (0, "") == (finished.status, finished.errors)
    return json.loads(finished.output)


def begin(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    """Start a cortexctl that takes its time."""
    return launch("-m", "cortexd.ctl.main", "--socket", str(daemon.control_socket), *arguments)


def test_a_model_is_planned_loaded_and_explained(daemon: Daemon) -> None:
    """What the plan says is done, what is done is shown, and why it was done is told."""
    plan = answer(daemon, "plan", "load", THINKER)["plan"]
    assert ("gpu", [CHAT]) == (plan["node"], plan["victims"])

    loaded = answer(daemon, "load", THINKER, "--wait")
    assert plan["victims"] == loaded["plan"]["victims"]
    assert 0 < loaded["seconds"] < 30

    [latest] = answer(daemon, "why", THINKER)["decisions"]
    assert ("load", "gpu", [CHAT], "the operator requested it") == (
        latest["action"],
        latest["node"],
        latest["victims"],
        latest["reason"],
    )
    assert f"evicts {CHAT}" in latest["cost"]
    resident = {each["model"]: each["state"] for each in answer(daemon, "ps")["replicas"]}
    assert {THINKER: "loaded", EMBED: "loaded"} == resident
    models = {each["id"]: each["places"] for each in answer(daemon, "models")["models"]}
    there = {"node": "gpu", "state": "unloaded", "node_health": "up", "ejected": False}
    assert [there] == models[CHAT]
    kinds = [event["kind"] for event in answer(daemon, "events", "--model", THINKER)["events"]]
    assert ["audit", "load_started", "loaded"] == kinds


def test_people_are_shown_the_same(daemon: Daemon) -> None:
    """The tables name what the JSON has."""
    for arguments, words in (
        (("plan", "load", THINKER), f"{THINKER} would be loaded on gpu: it evicts {CHAT}"),
        (("load", THINKER, "--wait"), f"loading {THINKER} on gpu: it evicts {CHAT}"),
        (("why", THINKER), "because the operator requested it"),
        (("ps",), f"{THINKER}  gpu   loaded  6144"),
        (("models",), THINKER),
        (("nodes",), "UNLOADS"),
        (("events",), "load_started"),
    ):
        finished = ctl(daemon, *arguments)
        assert (0, "") == (finished.status, finished.errors)
        assert words in finished.output


def test_a_request_is_explained(daemon: Daemon) -> None:
    """A request that had to wait for a swap tells so by its id, and what was given up for it."""
    asked = {"model": THINKER, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    response = daemon.http.post(
        "/v1/chat/completions", json=asked, headers={"X-Request-ID": "mine-1"}, timeout=30.0
    )
    assert 200 == response.status_code

    explained = answer(daemon, "why", "mine-1")

    assert ("swapped", "gpu") == (explained["request"]["outcome"], explained["request"]["node"])
    assert [[CHAT]] == [decision["victims"] for decision in explained["decisions"]]


def test_refusals(daemon: Daemon) -> None:
    """What is refused ends with 1 and one line that says why, wrong usage with 2."""
    for arguments, words in (
        (("load", CHAT), "is already loaded on gpu"),
        (("load", "acme/chatt"), f"did you mean {CHAT}?"),
        (("unload", THINKER), "is not loaded on any node"),
        (("unpin", CHAT, "--node", "gpu"), "is not pinned on gpu"),
        (("cordon", "gpv"), "no node is called 'gpv'; the nodes are gpu"),
        (("why", "req_nothing"), "'req_nothing' is unknown"),
    ):
        finished = ctl(daemon, *arguments)
        assert (1, "") == (finished.status, finished.output), arguments
        [line] = finished.errors.splitlines()
        assert words in line
    assert 2 == ctl(daemon, "pin", CHAT).status


def test_drain(daemon: Daemon) -> None:
    """A node is drained once its last request has ended; then it can be given work again."""
    with OpenStream(daemon, CHAT, 10_000) as stream:
        stream.read_until_content()
        draining = begin(daemon, "drain", "gpu")
        assert ["gpu gets no new work\n", "1 request left on gpu\n"] == [
            next_line(draining) for _ in range(2)
        ]
        left = answer(daemon, "drain", "gpu", "--no-wait")
        assert {"node": "gpu", "cordoned": True, "leases": 1} == left
    assert (0, "gpu is drained: no request is running there\n", "") == finish(draining)
    assert "up, cordoned" in ctl(daemon, "status").output

    assert 0 == ctl(daemon, "uncordon", "gpu").status
    with OpenStream(daemon, CHAT, 3) as stream:
        stream.read_to_end()
        assert stream.is_whole


def test_unload_now_cuts_what_runs(daemon: Daemon) -> None:
    """Without --now an unload waits for the answers that run; with it they end at once."""
    with OpenStream(daemon, CHAT, 10_000) as stream:
        stream.read_until_content()
        finished = ctl(daemon, "unload", CHAT, "--now")
        assert f"unloading {CHAT} from gpu, which aborts 1 request\n" == finished.output
        stream.read_to_end()

        def is_unloaded() -> bool:
            listed = answer(daemon, "ps")["replicas"]
            return CHAT not in {each["model"] for each in listed}

        eventually(is_unloaded, "the unload")


def test_wishes_survive_a_kill(tmp_path: Path, node: RunningNode) -> None:
    """Pins and cordons that were made here are there after kill -9 and another start."""
    with operated(tmp_path, node) as first:
        assert 0 == ctl(first, "pin", CHAT, "--node", "gpu").status
        assert 0 == ctl(first, "cordon", "gpu").status
        first.expected_status = KILLED
        first.signal(signal.SIGKILL)
    with operated(tmp_path, node) as second:
        [gpu] = answer(second, "nodes")["nodes"]
        assert (True, [CHAT]) == (gpu["cordoned"], gpu["pins"])
        kinds = [event["kind"] for event in answer(second, "events")["events"]]
        assert {"pinned", "cordoned"} <= set(kinds)


def test_events_are_followed_until_ctrl_c(daemon: Daemon) -> None:
    """What happens is told within a second or two, and Ctrl-C is a good end."""
    following = begin(daemon, "events", "--follow", "--json")
    assert "node_up" == json.loads(next_line(following))["kind"]
    assert 0 == ctl(daemon, "cordon", "gpu").status
    assert "cordoned" == json.loads(next_line(following))["kind"]
    audited = json.loads(next_line(following))
    assert ("audit", "cordon") == (audited["kind"], audited["fields"]["command"])
    following.send_signal(signal.SIGINT)
    assert (0, "", "") == finish(following)


def test_events_are_followed_until_the_daemon_goes(tmp_path: Path, node: RunningNode) -> None:
    """When the daemon stops, whoever follows is told so, with status 3."""
    with operated(tmp_path, node) as stopping:
        following = begin(stopping, "events", "-f")
        assert "node_up" in next_line(following)
    ended = finish(following)
    assert (3, "") == (ended.status, ended.output)
    [line] = ended.errors.splitlines()
    assert "closed the connection" in line


def test_whoever_follows_may_have_seen_enough(daemon: Daemon) -> None:
    """A reader that leaves, such as head(1), ends what follows without a word."""
    read_end, write_end = os.pipe()
    following = launch(
        "-m",
        "cortexd.ctl.main",
        "--socket",
        str(daemon.control_socket),
        "events",
        "-f",
        stdout=write_end,
    )
    os.close(write_end)
    readable, _, _ = select.select([read_end], [], [], END_SECONDS)
    assert readable
    assert b"node_up" in os.read(read_end, 1000)
    os.close(read_end)
    assert 0 == ctl(daemon, "cordon", "gpu").status
    assert (0, "", "") == finish(following)


def test_http_control(daemon: Daemon) -> None:
    """What is in memory is told in llama-swap's and Ollama's shapes, and goes by llama-swap's."""
    running = daemon.http.get("/running").json()["running"]
    assert {(CHAT, "ready"), (EMBED, "ready")} == {(m["model"], m["state"]) for m in running}
    models = daemon.http.get("/api/ps").json()["models"]
    assert {CHAT: 6144 * 2**20, EMBED: 1024 * 2**20} == {m["name"]: m["size"] for m in models}

    assert 200 == daemon.http.post("/api/models/unload/acme%2Fchat").status_code

    def names() -> set[str]:
        return {model["name"] for model in daemon.http.get("/api/ps").json()["models"]}

    eventually(lambda: names() == {EMBED}, "the unload")
    eventually(lambda: answer(daemon, "nodes")["nodes"][0]["swap"] is None, "its end")
    unloading = daemon.http.get("/unload", headers={"Sec-Cortex-Control": "unload"}).json()[
        "unloading"
    ]
    assert [{"model": EMBED, "node": "gpu"}] == unloading
    eventually(lambda: not names(), "the unload of the rest")


def test_http_control_is_not_allowed_unless_it_is_said(tmp_path: Path, node: RunningNode) -> None:
    """By default clients may look, and are told which key would let them do more."""
    with operated(tmp_path, node) as guarded:
        refused: httpx2.Response = guarded.http.get("/unload")
        assert 403 == refused.status_code
        assert "allow_http_control" in refused.json()["error"]["message"]
        assert 2 == len(guarded.http.get("/running").json()["running"])
