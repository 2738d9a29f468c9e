"""A node that sends what nobody asked for: 3.4 kB that inflate to gigabytes, lines without end.

Each answer comes from a node of its own, which lists one model and answers every chat with it. For
each, the figures are the longest turn of the daemon's reactor while it takes the answer, in CPU
time, and the requests that did not get an error that names the node.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemons import Daemon, running_daemon
from bench.processes import get
from bench.raw_node import RawNode
from bench.reliability.scene import Figure

STALL_MS = 50.0
POLLING = "[polling]\ninterval = 2.0\ntimeout = 15.0\n"
ANSWER_SECONDS = 20.0
INFLATED_BYTES = 64 * 2**20
BLOCKS = 128
GZIP_HEAD = b"\x1f\x8b\x08" + bytes(7)
ENDLESS_BYTES = 96 * 2**20
PIECE = 64 * 1024

CHUNKED = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LISTING = b"Content-Type: application/json\r\n"

Answer = Callable[[], Iterator[bytes]]


def bomb() -> Iterator[bytes]:
    """Yield an answer of a few kilobytes that inflates to gigabytes: compressed twice over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush the same bytes inflate to the same zeros, however often they are repeated.
    block = packer.compress(bytes(INFLATED_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = GZIP_HEAD + block * BLOCKS
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(body) + packer.flush()
    yield b"Content-Type: text/event-stream\r\nContent-Encoding: gzip, gzip\r\n"
    yield b"Content-Length: %d\r\n\r\n" % len(body) + body


def endless_head() -> Iterator[bytes]:
    """Yield header lines without end."""
    for number in range(ENDLESS_BYTES // PIECE):
        yield b"".join(b"X-%d-%d: 1\r\n" % (number, each) for each in range(PIECE // 14))


def endless_line() -> Iterator[bytes]:
    """Yield one header line without end."""
    yield b"X-Long: "
    for _ in range(ENDLESS_BYTES // PIECE):
        yield b"x" * PIECE


def endless_event() -> Iterator[bytes]:
    """Yield one event without end."""
    yield CHUNKED + b"7\r\ndata: {\r\n"
    for _ in range(ENDLESS_BYTES // PIECE):
        yield b"%x\r\n" % PIECE + b"x" * PIECE + b"\r\n"


def endless_empty_data() -> Iterator[bytes]:
    """Yield one event of data lines without data, without end."""
    lines = b"data:\n" * (PIECE // 6)
    yield CHUNKED
    for _ in range(ENDLESS_BYTES // PIECE):
        yield b"%x\r\n" % len(lines) + lines + b"\r\n"


def tiny_events() -> Iterator[bytes]:
    """Yield events of a few bytes without end, each a chunk of its own."""
    yield CHUNKED
    events = b"9\r\ndata:{}\n\n\r\n" * (PIECE // 14)
    for _ in range(2 * 2**20 // PIECE):
        yield events


def dense_event() -> Iterator[bytes]:
    """Yield one event with millions of values."""
    body = b'data: {"choices":[' + b"[],[]," * (12 * 2**20 // 6) + b"[]]}\n\n"
    yield CHUNKED + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


def endless_extension() -> Iterator[bytes]:
    """Yield a chunk's size whose extension has no end."""
    yield CHUNKED + b"1;"
    for _ in range(ENDLESS_BYTES // PIECE):
        yield b"x" * PIECE


def endless_error() -> Iterator[bytes]:
    """Yield an error's body without end."""
    yield b"Content-Type: text/plain\r\n\r\n"
    for _ in range(ENDLESS_BYTES // PIECE):
        yield b"CUDA error " * (PIECE // 11)


ANSWERS: dict[str, tuple[bytes, Answer]] = {
    "bomb": (b"200 OK", bomb),
    "endless_head": (b"200 OK", endless_head),
    "endless_line": (b"200 OK", endless_line),
    "endless_event": (b"200 OK", endless_event),
    "endless_empty_data": (b"200 OK", endless_empty_data),
    "tiny_events": (b"200 OK", tiny_events),
    "dense_event": (b"200 OK", dense_event),
    "endless_extension": (b"200 OK", endless_extension),
    "endless_error": (b"500 Internal Server Error", endless_error),
}


class Node(RawNode):
    """A node that lists one model, and answers each chat in its own way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._status, answer = ANSWERS.get(name, (b"200 OK", endless_error))
        self.pieces: list[bytes] = list(answer()) if name in ANSWERS else []
        super().__init__(b"HTTP/1.1 200 OK\r\n" + self._make_listing(), self._send)

    def _send(self, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 " + self._status + b"\r\n")
        for piece in self.pieces:
            connection.sendall(piece)
        return False

    def _make_listing(self) -> bytes:
        models: list[dict[str, object]] = [
            {"id": self.name, "object": "model", "created": 1, "status": "loaded"}
        ]
        if self.name == "listing":
            models *= 60 * 2**20 // len(json.dumps(models[0]))
        body = json.dumps({"object": "list", "data": models}).encode()
        return LISTING + b"Content-Length: %d\r\n\r\n" % len(body) + body


def ask(daemon: Daemon, model: str) -> tuple[int, str]:
    """Ask for a chat; return the status and what went wrong, 0 for no answer at all."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
    with closing(HTTPConnection(*daemon.address, timeout=ANSWER_SECONDS)) as connection:
        try:
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, HTTPException) as error:
            return 0, repr(error)


def stall(daemon: Daemon, since: float) -> float:
    """Return the CPU time of the longest turn since then, in ms; all of the time if it goes on."""
    try:
        get(daemon.address, "/health")
    except (OSError, HTTPException):
        return 1000 * (time.monotonic() - since)
    return 1000 * daemon.longest_turn(since).cpu


def run(options: argparse.Namespace) -> list[Figure]:
    """Let each node send its answer once."""
    figures: list[Figure] = []
    with TemporaryDirectory() as folder:
        nodes = {name: Node(name) for name in (*ANSWERS, "listing")}
        endpoints = {name: node.endpoint for name, node in nodes.items()}
        began_at = time.monotonic()
        try:
            with running_daemon(Path(folder), endpoints, POLLING) as daemon:
                time.sleep(3.0)
                turn = daemon.longest_turn(began_at)
                figures.append(
                    Figure("listing of 60 MB: longest turn", 1000 * turn.cpu, "ms", STALL_MS)
                )
                for name in ANSWERS:
                    began_at = time.monotonic()
                    status, words = ask(daemon, name)
                    is_honest = status == 502 and f"node {name}" in words
                    if not is_honest:
                        print(name, status, words[:300])
                    figures.append(
                        Figure(f"{name}: longest turn", stall(daemon, began_at), "ms", STALL_MS)
                    )
                    figures.append(Figure(f"{name}: not 502", float(not is_honest), "", 0.0))
        finally:
            for node in nodes.values():
                node.close()
    return figures
