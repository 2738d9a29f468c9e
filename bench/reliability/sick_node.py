"""A sick node beside a good one, before eight clients in a loop: how many requests fail.

Three pairs of nodes play, each with a model and eight clients of its own: first one pair, and then
the two others. One sick node answers 500 at once, in words that name no cause; one resets each
connection; one fails every other request. The good nodes answer after a tenth of a second, so that
a sick node is always the one with the fewest requests.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemons import running_daemon
from bench.processes import Address
from bench.raw_node import RawNode
from bench.reliability.scene import Figure

CLIENTS = 8
PLAY_SECONDS = 20.0
GOOD_SECONDS = 0.1
ANSWER_SECONDS = 10.0
MOST_FAILED_PERCENT = 1.0

CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}],
}
STREAM = b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(CHUNK).encode()
BROKEN = b'{"message":"the engine fell over"}'


class Node(RawNode):
    """A node that lists one model; ``answer`` writes to a connection what it answers a chat."""

    def __init__(self, model: str, answer: Callable[[socket.socket], None]) -> None:
        listed = [{"id": model, "object": "model", "created": 1, "status": "loaded"}]
        body = json.dumps({"object": "list", "data": listed}).encode()
        self.chats = 0

        def count(connection: socket.socket) -> bool:
            self.chats += 1
            answer(connection)
            return True

        super().__init__(whole(b"200 OK", b"application/json", body), count)


def whole(status: bytes, kind: bytes, body: bytes) -> bytes:
    """Return a whole answer."""
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def send(connection: socket.socket, status: bytes, kind: bytes, body: bytes) -> None:
    """Send a whole answer."""
    connection.sendall(whole(status, kind, body))


def answer_well(connection: socket.socket) -> None:
    """Answer as a good node does, after a while."""
    time.sleep(GOOD_SECONDS)
    send(connection, b"200 OK", b"text/event-stream", STREAM)


def fail_at_once(connection: socket.socket) -> None:
    """Answer 500, in words that name no cause."""
    send(connection, b"500 Internal Server Error", b"application/json", BROKEN)


def reset(connection: socket.socket) -> None:
    """Reset the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    raise ConnectionAbortedError


class FailHalf:
    """Fail every other request."""

    def __init__(self) -> None:
        self._asked = 0

    def __call__(self, connection: socket.socket) -> None:
        """Answer one request."""
        self._asked += 1
        (fail_at_once if self._asked % 2 else answer_well)(connection)


SICK: dict[str, Callable[[socket.socket], None]] = {
    "fails_at_once": fail_at_once,
    "resets": reset,
    "fails_half": FailHalf(),
}


TURNS = (("fails_at_once",), ("resets", "fails_half"))
"""The pairs that play at the same time: each for so long, but all within a minute."""


def ask(address: Address, model: str) -> str:
    """Ask for a chat, and return how it ended in a word."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
    with closing(HTTPConnection(*address, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request(
                "POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            is_whole = b'"yes"' in response.read()
        except (OSError, HTTPException) as error:
            return type(error).__name__
    return "answered" if response.status == 200 and is_whole else str(response.status)


def play(address: Address, model: str, ends: Counter[str], until: float) -> None:
    """Ask one chat after the other."""
    while time.monotonic() < until:
        ends[ask(address, model)] += 1


def run(options: argparse.Namespace) -> list[Figure]:
    """Play all pairs."""
    figures: list[Figure] = []
    nodes: dict[str, Node] = {}
    for model, answer in SICK.items():
        nodes[f"{model}-sick"] = Node(model, answer)
        nodes[f"{model}-good"] = Node(model, answer_well)
    endpoints = {name: node.endpoint for name, node in nodes.items()}
    ends: dict[str, Counter[str]] = {model: Counter() for model in SICK}
    try:
        with (
            TemporaryDirectory() as folder,
            running_daemon(Path(folder), endpoints, path="/ready") as daemon,
        ):
            for models in TURNS:
                until = time.monotonic() + PLAY_SECONDS
                clients = [
                    threading.Thread(target=play, args=(daemon.address, model, ends[model], until))
                    for model in models
                    for _ in range(CLIENTS)
                ]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
    finally:
        for node in nodes.values():
            node.close()
    for model, counted in ends.items():
        asked = counted.total()
        failed = asked - counted["answered"]
        share = 100 * failed / asked
        print(model, dict(counted), f"{nodes[f'{model}-sick'].chats} reached the sick node")
        figures.append(Figure(f"{model}: requests", asked, ""))
        figures.append(Figure(f"{model}: failed", share, "%", MOST_FAILED_PERCENT))
    return figures
