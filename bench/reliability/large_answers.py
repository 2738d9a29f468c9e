"""The worst whole answers and events of a node that the limits let through, one after the other.

Each comes from one node, as the answer to a request of its route. For each, the figure is the
longest turn of the daemon's reactor in CPU time, and for all together those that did not come back
as they should.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import MEBIBYTE, MODEL, PIECE, post
from bench.daemons import running_daemon
from bench.processes import get
from bench.reliability.scene import Figure

STALL_MS = 50.0
LISTING = b'{"object":"list","data":[{"id":"%b","object":"model","status":"loaded"}]}'
VECTOR = b'{"object":"embedding","index":0,"embedding":[%b]}' % b",".join([b"0.123456789"] * 1024)
CHOICE = b'{"index":0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}'
DELTA = b'{"index":0,"delta":{"role":"assistant","content":"%b"},"finish_reason":null}'
CHUNK = b'data: {"id":"1","object":"chat.completion.chunk","choices":[%b]}\n\n'
LAST = CHUNK % b'{"index":0,"delta":{},"finish_reason":"stop"}' + b"data: [DONE]\n\n"

EXPECTED = (HTTPStatus.OK, HTTPStatus.BAD_GATEWAY)
"""An answer beyond a limit that only shows in the end is refused."""

Body = Callable[[], bytes]


def embeddings(size: int) -> bytes:
    """Return embeddings of so many bytes."""
    rows = b",".join([VECTOR] * (size // len(VECTOR)))
    return b'{"object":"list","data":[%b],"usage":{"prompt_tokens":1,"total_tokens":1}}' % rows


def choices(count: int, text: bytes = b"a") -> bytes:
    """Return so many choices of a text."""
    return b'{"id":"1","choices":[%b]}' % b",".join([CHOICE % text] * count)


def images(size: int) -> bytes:
    """Return one image of so many bytes."""
    return b'{"created":1,"data":[{"b64_json":"%b"}]}' % (b"A" * size)


def event(text: bytes, count: int = 1) -> bytes:
    """Return a stream whose first event has so many choices of a text."""
    return CHUNK % b",".join([DELTA % text] * count) + LAST


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SAID = b'"max_tokens":9000000,"messages":[{"role":"user","content":"a"}]'
EMBED = b'"input":"a"'
KIND, STREAM = "application/json", "text/event-stream"
CASES: dict[str, tuple[str, bytes, str, Body]] = {
    "embeddings of 21 MiB": (
        "/v1/embeddings",
        EMBED,
        KIND,
        lambda: embeddings(21 * MEBIBYTE),
    ),
    "embeddings of 31 MiB, base64": (
        "/v1/embeddings",
        EMBED + b',"encoding_format":"base64"',
        KIND,
        lambda: embeddings(31 * MEBIBYTE),
    ),
    "embeddings of 1 MiB": ("/v1/embeddings", EMBED, KIND, lambda: embeddings(1023 * 1024)),
    "an image of 31 MiB": (
        "/v1/images/generations",
        b'"prompt":"a"',
        KIND,
        lambda: images(31 * MEBIBYTE),
    ),
    "choices, 380,000 small ones": (CHAT, SAID + b',"n":2', KIND, lambda: choices(380_000)),
    "choices of 31 MiB of lines": (
        CHAT,
        SAID + b',"n":2',
        KIND,
        lambda: choices(2, b"\\n" * (31 * MEBIBYTE // 4)),
    ),
    "choices, just light": (CHAT, SAID + b',"n":2', KIND, lambda: choices(8_000)),
}


def streams() -> Iterator[tuple[str, tuple[str, bytes, str, Body]]]:
    """Yield the cases of streams: each dialect, streamed and gathered."""
    given = {"chat": (CHAT, SAID), "messages": (MESSAGES, SAID), "responses": (RESPONSES, EMBED)}
    bodies: dict[str, Body] = {
        "an event of 1.5 MB of lines": lambda: event(b"a\\n" * 520_000),
        "an event of 8,000 choices": lambda: event(b"a", 8_000),
        "768 Ki characters": lambda: (CHUNK % (DELTA % (b"a\\n" * 10_000))) * 39 + LAST,
        "2 Mi characters": lambda: (CHUNK % (DELTA % (b"a\\n" * 10_000))) * 104 + LAST,
        "16 Mi characters": lambda: (CHUNK % (DELTA % (b"a\\n" * 10_000))) * 832 + LAST,
    }
    for route, (path, fields) in given.items():
        for way, more in (("streamed", b',"stream":true'), ("gathered", b"")):
            for name, body in bodies.items():
                yield f"{route} {way}, {name}", (path, fields + more, STREAM, body)


@contextmanager
def node() -> Iterator[tuple[str, dict[str, tuple[str, bytes]]]]:
    """Run a node; yield its endpoint, and its answer to every POST under ``"answer"``."""
    answer: dict[str, tuple[str, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so the base calls it
            """Write no log."""

        def do_GET(self) -> None:
            """List the model."""
            self._respond(KIND, LISTING % MODEL.encode())

        def do_POST(self) -> None:
            """Give the answer of the case."""
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._respond(*answer["answer"])

        def _respond(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for start in range(0, len(body), PIECE):
                    self.wfile.write(body[start : start + PIECE])
            except OSError:  # the daemon has refused the answer
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answer
    finally:
        server.shutdown()
        server.server_close()


def run(options: argparse.Namespace) -> list[Figure]:
    """Give each answer once."""
    figures: list[Figure] = []
    unexpected = 0
    with (
        TemporaryDirectory() as folder,
        node() as (endpoint, answer),
        running_daemon(Path(folder), {"a": endpoint}, path="/ready") as daemon,
    ):
        for name, (path, fields, kind, body) in [*CASES.items(), *streams()]:
            answer["answer"] = kind, body()
            began_at = time.monotonic()
            status, said = post(
                daemon.address, path, b'{"model":"%b",%b}' % (MODEL.encode(), fields)
            )
            get(daemon.address, "/health")
            turn = 1000 * daemon.longest_turn(began_at).cpu
            figures.append(Figure(f"{name}: longest turn", turn, "ms", STALL_MS))
            if status not in EXPECTED:
                unexpected += 1
                print(name, status, said[:300])
    return [*figures, Figure("answers that did not come as they should", float(unexpected), "", 0)]
