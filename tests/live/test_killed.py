"""A daemon that is killed while it moves models, and the one that is started after it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.engine.processes import REPOSITORY, held
from tests.live.command_lines import next_line
from tests.live.daemons import (
    ANSWER_SECONDS,
    KILLED,
    STOP_SECONDS,
    TWISTD,
    Daemon,
    eventually,
    running_daemon,
)
from tests.live.streams import CHAT, OpenStream

# Two alike nodes on ports of their own. A third port tells what they did, and is told at what entry
# of node a's journal a process is to be killed. The memory of an unloaded model comes back after
# the daemon that was killed, while the next one is up already. While there is a certain file no
# load ends.
NODES = """
import json
import os
import signal
import sys
from pathlib import Path
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import Site
from cortexd.testing import SimulatedModel, SimulatedNode

MODELS = [
    SimulatedModel(id="acme/pinned", size_mb=3_000),
    SimulatedModel(id="acme/chat", size_mb=4_000),
    SimulatedModel(id="acme/light", size_mb=3_000, load_seconds=0.1, loaded=False),
    SimulatedModel(id="acme/heavy", size_mb=5_000, load_seconds=0.1, loaded=False),
    SimulatedModel(id="acme/slow", size_mb=12_000, load_seconds=0.1, loaded=False),
]

class Journals(Resource):
    isLeaf = True

    def __init__(self, nodes):
        self.nodes = nodes

    def render_GET(self, request):
        told = {
            node.name: {
                **vars(node.journal.report()),
                "entries": [[entry.kind, entry.model] for entry in node.journal],
                "asked": [entry.model for entry in node.journal.requests("/v1/chat/completions")],
            }
            for node in self.nodes
        }
        return json.dumps(told, default=repr).encode()

    def render_POST(self, request):
        order = json.load(request.content)
        journal = self.nodes[0].journal
        record = journal.record

        def record_and_kill(at, kind, model="", **detail):
            record(at, kind, model, **detail)
            if [kind, model] == order["entry"]:
                os.kill(order["process"], signal.SIGKILL)

        journal.record = record_and_kill
        return b""

async def serve(reactor):
    nodes = [
        SimulatedNode(reactor, name=name, models=MODELS, memory_mb=24_576, token_seconds=0.02)
        for name in ("a", "b")
    ]
    for node in nodes:
        node.faults.free_delay_seconds = 1.5
        node.faults.holds_loads = Path(sys.argv[1]).exists
    ports = [await node.listen(reactor) for node in nodes]
    site = Site(Journals(nodes))
    site.log = lambda request: None
    ports.append(reactor.listenTCP(0, site, interface="127.0.0.1").getHost().port)
    print(json.dumps([f"http://127.0.0.1:{port}" for port in ports]), flush=True)
    await Deferred()

react(lambda reactor: Deferred.fromCoroutine(serve(reactor)))
"""

# What acme/light and acme/heavy take has to be learned.
EXTRA = """
[scheduling]
max_wait = 0.5
[[models]]
id = "acme/pinned"
vram_mb = 3000
[[models]]
id = "acme/chat"
vram_mb = 4000
[[models]]
id = "acme/slow"
vram_mb = 12000
"""


@dataclass(frozen=True)
class Nodes:
    """Two nodes that run, a and b: ``urls`` by name, and where their journals are told.

    While the file ``hold`` is there no load ends.
    """

    urls: Mapping[str, str]
    journals_url: str
    hold: Path

    def journal(self, node: str) -> dict[str, Any]:
        """Return a node's report, kind and model of its ``entries``, and the models ``asked``."""
        answer = httpx2.get(self.journals_url, timeout=ANSWER_SECONDS)
        told: dict[str, Any] = answer.json()[node]
        return told

    def kill_at(self, kind: str, model: str, daemon: Daemon) -> None:
        """Have the daemon killed by node a the moment it has such an entry."""
        daemon.is_stopping = True
        order = {"entry": [kind, model], "process": daemon.process.pid}
        httpx2.post(self.journals_url, json=order, timeout=ANSWER_SECONDS).raise_for_status()

    def has(self, kind: str, model: str) -> bool:
        """Tell whether node a's journal has such an entry."""
        return [kind, model] in self.journal("a")["entries"]


@contextmanager
def running_nodes(folder: Path) -> Iterator[Nodes]:
    """Run two simulated nodes in a process of their own."""
    hold = folder / "hold"
    with subprocess.Popen(  # noqa: S603 - a fixed script under this environment's own Python
        [sys.executable, "-c", NODES, str(hold)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            a, b, journals = json.loads(next_line(process))
            yield Nodes({"a": a, "b": b}, journals, hold)
        finally:
            process.kill()
            process.wait(STOP_SECONDS)


def cortexctl(daemon: Daemon, *arguments: str) -> str:
    """Run cortexctl, which must succeed, and return what it prints."""
    command = [str(TWISTD.with_name("cortexctl")), "--socket", str(daemon.control_socket)]
    done = subprocess.run(  # noqa: S603 - our own client
        [*command, *arguments], capture_output=True, timeout=20, check=False, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def ask(daemon: Daemon, model: str) -> httpx2.Response:
    """Ask a model for a word."""
    messages = [{"role": "user", "content": "hi"}]
    return daemon.http.post(CHAT, json={"model": model, "messages": messages, "max_tokens": 1})


def wait_for_its_kill(daemon: Daemon) -> None:
    daemon.expected_status = daemon.end()
    assert KILLED == daemon.expected_status


@contextmanager
def first_daemon(folder: Path, nodes: Nodes) -> Iterator[Daemon]:
    """Run a daemon that has cordoned node b, pinned a model and learned two footprints on node a.

    For acme/slow it must give something up there: acme/pinned would do, and nobody has ever used
    it; of the others acme/chat is the one not used for longest.
    """
    with running_daemon(folder, nodes.urls, extra=EXTRA) as daemon:
        cortexctl(daemon, "cordon", "b")
        cortexctl(daemon, "pin", "acme/pinned", "--node", "a")
        for model in ("acme/chat", "acme/light", "acme/heavy"):
            assert 200 == ask(daemon, model).status_code
        yield daemon


@contextmanager
def second_daemon(folder: Path, nodes: Nodes) -> Iterator[Daemon]:
    """Run another in its place, which must serve at once, remember, and do nothing wrong.

    After the block it must bring acme/slow, on node a, where it must have been loaded once.
    """
    with running_daemon(folder, nodes.urls, extra=EXTRA) as daemon:
        assert 200 == ask(daemon, "acme/pinned").status_code
        yield daemon
        a, b = json.loads(cortexctl(daemon, "status", "--json"))["nodes"]
        assert (["acme/pinned"], False) == (a["pins"], a["cordoned"])
        assert ([], True) == (b["pins"], b["cordoned"])
        booked = {replica["model"]: replica["footprint_mb"] for replica in a["replicas"]}
        # If it knew neither, they would share what both take.
        assert (3000, 5000) == (booked["acme/light"], booked["acme/heavy"])
        answer = ask(daemon, "acme/slow")
        assert (200, "a") == (answer.status_code, answer.headers["X-Cortex-Node"])
        assert 200 == ask(daemon, "acme/pinned").status_code
    journal = nodes.journal("a")
    assert {"acme/light": 1, "acme/heavy": 1, "acme/slow": 1} == journal["loads"]
    assert {"acme/chat": 1} == journal["unloads"]
    wrong = ("failed_loads", "wrong_reloads", "overlapping_loads", "cut_answers", "stray_requests")
    assert {} == {name: journal[name] for name in wrong if journal[name]}
    journal = nodes.journal("b")
    assert ({}, {}, []) == (journal["loads"], journal["unloads"], journal["asked"])


def test_killed_during_a_load(tmp_path: Path) -> None:
    """The load that goes on without us is waited for, and not begun again."""
    with running_nodes(tmp_path) as nodes, ExitStack() as stack:
        with first_daemon(tmp_path, nodes) as killed:
            let_go = stack.enter_context(held(nodes.hold))
            nodes.kill_at("load_started", "acme/slow", killed)
            with OpenStream(killed, "acme/slow", tokens=1):
                wait_for_its_kill(killed)
        with second_daemon(tmp_path, nodes):
            assert not nodes.has("load_done", "acme/slow")
            let_go()


def test_killed_during_an_unload(tmp_path: Path) -> None:
    """An unload whose memory nobody has waited for leaves a fleet that can be used."""
    with running_nodes(tmp_path) as nodes:
        with first_daemon(tmp_path, nodes) as killed:
            nodes.kill_at("unload", "acme/chat", killed)
            with OpenStream(killed, "acme/slow", tokens=1):
                wait_for_its_kill(killed)
        assert not nodes.has("load_started", "acme/slow")
        with second_daemon(tmp_path, nodes):
            pass


def test_killed_before_an_unload(tmp_path: Path) -> None:
    """A model that was given no more requests, so that it could go, is given them again."""
    used = ("acme/chat", "acme/light", "acme/heavy")
    with running_nodes(tmp_path) as nodes:
        with ExitStack() as streams, first_daemon(tmp_path, nodes) as killed:
            for model in used:
                stream = streams.enter_context(OpenStream(killed, model, tokens=10_000))
                stream.read_until_content()
            streams.enter_context(OpenStream(killed, "acme/slow", tokens=1))
            eventually(lambda: drains(killed), "a victim that drains")
            killed.signal(signal.SIGKILL)
            wait_for_its_kill(killed)
        with second_daemon(tmp_path, nodes) as daemon:
            for model in used:
                assert "resident" == ask(daemon, model).headers["X-Cortex-Decision"]


def drains(daemon: Daemon) -> bool:
    """Tell whether some model gets no more requests, so that it can go."""
    return "draining" in [line["after"] for line in daemon.lines("replica_changed")]
