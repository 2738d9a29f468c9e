"""Hostile clients: storms of connections, requests that never end, garbage, and huge bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

STORM = 300
DRIPPING = 40
GARBAGE = 30
HOLD_SECONDS = 6.0
ANSWER_SECONDS = 30.0
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
JSON_TYPE = b"Content-Type: application/json\r\n"


class Caller(Protocol):
    """Sends bytes once connected, and collects what comes until the end or the limit."""

    transport: Any

    def __init__(self, data: bytes, reactor: Any, seconds: float) -> None:
        self._data = data
        self._reactor = reactor
        self._seconds = seconds
        self.received = bytearray()
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """Send the bytes, and limit the wait for the end."""
        self._timer = self._reactor.callLater(self._seconds, self.transport.abortConnection)
        self.transport.write(self._data)

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.received += data[:1000]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report what has come."""
        if self._timer.active():
            self._timer.cancel()
        self.ended.callback(bytes(self.received))


class Floods:
    """Floods of hostile clients at the gateway's ``port``; ``counts`` has their outcomes."""

    def __init__(self, reactor: Any, port: int, dice: Random) -> None:
        self._reactor = reactor
        self._endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, timeout=ANSWER_SECONDS)
        self._dice = dice
        self._letters = one_letter_messages(400_000)
        self._open: set[Deferred[Any]] = set()
        self.counts: Counter[str] = Counter()

    @property
    def kinds(self) -> tuple[Callable[[], None], ...]:
        """All kinds of floods."""
        return (self.storm, self.dripping, self.garbage, self.letters, self.pages, self.hang_ups)

    def flood(self) -> None:
        """Begin one flood of a random kind."""
        self._dice.choice(self.kinds)()

    def storm(self) -> None:
        """Many clients connect at once, and each wants an answer."""
        for _ in range(STORM):
            self._call("storm", HEALTH, ANSWER_SECONDS)

    def dripping(self) -> None:
        """Clients begin a request and never end it."""
        for number in range(DRIPPING):
            head = CHAT + JSON_TYPE + (b"Content-Length: 99999\r\n\r\n{" if number % 2 else b"")
            self._call("dripping", head, HOLD_SECONDS)

    def garbage(self) -> None:
        """Clients send bytes that are no HTTP."""
        for _ in range(GARBAGE):
            self._call("garbage", self._dice.randbytes(2000) + b"\r\n\r\n", HOLD_SECONDS)

    def letters(self) -> None:
        """Three clients send a body of many tiny messages."""
        head = CHAT + JSON_TYPE + b"Content-Length: %d\r\n" % len(self._letters)
        for _ in range(3):
            self._call("letters", head + b"Connection: close\r\n\r\n" + self._letters, 60.0)

    def pages(self) -> None:
        """Send chats as text, as a web page does that nobody invited."""
        body = b'{"model":"default","messages":[{"role":"user","content":"x"}]}'
        head = CHAT + b"Origin: https://page.example\r\nContent-Type: text/plain\r\n"
        head += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(10):
            self._call("pages", head + body, ANSWER_SECONDS)

    def hang_ups(self) -> None:
        """Clients begin a stream and leave at once."""
        body = b'{"model":"default","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = CHAT + JSON_TYPE + b"Content-Length: %d\r\n\r\n" % len(body)
        for _ in range(GARBAGE):
            self._call("hang ups", head + body, self._dice.uniform(0.0, 0.5))

    def over(self) -> Deferred[None]:
        """Return a Deferred that fires once all clients of floods have ended."""
        over: Deferred[None] = Deferred()

        def look() -> None:
            if self._open:
                self._reactor.callLater(0.1, look)
            else:
                over.callback(None)

        look()
        return over

    def _call(self, kind: str, data: bytes, seconds: float) -> None:
        caller = Caller(data, self._reactor, seconds)
        connecting: Deferred[Any] = connectProtocol(self._endpoint, caller)
        connecting.addCallback(lambda _: caller.ended)
        self._open.add(connecting)
        connecting.addBoth(self._ended, kind, connecting)

    def _ended(self, result: Any, kind: str, call: Deferred[Any]) -> None:
        self._open.discard(call)
        if isinstance(result, Failure):
            self.counts[f"{kind}: not connected"] += 1
        else:
            status = result[9:12].decode("ascii", "replace") if result else "no answer"
            self.counts[f"{kind}: {status}"] += 1

    def unanswered(self) -> int:
        """Return how many clients of storms got no answer, or none but a refused connection."""
        return self.counts["storm: not connected"] + self.counts["storm: no answer"]

    def intruded(self) -> int:
        """Return how many requests of web pages were not refused with status 403."""
        calls = {kind: count for kind, count in self.counts.items() if kind.startswith("pages: ")}
        shed = ("pages: 403", "pages: 503", "pages: not connected", "pages: no answer")
        return sum(count for kind, count in calls.items() if kind not in shed)


def one_letter_messages(count: int) -> bytes:
    """Return the body of a chat with so many messages of one letter."""
    message = b'{"role":"user","content":"a"}'
    return b'{"model":"default","messages":[' + b",".join([message] * count) + b"]}"
