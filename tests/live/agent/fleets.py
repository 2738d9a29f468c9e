"""What a daemon says of its nodes, and what it answers, in tests of agents."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.live.daemons import ANSWER_SECONDS, TWISTD, Daemon
from tests.live.streams import CHAT, question

CTL_SECONDS = 30.0
# A request may wait for a load, on a busy machine.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.1


def cortexctl(daemon: Daemon, *arguments: str) -> str:
    """Run cortexctl, which must succeed, and return what it prints."""
    command = [str(TWISTD.with_name("cortexctl")), "--socket", str(daemon.control_socket)]
    done = subprocess.run(  # noqa: S603 - our own client
        [*command, *arguments], capture_output=True, timeout=CTL_SECONDS, check=False, text=True
    )
    assert (0, "") == (done.returncode, done.stderr), f"{done.stderr} {done.stdout}"
    return done.stdout


def node_status(daemon: Daemon, node: str) -> dict[str, Any]:
    """Return a node's summary."""
    nodes = json.loads(cortexctl(daemon, "status", "--json"))["nodes"]
    found: dict[str, Any] = next(each for each in nodes if each["name"] == node)
    return found


def loaded(daemon: Daemon, node: str) -> list[str]:
    """Return the models that a node has loaded, sorted."""
    found = daemon.http.get("/running").json()["running"]
    return sorted(
        each["model"] for each in found if (each["node"], each["state"]) == (node, "ready")
    )


def gauge(daemon: Daemon, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels, 0 without any."""
    # A client that checks certificates reads those of all authorities first, in 50 ms of CPU time.
    url = f"{daemon.metrics_url}/metrics"
    text = httpx2.get(url, timeout=ANSWER_SECONDS, verify=False).text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    samples = [
        line.rpartition(" ")
        for line in text.splitlines()
        if line.startswith((f"{name}{{", f"{name} "))
    ]
    return sum(
        float(value) for series, _, value in samples if all(each in series for each in wanted)
    )


def has_agent(daemon: Daemon, node: str) -> bool:
    """Tell whether a node's agent is connected, by the metrics."""
    return gauge(daemon, "cortex_agent_up", node=node) == 1


def restarts_done(daemon: Daemon, node: str) -> float:
    """Return how many planned restarts of a node have ended well."""
    return gauge(daemon, "cortex_node_planned_restarts_total", node=node, result="ok")


def ask(daemon: Daemon, model: str, path: str = CHAT) -> httpx2.Response:
    """Ask a model for a word, in the dialect of the path."""
    return daemon.http.post(path, json={**question(path, model, "hi", 1), "stream": False})


@contextmanager
def asking(daemon: Daemon, models: Sequence[str], clients: int = 10) -> Iterator[Counter[str]]:
    """Let clients ask for the models in turn until the block is left; give the ends by their kind.

    An answer that is whole counts as "ok", and any other by its status and text.
    """
    ends: Counter[str] = Counter()
    is_over = threading.Event()
    lock = threading.Lock()

    def play(number: int) -> None:
        turn = number
        with httpx2.Client(base_url=daemon.base_url, timeout=PATIENCE_SECONDS) as http:
            while not is_over.wait(PAUSE_SECONDS):
                body = {**question(CHAT, models[turn % len(models)], "hi", 1), "stream": False}
                end = _end(http, body)
                with lock:
                    ends[end] += 1
                turn += 1

    threads = [threading.Thread(target=play, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _end(http: httpx2.Client, body: dict[str, Any]) -> str:
    try:
        answer = http.post(CHAT, json=body)
    except httpx2.TransportError as error:
        return repr(error)
    return "ok" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
