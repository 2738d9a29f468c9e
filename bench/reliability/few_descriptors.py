"""The daemon may open 200 files, and 300 clients sit idle on their connections."""

from __future__ import annotations

import argparse
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException

from bench.processes import Address
from bench.reliability.daemons import daemon
from bench.reliability.scene import Figure
from bench.wire import MODEL

OPEN_FILES = 200
IDLE_CLIENTS = 300
NODES = 2
SECONDS = 10.0
ANSWER_SECONDS = 2.0
MOST_LINES = 10
BODY = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "hi"}}]}}'


def ask(address: Address) -> float | None:
    """Return the seconds until a new client has its answer, ``None`` if it gets none."""
    began = time.monotonic()
    connection = HTTPConnection(*address, timeout=ANSWER_SECONDS * 2)
    try:
        connection.request(
            "POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return time.monotonic() - began if response.status == 200 else None


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    with daemon(NODES, open_files=OPEN_FILES) as played, ExitStack() as stack:
        lines = len(played.child.output().splitlines())
        asked: list[float | None] = []
        until = time.monotonic() + SECONDS
        idle: list[socket.socket] = []
        while time.monotonic() < until:
            # Clients of a pool come back when their connection is closed.
            for _ in range(IDLE_CLIENTS - len(idle)):
                client = stack.enter_context(socket.create_connection(played.address, timeout=5))
                client.setblocking(False)
                idle.append(client)
            asked.append(ask(played.address))
            idle = [each for each in idle if is_open(each)]
            time.sleep(0.1)
        down = len(played.events("node_down"))
        failed = sum(
            played.metric(f'cortex_polls_total{{node="node-{node}",outcome="{outcome}"')
            for node in range(NODES)
            for outcome in ("failed", "timed_out")
        )
        written = len(played.child.output().splitlines()) - lines - len(asked)
    answered = [each for each in asked if each is not None]
    return [
        Figure("idle clients", IDLE_CLIENTS, ""),
        Figure("nodes down", down, "", 0),
        Figure("failed polls", failed, "", 0),
        Figure("requests of new clients", len(asked), ""),
        Figure("without an answer", len(asked) - len(answered), "", 0),
        Figure("the slowest answer", max(answered, default=SECONDS), "s", ANSWER_SECONDS),
        Figure("other lines in the log", written, "", MOST_LINES),
    ]


def is_open(client: socket.socket) -> bool:
    """Return whether the daemon has not closed the connection."""
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
