"""The load generator: keep-alive clients that repeat one request and count the tokens received."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from bench.loop import Loop
from bench.processes import Address
from bench.wire import DONE, LAST_CHUNK, WORD_BYTES

RECEIVE_BYTES = 262_144
MOST_LAST_READS = 4
CONNECT_SECONDS = 5.0
# Shorter than any marker that is counted, so that what is kept of one read cannot be counted again
# with the next.
KEPT_BYTES = len(WORD_BYTES) - 1


class ResponseScanner:
    """Scans one HTTP response of a chat completion, in pieces of any size, without decoding it.

    `ended` is set once the response is complete. `failure` names its fault, "" for a good response:
    a status other than 200, or a stream that ended without `[DONE]`.
    """

    __slots__ = ("_done", "_head", "_in_head", "_kept", "_left", "_streaming", "ended", "failure")

    def __init__(self, *, streaming: bool) -> None:
        self._streaming = streaming
        self._in_head = True
        self._head = b""
        self._kept = b""
        self._left = (
            -1
        )  # bytes of a body with a Content-Length still to come; negative when framed in chunks
        self._done = False
        self.ended = False
        self.failure = ""

    def feed(self, data: bytes) -> int:
        """Scan the next bytes; return how many content tokens they contain."""
        if self._in_head:
            data = self._read_head(data)
            if self._in_head or self.failure:
                return 0
        seen = self._kept + data
        if not self._done and DONE in seen:
            self._done = True
        if self._left >= 0:
            self._left -= len(data)
            whole = self._left <= 0
        else:
            whole = seen.endswith(LAST_CHUNK)
        if whole:
            self._end()
        self._kept = seen[-KEPT_BYTES:]
        return seen.count(WORD_BYTES)

    def closed(self) -> None:
        """Note that the peer closed the connection, which may end only a completed stream."""
        if not self.ended:
            self._end()
            if not self._done:
                self.failure = "connection closed before the end of the answer"

    def _end(self) -> None:
        self.ended = True
        if self._streaming and not self._done:
            self.failure = "the stream ended without [DONE]"

    def _read_head(self, data: bytes) -> bytes:
        self._head += data
        head, separator, body = self._head.partition(b"\r\n\r\n")
        if not separator:
            return b""
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            self.failure = (
                f"{head.splitlines()[0].decode('latin-1')}: {body[:300].decode('latin-1')}"
            )
            self.ended = True
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._left = int(line[15:])
        self._in_head = False
        return body


@dataclass
class Tally:
    """The counts of one measure's clients since `since` (CLOCK_MONOTONIC, seconds)."""

    since: float = 0.0
    tokens: int = 0
    answers: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """How many requests have ended, successful or failed."""
        return self.answers + len(self.failures)

    def restart(self, now: float) -> None:
        """Reset all but the failures, and ignore requests that started before `now`."""
        self.since = now
        self.tokens = 0
        self.answers = 0
        self.first_token_seconds = []


class Client:
    """One keep-alive connection that sends a request, and with `repeat` resends it after each
    complete answer.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        request: bytes,
        tally: Tally,
        *,
        streaming: bool,
        repeat: bool = False,
        on_first_token: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._address = address
        self._request = request
        self._tally = tally
        self._streaming = streaming
        self._repeat = repeat
        self._on_first_token = on_first_token
        self._socket = socket.socket()
        self._open = False
        self._scanner = ResponseScanner(streaming=streaming)
        self._started = 0.0
        self._waits_for_first = False

    def open(self) -> None:
        """Connect, which blocks (loopback answers in microseconds), and send the request."""
        self._socket.settimeout(CONNECT_SECONDS)
        try:
            self._socket.connect(self._address)
        except OSError as error:
            self._tally.failures.append(f"cannot connect: {error}")
            return
        self._open = True
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.watch(self._socket.fileno(), self._receive)
        self._begin()

    def close(self) -> float:
        """Close the connection with a FIN, and return the time (CLOCK_MONOTONIC, seconds)."""
        if self._open:
            self._open = False
            self._loop.forget(self._socket.fileno())
            # Unread bytes would turn the FIN into a reset; a stream without gaps never runs dry.
            with suppress(OSError):
                for _ in range(MOST_LAST_READS):
                    self._socket.recv(RECEIVE_BYTES)
        closed_at = time.monotonic()
        self._socket.close()
        return closed_at

    def _begin(self) -> None:
        self._scanner = ResponseScanner(streaming=self._streaming)
        self._waits_for_first = True
        # Before the send: on loopback the answer can be on its way before the send returns.
        self._started = time.monotonic()
        try:
            self._socket.sendall(self._request)
        except OSError as error:
            self._tally.failures.append(f"cannot send: {error}")
            self.close()

    def _receive(self, _events: int) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._scanner.closed()
            self._repeat = False
            self._finish()
            return
        tokens = self._scanner.feed(data)
        if tokens:
            self._tally.tokens += tokens
            if self._waits_for_first:
                self._first_token()
        if self._scanner.ended:
            self._finish()

    def _first_token(self) -> None:
        now = time.monotonic()
        self._waits_for_first = False
        if self._started >= self._tally.since:
            self._tally.first_token_seconds.append(now - self._started)
        if self._on_first_token is not None:
            self._on_first_token()

    def _finish(self) -> None:
        if self._scanner.failure:
            self._tally.failures.append(self._scanner.failure)
            self.close()
            return
        self._tally.answers += 1
        if self._repeat:
            self._begin()
        else:
            self.close()
