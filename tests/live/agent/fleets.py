"""What a daemon says of its nodes, and what it answers, in tests of agents."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx2

from tests.live.daemons import TWISTD, Daemon
from tests.live.streams import CHAT, question

CTL_SECONDS = 30.0


def cortexctl(daemon: Daemon, *arguments: str) -> str:
    """Run cortexctl, which must succeed, and return what it prints."""
    command = [str(TWISTD.with_name("cortexctl")), "--socket", str(daemon.control_socket)]
    done = subprocess.run(  # noqa: S603 - our own client
        [*command, *arguments], capture_output=True, timeout=CTL_SECONDS, check=False, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def node_status(daemon: Daemon, node: str) -> dict[str, Any]:
    """Return a node's summary."""
    nodes = json.loads(cortexctl(daemon, "status", "--json"))["nodes"]
    found: dict[str, Any] = next(each for each in nodes if each["name"] == node)
    return found


def states(daemon: Daemon, node: str) -> dict[str, str]:
    """Return the states of a node's models."""
    return {each["model"]: each["state"] for each in node_status(daemon, node)["replicas"]}


def tells(daemon: Daemon, node: str, field: str) -> Any:
    """Return a field of a node's summary, ``None`` while it has none."""
    return node_status(daemon, node).get(field)


def ask(daemon: Daemon, model: str, path: str = CHAT) -> httpx2.Response:
    """Ask a model for a word, in the dialect of the path."""
    return daemon.http.post(path, json={**question(path, model, "hi", 1), "stream": False})
