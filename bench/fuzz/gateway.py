"""The whole gateway in memory: its server, routes, scheduler and relay, before one node of a kind.

Only the sockets are doubles: the client's socket is a transport that records all bytes, and a node
that answers within the call replaces treq's client. No time passes.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from bench.fuzz.answers import JSON, NodeAnswer
from bench.fuzz.asking import CLIENT_HEADERS, Asked
from bench.fuzz.bodies import MODEL
from bench.fuzz.cases import MAX_BODY_BYTES
from bench.fuzz.hearing import Wrong
from bench.fuzz.refusals import refusal_of
from bench.fuzz.verdicts import Answered
from cortexd.access.keys import Key
from cortexd.assembly import assemble
from cortexd.config import reading
from cortexd.dialects.wire.profile import Speaks
from tests.support.bulk import InlineHelper, InlineWorker

log = Logger()

_STARTED_AT = 1_790_000_000
_ENDPOINT = "http://127.0.0.1:1"
_GATEWAY = f'''
[gateway]
state_dir = "/unused"
max_body_mb = {MAX_BODY_BYTES // 2**20}
[scheduling]
# The node fails a fifth of the requests on purpose; each of them must reach it.
eject_after = 0
[[nodes]]
name = "a"
endpoint = "{_ENDPOINT}"
'''
_NODES = {
    Speaks.CHAT: "vram_mb = 24_576",
    Speaks.BOTH: 'vram_mb = 24_576\nanthropic = "native"\nresponses = "native"',
    Speaks.MESSAGES: 'dialect = "anthropic"',
}
_LISTED = {"id": MODEL, "object": "model", "created": _STARTED_AT, "status": "loaded"}
_LISTED_IN_MESSAGES = {"type": "model", "id": MODEL, "display_name": "chat", "created_at": "2026"}
_CLIENT = IPv4Address("TCP", "127.0.0.1", 40_000)
_PATH_AT = len(_ENDPOINT)
_CLIENT_LINES = "".join(f"{name}: {value}\r\n" for name, value in CLIENT_HEADERS.items())


class InstantNode:
    """One node in place of treq's client: it answers each request within the call.

    It ``speaks`` chat, Messages too, or Messages alone. ``said`` is its answer to the last request
    for its model, ``refused`` whether it rejected that request because of its body, and ``asked``
    lists the requests since ``expect``.
    """

    def __init__(self, speaks: Speaks = Speaks.CHAT) -> None:
        self.speaks = speaks
        self.asked: list[Asked] = []
        self.said: NodeAnswer | None = None
        self.refused = False
        self._answers: dict[bool, NodeAnswer] = {}
        listed = _LISTED_IN_MESSAGES if speaks is Speaks.MESSAGES else _LISTED
        listing = json.dumps({"object": "list", "data": [listed]}).encode()
        self._listing = NodeAnswer(200, JSON, (listing,), is_fault=False)

    def expect(self, answers: Mapping[bool, NodeAnswer]) -> None:
        """Set the answers to the next request: under True for a stream request, else False."""
        self.asked, self.said, self.refused, self._answers = [], None, False, dict(answers)

    def request(self, method: str, url: object, **arguments: Any) -> Deferred[_Response]:
        """Answer as treq's client does; see NodeClient for the arguments."""
        if method == "GET":
            return succeed(_Response(self._listing))
        body: bytes = arguments["data"]
        sent: Headers = arguments["headers"]
        headers = {name.decode(): values[-1].decode() for name, values in sent.getAllRawHeaders()}
        asked = Asked(str(url)[_PATH_AT:], body, headers)
        self.asked.append(asked)
        refusal = refusal_of(asked, self.speaks)
        self.refused = refusal is not None
        self.said = refusal or self._answers[b'"stream":true' in body]
        return succeed(_Response(self.said))


class _Response:
    """An answer of the node's, as treq gives it."""

    def __init__(self, answer: NodeAnswer) -> None:
        self.code = answer.status
        self.headers = Headers({"Content-Type": [answer.content_type]})
        self._answer = answer
        self._is_wanted = True

    def deliverBody(self, protocol: Protocol) -> None:
        """Send the body until the protocol has had enough; what it raises is a fault in the log.

        So it is with a socket, whose connection the reactor then drops.
        """
        protocol.makeConnection(cast("Any", self))
        lost = ConnectionLost() if self._answer.breaks_off else ResponseDone()
        try:
            for piece in self._answer.pieces:
                if self._is_wanted:
                    protocol.dataReceived(piece)
        except Exception:
            log.failure("the relay raised while it took a piece of the node's answer")
            lost = ConnectionLost()
        protocol.connectionLost(Failure(lost))

    # The transport of the body.

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Send nothing more."""
        self._is_wanted = False

    def pauseProducing(self) -> None:
        """Nothing: the client reads without a pause."""

    def resumeProducing(self) -> None:
        """Nothing, as for ``pauseProducing``."""


class _ClientTransport(StringTransportWithDisconnection):
    """A client's socket; what was written to it is taken from it."""

    def __init__(self) -> None:
        super().__init__(peerAddress=cast("IAddress", _CLIENT))
        self.is_closed = False

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close, once."""
        if not self.is_closed:
            self.is_closed = True
            self.protocol.connectionLost(Failure(ConnectionLost()))

    def taken(self) -> bytes:
        """Return what was written since this was last asked."""
        written: bytes = self.value()
        self.clear()
        return written


class GatewayInMemory:
    """A gateway before ``node``, whose ``site`` is the server; ``keys`` are those it requires."""

    def __init__(self, node: InstantNode | None = None, keys: Sequence[Key] | None = None) -> None:
        self.node = node = node or InstantNode()
        self.clock = Clock()
        config = reading.parse(_GATEWAY + _NODES[node.speaks], "fuzz")
        parts = assemble(
            config,
            self.clock,
            {},
            lambda: _STARTED_AT,
            http=node,
            worker=InlineWorker(),
            helper=InlineHelper(),
        )
        parts.ring.take(keys)
        self.fleet, self.site = parts.fleet, parts.site
        self._transport: _ClientTransport | None = None
        self._channel: Any = None
        parts.poller.poll_all()

    def ask(self, path: str, body: bytes) -> Answered:
        """Return the answer to a POST. Raises Wrong if it is not a complete HTTP response."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{_CLIENT_LINES}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return self.send(head.encode() + body)

    def send(self, data: bytes) -> Answered:
        """Return the answer to the bytes of a request. Raises Wrong as ``ask`` does."""
        transport = self._transport
        if transport is None or transport.is_closed:
            transport = self._connect()
        self._channel.dataReceived(data)
        self.clock.advance(0)
        return read_response(transport.taken(), is_closed=transport.is_closed)

    def hang_up(self) -> None:
        """Close the client's connection, if one is open."""
        if self._transport is not None:
            self._transport.loseConnection()

    def _connect(self) -> _ClientTransport:
        self._transport = transport = _ClientTransport()
        self._channel = self.site.buildProtocol(cast("IAddress", _CLIENT))
        transport.protocol = self._channel
        self._channel.makeConnection(transport)
        return transport


@contextmanager
def watched(*gateways: GatewayInMemory) -> Iterator[list[str]]:
    """Serve, and yield a list that collects errors and tracebacks in the log.

    These include the errors of unhandled Deferreds.
    """
    faults: list[str] = []

    def take(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error or "log_failure" in event:
            failure = event.get("log_failure")
            faults.append(formatEvent(event) if failure is None else failure.getTraceback())

    with ExitStack() as stack:
        observer = cast("ILogObserver", take)
        globalLogPublisher.addObserver(observer)
        stack.callback(globalLogPublisher.removeObserver, observer)
        stack.callback(gc.collect)  # that a Deferred's error was not handled is told when it goes
        for gateway in gateways:
            gateway.site.doStart()
            stack.callback(gateway.site.doStop)
            stack.callback(gateway.hang_up)
        yield faults


def read_response(written: bytes, *, is_closed: bool) -> Answered:
    """Parse the bytes of one response as a client does. Raises Wrong."""
    head, separator, rest = written.partition(b"\r\n\r\n")
    if not separator:
        raise Wrong("no response")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    status = int(status_line.split(" ")[1])
    if "content-length" in headers:
        if len(rest) != int(headers["content-length"]):
            raise Wrong("a body of another length than its head says")
        return Answered(status, headers, rest, is_closed)
    body, is_whole = _joined(rest)
    if not (is_whole or is_closed):
        raise Wrong("a response without an end")
    return Answered(status, headers, body, not is_whole)


def _joined(chunked: bytes) -> tuple[bytes, bool]:
    """Return the body in HTTP's chunks, and whether the last one is there."""
    pieces: list[bytes] = []
    start = 0
    while start < len(chunked):
        end = chunked.index(b"\r\n", start)
        size = int(chunked[start:end], 16)
        if not size:
            return b"".join(pieces), True
        pieces.append(chunked[end + 2 : end + 2 + size])
        start = end + 2 + size + 2
    return b"".join(pieces), False
