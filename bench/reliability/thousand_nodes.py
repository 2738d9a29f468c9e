"""A thousand nodes with ten models each: no turn of the reactor above 50 ms, whoever asks for what.

One process serves all nodes, each on a port of its own. Two models in ten are the same on every
node, the others exist once. The figures are the CPU time of the longest turn of the daemon's
reactor while it starts, while it polls, and while clients ask for everything that grows with the
fleet; the times of those requests are beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.daemons import Daemon, running_daemon
from bench.processes import Address, Child, ChildError
from bench.reliability.scene import Figure

NODES = 1000
SHARED = 2
OWN = 8
FIRST_PORT = 20_000
STALL_MS = 50.0
START_SECONDS = 60.0
POLLED_SECONDS = 6.0
POLLING = "[polling]\ninterval = 5.0\ntimeout = 4.0\n"


def listing(number: int) -> bytes:
    """Return the models of one node."""
    models = [f"shared/model-{each}" for each in range(SHARED)]
    models += [f"own/model-{number:04}-{each}" for each in range(OWN)]
    return json.dumps(
        {
            "object": "list",
            "data": [
                {"id": model, "object": "model", "created": 1_764_000_000, "status": "loaded"}
                for model in models
            ],
        }
    ).encode()


SYSTEM = json.dumps(
    {
        "build": {"version": "0.9.2"},
        "devices": [
            {
                "kind": "cuda",
                "total_memory_bytes": 25_769_803_776,
                "available_memory_bytes": 12_884_901_888,
            }
        ],
    }
).encode()


class Node(asyncio.Protocol):
    """Answers questions about one node; its requests have no body."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the request that begins in ``data``."""
        self._transport.write(self._answers.get(data.split(b" ", 2)[1], self._answers[b""]))


def answered(body: bytes, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def serve() -> None:
    """Serve all nodes until the process ends."""
    loop = asyncio.get_running_loop()
    for number in range(NODES):
        answers = {
            b"/v1/models": answered(listing(number)),
            b"/v1/system/info": answered(SYSTEM),
            b"": answered(b"{}", "404 Not Found"),
        }
        await loop.create_server(
            lambda answers=answers: Node(answers),  # type: ignore[misc] # mypy cannot infer it
            "127.0.0.1",
            FIRST_PORT + number,
        )
    print("serving", flush=True)
    await asyncio.Event().wait()


def fetch(address: Address, path: str) -> int:
    """GET a path, however long it takes; return the bytes of the body."""
    connection = HTTPConnection(*address, timeout=START_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != HTTPStatus.OK:
            raise ChildError(f"{path} answered {response.status}: {body[:200]!r}")
        return len(body)
    finally:
        connection.close()


def control(daemon: Daemon, *words: str) -> int:
    """Run cortexctl; return the bytes that it prints."""
    command = [str(Path(sys.executable).with_name("cortexctl")), "--socket"]
    done = subprocess.run(
        [*command, str(daemon.control_socket), *words],
        check=True,
        capture_output=True,
        timeout=START_SECONDS,
    )
    return len(done.stdout)


def run(options: argparse.Namespace) -> list[Figure]:
    """Start the daemon before a thousand nodes, and ask it for all that grows with them."""
    figures: list[Figure] = []
    with TemporaryDirectory() as folder:
        nodes = Child([sys.executable, "-m", __name__], Path(folder) / "nodes.log")
        try:
            nodes.wait_until(lambda: "serving" in nodes.output(), "1,000 nodes", START_SECONDS)
            endpoints = {
                f"n{each:04}": f"http://127.0.0.1:{FIRST_PORT + each}" for each in range(NODES)
            }
            with running_daemon(Path(folder), endpoints, POLLING) as daemon:
                measure(daemon, figures)
        finally:
            nodes.stop()
    return figures


def measure(daemon: Daemon, figures: list[Figure]) -> None:
    """Add the figures of a daemon that has just begun to serve."""

    def longest(what: str, work: Callable[[], object]) -> None:
        began_at = time.monotonic()
        work()
        seconds = time.monotonic() - began_at
        fetch(daemon.address, "/health")  # the turn that answered has ended
        turn = daemon.longest_turn(began_at)
        figures.append(Figure(f"{what}: longest turn", 1000 * turn.cpu, "ms", STALL_MS))
        figures.append(Figure(f"{what}: took", 1000 * seconds, "ms"))

    longest("first polls", lambda: wait_until_ready(daemon))
    longest("polls", lambda: time.sleep(POLLED_SECONDS))
    for path in ("/v1/models", "/v1/models", "/api/ps", "/running", "/ready"):
        longest(path, lambda path=path: fetch(daemon.address, path))  # type: ignore[misc] # mypy cannot infer it
    longest("one of /v1/models", lambda: fetch(daemon.address, "/v1/models/own/model-0500-3"))
    longest("/metrics", lambda: fetch(daemon.metrics, "/metrics"))
    longest("/metrics", lambda: fetch(daemon.metrics, "/metrics"))
    for words in ("status", "models", "nodes"):
        longest(f"cortexctl {words}", lambda words=words: control(daemon, words))  # type: ignore[misc] # mypy cannot infer it
    printed = control(daemon, "models")
    figures.append(Figure("cortexctl models: printed", printed / 2**20, "MiB", 4.0))


def wait_until_ready(daemon: Daemon) -> None:
    """Wait until every node has been polled."""

    def is_ready() -> bool:
        connection = HTTPConnection(*daemon.address, timeout=START_SECONDS)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == HTTPStatus.OK
        finally:
            connection.close()

    daemon.child.wait_until(is_ready, "readiness", START_SECONDS)


if __name__ == "__main__":
    os.nice(1)
    asyncio.run(serve())
