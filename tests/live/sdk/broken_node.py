"""A node that breaks its answers or never ends them, as the model's id says."""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EOF = "broken/eof"
PLAIN_ERROR = "broken/plain-error"
JSON_ERROR = "broken/json-error"
RESET = "broken/reset"
REFUSES = "broken/refuses"
# These hold a request until the other side closes: without an answer, after the headers, after
# some content.
HOLDS_SILENT = "holds/silent"
HOLDS_HEADERS = "holds/headers"
HOLDS_CONTENT = "holds/content"
HOLDING = (HOLDS_SILENT, HOLDS_HEADERS, HOLDS_CONTENT)
MODELS = (EOF, PLAIN_ERROR, JSON_ERROR, RESET, REFUSES, *HOLDING)

WORDS = "the engine tripped over a cable"
FIRST = {"role": "assistant", "content": "one "}
# As upstream sends it: two chunks with content, then what goes wrong.
CHUNKS = [
    {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "broken",
        "system_fingerprint": "local",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}],
    }
    for delta in (FIRST, {"role": "assistant", "content": "two "})
]
# The same of a response, before it is whole.
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "broken",
    "status": "in_progress",
    "output": [],
}
RESPONSE_EVENTS = [
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
    {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "one ",
        "logprobs": [],
    },
]


@dataclass(frozen=True)
class BrokenNode:
    """A node that runs: its base URL (no slash at the end), and the models of held requests.

    A request's model is put into ``held`` once it is held, and into ``released`` once the other
    side has closed its connection.
    """

    base_url: str
    held: queue.Queue[str] = field(default_factory=queue.Queue)
    released: queue.Queue[str] = field(default_factory=queue.Queue)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # What waits to be sent is lost with a reset.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Keep quiet."""

    def do_GET(self) -> None:
        """List the models, whatever was asked."""
        listed = [{"id": model, "created": 1, "status": "loaded"} for model in MODELS]
        self._json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        """Begin an answer and break it."""
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        if model == REFUSES:
            self._json(500, {"message": WORDS})
            return
        if model == HOLDS_SILENT:
            self._hold(model)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if model == HOLDS_HEADERS:
            self._hold(model)
            return
        if self.path == "/v1/responses":
            for event in RESPONSE_EVENTS:
                self._event(json.dumps(event), name=event["type"])
        else:
            for chunk in CHUNKS:
                self._event(json.dumps(chunk))
        if model == HOLDS_CONTENT:
            self._hold(model)
            return
        if model == PLAIN_ERROR:
            self._event(WORDS)
        elif model == JSON_ERROR:
            self._event(json.dumps({"error": {"message": WORDS, "type": "server_error"}}))
        if model == RESET:
            # Closed with a linger of 0 the kernel sends a reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        if model in (PLAIN_ERROR, JSON_ERROR):
            self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _hold(self, model: str) -> None:
        self.server.node.held.put(model)
        self.close_connection = True
        try:
            ended = self.connection.recv(1) == b""
        except ConnectionResetError:
            ended = True
        if ended:
            self.server.node.released.put(model)

    def _event(self, data: str, name: object = None) -> None:
        head = f"event: {name}\n" if name else ""
        event = f"{head}data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _json(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    node: BrokenNode

    def shutdown_request(self, request: Any) -> None:
        """Close without the orderly farewell of the parent, which would undo a reset."""
        self.close_request(request)


@contextmanager
def broken_node() -> Iterator[BrokenNode]:
    """Run the node in a thread until the block is left."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.node = BrokenNode(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.node
        finally:
            server.shutdown()
            thread.join()
