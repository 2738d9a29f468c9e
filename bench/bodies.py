"""What scenes with large bodies share: the bodies, a node that answers any chat, and gauges."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from bench.processes import Address, get, process_tree, resident_bytes

MEBIBYTE = 1024 * 1024
MODEL = "m"
ANSWER_SECONDS = 60.0
PING_SECONDS = 0.01
LOOK_SECONDS = 0.05
PIECE = 64 * 1024

_LISTING = {"object": "list", "data": [{"id": MODEL, "object": "model", "status": "loaded"}]}


class _Node(BaseHTTPRequestHandler):
    """Reads each body, and answers every chat with one word."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so the base calls it
        """Write no log."""

    def do_GET(self) -> None:
        """List the model."""
        self._respond("application/json", json.dumps(_LISTING).encode())

    def do_POST(self) -> None:
        """Answer."""
        left = int(self.headers["Content-Length"] or 0)
        while left:
            left -= len(self.rfile.read(min(left, PIECE)))
        if "embeddings" in self.path:
            body: Any = {"object": "list", "data": [{"index": 0, "embedding": [0.0]}]}
            self._respond("application/json", json.dumps(body).encode())
            return
        pieces = [({"role": "assistant", "content": "Hi"}, None), ({}, "stop")]
        chunks = [
            {
                "id": "1",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            }
            for delta, reason in pieces
        ]
        events = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks]
        self._respond("text/event-stream", b"".join([*events, b"data: [DONE]\n\n"]))

    def _respond(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def chat_node() -> Iterator[str]:
    """Run such a node in threads of this process; yield its endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Node)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def post(address: Address, path: str, body: bytes) -> tuple[int, bytes]:
    """POST a body; return status and answer, 0 for no answer at all."""
    connection = HTTPConnection(*address, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


class Pinger:
    """Asks for `GET /health` every 10 ms; `longest` is the longest time between two answers."""

    def __init__(self, address: Address) -> None:
        self.longest = 0.0
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ping)

    def __enter__(self) -> Pinger:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _ping(self) -> None:
        answered_at = time.monotonic()
        while not self._over.wait(PING_SECONDS):
            get(self._address, "/health")
            now = time.monotonic()
            self.longest, answered_at = max(self.longest, now - answered_at), now


class Peak:
    """The most resident memory of a process, and of it with all that it has started, in bytes."""

    bytes = 0
    with_children = 0


@contextmanager
def resident_peak(pid: int) -> Iterator[Peak]:
    """Look at a process's memory often; yield the peak so far."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                peak.bytes = max(peak.bytes, resident_bytes([pid]))
                peak.with_children = max(peak.with_children, resident_bytes(process_tree(pid)))
            except OSError:  # one of them has just ended
                continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
