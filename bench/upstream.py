"""The bench's upstream: it answers like a mistral.rs node, at a pace that each request sets, and
records abandoned requests.

`python -m bench.upstream` listens on a port of 127.0.0.1 that the system chooses, prints it as one
line, and ends when its standard input closes, so that it cannot outlive the bench. Beside a node's
routes it answers

- `GET /bench/closed`: a list of `{"id", "closed_at"}`, one for every request with an id whose
  connection closed before its answer was complete; `closed_at` is CLOCK_MONOTONIC in seconds,
  comparable between the processes of one machine;
- `GET /bench/open`: a list of `{"id", "sent_bytes"}`, one for every chat completion in progress.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from bench import wire
from bench.loop import READ, WRITE, Loop
from bench.wire import Knobs

RECEIVE_BYTES = 65_536
MAX_HEAD_BYTES = 65_536
# How many chunks a stream without gaps sends before others have their turn.
BURST_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: method, path and body, as received."""

    method: str
    path: str
    body: bytes


class BadRequestError(Exception):
    """The received bytes are not a request that this upstream can parse."""


def take_request(buffer: bytearray) -> Request | None:
    """Remove one whole request from the front of `buffer` and return it; return None and leave
    `buffer` unchanged when the request is incomplete.

    Raises `BadRequestError` for a head without end, without a request line, or with a body of
    undeclared length.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise BadRequestError(f"no end of the head within {MAX_HEAD_BYTES} bytes")
        return None
    request_line, *header_lines = buffer[:end].decode("latin-1").split("\r\n")
    words = request_line.split(" ")
    if len(words) != 3:
        raise BadRequestError(f"{request_line!r} is no request line")
    length = 0
    for line in header_lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
        elif name.lower() == "transfer-encoding":
            raise BadRequestError("the bench's upstream reads bodies with a Content-Length only")
    total = end + 4 + length
    if len(buffer) < total:
        return None
    body = bytes(buffer[end + 4 : total])
    del buffer[:total]
    return Request(words[0], words[1], body)


class Upstream:
    """The listening socket, with its records of requests in progress and of abandoned requests."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.connections: set[Connection] = set()
        self.under_way: set[Answer] = set()
        self.closed: dict[str, float] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self, _events: int) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.add(Connection(self, accepted))

    def close(self) -> None:
        """Stop listening, and close all accepted connections."""
        self.loop.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self.connections):
            connection.close()

    def answer(self, connection: Connection, request: Request) -> None:
        """Answer one request on its connection, now or over time."""
        route = (request.method, request.path.partition("?")[0])
        if route == ("POST", "/v1/chat/completions"):
            body = json.loads(request.body)
            Answer(self, connection, Knobs.of_body(body), stream=bool(body.get("stream"))).start()
        elif route == ("GET", "/v1/models"):
            connection.send(wire.models())
        elif route == ("POST", "/v1/models/status"):
            connection.send(wire.model_status(json.loads(request.body)["model_id"]))
        elif route == ("GET", "/v1/system/info"):
            connection.send(wire.system_info())
        elif route in {("GET", "/health"), ("GET", "/")}:
            connection.send(wire.response(b"OK", content_type="text/plain"))
        elif route == ("GET", "/bench/closed"):
            closed = [{"id": id_, "closed_at": at} for id_, at in self.closed.items()]
            connection.send(wire.response(json.dumps(closed).encode()))
        elif route == ("GET", "/bench/open"):
            under_way = [{"id": each.id, "sent_bytes": each.sent_bytes} for each in self.under_way]
            connection.send(wire.response(json.dumps(under_way).encode()))
        else:
            connection.send(wire.response(b"", status="404 Not Found", content_type="text/plain"))


class Connection:
    """One accepted connection: it reads requests, writes answers, and notifies the current answer
    when the peer leaves.
    """

    def __init__(self, upstream: Upstream, accepted: socket.socket) -> None:
        self._upstream = upstream
        self._socket = accepted
        self._received = bytearray()
        self._unsent = b""
        self.answer: Answer | None = None
        self.open = True
        upstream.loop.watch(accepted.fileno(), self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self.open and events & ~WRITE:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        self.answer_next()

    def answer_next(self) -> None:
        """Answer the received requests in order, each after the previous answer is complete."""
        while self.open and self.answer is None and self._received:
            try:
                request = take_request(self._received)
            except (BadRequestError, ValueError) as error:
                print(f"bench upstream: {error}", file=sys.stderr)
                self.close()
                return
            if request is None:
                return
            self._upstream.answer(self, request)

    def send(self, data: bytes) -> int:
        """Send `data`, and buffer the part that the socket does not take at once; return the number
        of bytes that it took.
        """
        if self._unsent:
            self._unsent += data
            return 0
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return 0
        if sent < len(data):
            self._unsent = data[sent:]
            self._upstream.loop.modify(self._socket.fileno(), READ | WRITE)
        return sent

    @property
    def blocked(self) -> bool:
        """Whether sent bytes are still waiting for the peer."""
        return bool(self._unsent)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if self.answer is not None:
            self.answer.sent_bytes += sent
        if not self._unsent:
            self._upstream.loop.modify(self._socket.fileno(), READ)
            if self.answer is not None:
                self.answer.unblocked()

    def close(self) -> None:
        """Close the connection, and record its request in progress as abandoned."""
        if not self.open:
            return
        closed_at = time.monotonic()
        self.open = False
        self._upstream.loop.forget(self._socket.fileno())
        self._socket.close()
        self._upstream.connections.discard(self)
        if self.answer is not None:
            self.answer.abandoned(closed_at)


class Answer:
    """One chat completion in progress: the headers, then chunks at their pace, then the end."""

    def __init__(
        self, upstream: Upstream, connection: Connection, knobs: Knobs, *, stream: bool
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._knobs = knobs
        self._stream = stream
        self._remaining = knobs.chunks
        self._gap = knobs.gap_ms / 1000
        self._due = 0.0
        self._waits_for_peer = False
        self.id = knobs.id
        self.sent_bytes = 0

    def start(self) -> None:
        """Send the headers now, or once the time before them has passed."""
        self._connection.answer = self
        self._upstream.under_way.add(self)
        if self._knobs.before_headers_ms:
            self._call_after(self._knobs.before_headers_ms, self._send_headers)
        else:
            self._send_headers()

    def unblocked(self) -> None:
        """Continue if the next chunk was waiting for the peer to read."""
        if self._waits_for_peer:
            self._waits_for_peer = False
            self._send_chunk()

    def abandoned(self, closed_at: float) -> None:
        """Record that the connection closed at `closed_at`, before this answer was complete."""
        self._upstream.under_way.discard(self)
        if self.id:
            self._upstream.closed[self.id] = closed_at

    def _call_after(self, milliseconds: float, callback: Callable[[], None]) -> None:
        self._upstream.loop.call_at(time.monotonic() + milliseconds / 1000, callback)

    def _send_headers(self) -> None:
        if not self._connection.open:
            return
        if not self._stream:
            self._send(wire.completion(self._knobs.chunk_bytes, self._knobs.chunks))
            self._complete()
            return
        self._send(wire.STREAM_HEAD)
        self._due = time.monotonic() + self._knobs.first_ms / 1000
        if self._knobs.first_ms:
            self._upstream.loop.call_at(self._due, self._send_chunk)
        else:
            self._send_chunk()

    def _send_chunk(self) -> None:
        if not self._connection.open:
            return
        if self._connection.blocked:
            self._waits_for_peer = True
            return
        if self._remaining <= 1:
            self._send(wire.stream_end(self._knobs.chunk_bytes, self._knobs.chunks))
            self._complete()
        elif self._gap:
            self._send(wire.chunk(self._knobs.chunk_bytes))
            self._remaining -= 1
            self._due += self._gap
            self._upstream.loop.call_at(self._due, self._send_chunk)
        else:
            self._send_burst()

    def _send_burst(self) -> None:
        """Send some chunks, each by itself as a node does, and come back after the other streams'
        turn.
        """
        data = wire.chunk(self._knobs.chunk_bytes)
        for _ in range(min(BURST_CHUNKS, self._remaining - 1)):
            self._send(data)
            self._remaining -= 1
            if self._connection.blocked or not self._connection.open:
                break
        self._upstream.loop.call_at(0.0, self._send_chunk)

    def _send(self, data: bytes) -> None:
        self.sent_bytes += self._connection.send(data)

    def _complete(self) -> None:
        self._upstream.under_way.discard(self)
        self._connection.answer = None
        self._connection.answer_next()


def main() -> None:
    """Serve until standard input closes."""
    # Nothing here makes cycles that must be found within the minutes it lives, and a collection
    # would show as latency.
    gc.disable()
    loop = Loop()
    upstream = Upstream(loop)

    def read_standard_input(_events: int) -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.stop()

    loop.watch(sys.stdin.fileno(), read_standard_input)
    print(upstream.port, flush=True)
    loop.run(inf)
    upstream.close()
    loop.close()


if __name__ == "__main__":
    main()
