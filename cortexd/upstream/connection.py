"""One connection to a node: its limits, its end, and the short cut of a chunk through it."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Client
from twisted.python.failure import Failure
from twisted.web._newclient import (
    HEADER,
    STATUS,
    HTTP11ClientProtocol,
    RequestTransmissionFailed,
    ResponseNeverReceived,
)
from twisted.web.http import _ChunkedTransferDecoder
from twisted.web.iweb import IResponse
from zope.interface import implementer

KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # macOS calls it TCP_KEEPALIVE, number 16.
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0x10), 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""TCP keepalive separates a dead machine from a busy one: the busy machine's kernel answers probes.

Without a FIN from a dead node, the connection fails after 40 s of silence, long before
``upstream_timeout``.
"""

HTTP_1_1 = (b"HTTP", 1, 1)

READ_BYTES = 8 * 1024
"""How much one read from a node takes. What a node sends at once, such as thousands of tiny events,
is handled in pieces of this size, and the reactor serves others between two pieces."""

MAX_HEAD_BYTES = 16 * 1024
"""The longest head of an answer, with all interim answers (1xx) before it."""

MAX_HEADERS = 256
"""The most headers of an answer: real servers send fewer than 30."""

IDENTITY = b"identity"
"""The encoding of a body that is not compressed."""

MAX_SIZE_DIGITS = 8
"""How many digits ``whole_chunk`` searches for the end of a chunk's size; 64 KiB needs four."""

TLS_INSTEAD: Final = "the node speaks TLS on this port: let its endpoint begin with https://"

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_ACKED: Final = struct.Struct("=120xQ")
"""Where Linux, since 4.1, counts the acknowledged bytes in its ``struct tcp_info``."""

_ENDED_STATES: Final = frozenset({7, 8})
"""Linux's numbers for connections that were reset, or closed by the other end."""


class LostConnection(NamedTuple):
    """A connection that ended without our doing: its host and port, and whether it was idle."""

    address: tuple[str, int]
    was_idle: bool


class UnfitAnswer(Exception):
    """Raised when a node's answer breaks a limit of ours; the message says which."""


@implementer(IHalfCloseableProtocol)
class Connection(HTTP11ClientProtocol):
    """A connection to a node, with a fast path for the tokens of a stream.

    Nearly every read of a stream is exactly one whole chunk of the body. Twisted passes it through
    its parser and decoder, whose state does not change by it. Here it goes directly to the protocol
    that reads the body; the parser gets every other read.

    ``idle_since`` is when the connection last returned to the pool, ``None`` before its first
    answer. ``has_more`` says that extra bytes followed an answer. ``acked_before`` counts the bytes
    that the node's machine had acknowledged before the request, ``None`` where that is unknown.
    ``is_unread`` says that it then acknowledged none of the request before it closed.
    """

    idle_since: float | None = None
    has_more = False
    acked_before: int | None = None
    is_unread = False
    address = ("", 0)
    lost: Callable[[LostConnection], None] | None = None
    _head_bytes = 0

    def _finishResponse(self, rest: bytes) -> None:  # noqa: N802 - Twisted calls it by this name
        if rest:
            self.has_more = True
        super()._finishResponse(rest)

    @property
    def is_ending(self) -> bool:
        """Whether we are closing the connection: Twisted's pool still holds it at that moment.

        This happens when a reader stops at a stop sequence in the same read that brought the last
        chunk, and when a node sends bytes without a request.
        """
        transport: Any = self.transport
        return bool(transport.disconnecting)

    def was_ended(self) -> bool:
        """Return whether the node has closed the idle connection, which we have not read yet.

        If it has not, note how much it has acknowledged, before a request goes out.
        """
        state, self.acked_before = tcp_state(self.transport)
        return state in _ENDED_STATES

    def readConnectionLost(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Take the orderly end of what the node sends: of the whole connection, in HTTP.

        Its last segment acknowledges all that the node's machine has received before. Our bytes
        that it does not acknowledge came too late for a socket that was closed.
        """
        acked = tcp_state(self.transport)[1]
        self.is_unread = acked is not None and acked == self.acked_before
        transport: Any = self.transport
        transport.connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Do nothing: we never close only the direction to a node."""

    @property
    def ends_with_its_answer(self) -> bool:
        """Whether the node closes the connection after the answer that just ended (RFC 9112 9.3).

        Twisted recognises only a plain ``Connection: close``, and ignores HTTP/1.0.
        """
        parser: Any = self._parser
        said = b",".join(parser.connHeaders.getRawHeaders(b"Connection", ())).lower()
        options = [option.strip() for option in said.split(b",")] if said else []
        return b"close" in options or (
            parser.response.version < HTTP_1_1 and b"keep-alive" not in options
        )

    def has_said_nothing(self, failure: Failure) -> bool:
        """Return whether a request failed because the connection ended before any answer byte."""
        error: Any = failure.value
        if isinstance(error, RequestTransmissionFailed):
            parser: Any = self._parser
            return not parser._everReceivedData  # noqa: SLF001 - Twisted has no public name
        return isinstance(error, ResponseNeverReceived) and not any(
            reason.check(CancelledError) for reason in error.reasons
        )

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Take the end of a TLS handshake: requests may go out from now on.

        The class does not provide IHandshakeListener: Twisted's wrapper of a plain socket's
        protocol would then not see that it takes half-closed connections.
        """
        transport: Any = self.transport
        transport.be_ready()

    def _giveUp(self, reason: Failure) -> None:  # noqa: N802 - Twisted calls it by this name
        if self._state == "TRANSMITTING":
            # The node's answer is unreadable, and Twisted would not report that failure.
            response: Any = self._responseDeferred
            response.chainDeferred(self._finishedRequest)
            self._state = "TRANSMITTING_AFTER_RECEIVING_RESPONSE"
        super()._giveUp(reason)
        if self._state == "TRANSMITTING_AFTER_RECEIVING_RESPONSE":
            # A plain close would first send the rest of the request, which the node does not want.
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report the end of the connection unless it is our doing."""
        is_ours = self.is_ending or reason.check(ConnectionAborted) is not None
        was_idle = self.state == "QUIESCENT"
        if self._head_bytes and is_tls(getattr(self._parser, "_buffer", b"")):
            reason = Failure(UnfitAnswer(TLS_INSTEAD))
        super().connectionLost(reason)
        lost, self.lost = self.lost, None
        if lost is not None and not is_ours:
            lost(LostConnection(self.address, was_idle))

    def connectionMade(self) -> None:
        """Set keepalive, and become the socket's own protocol.

        Twisted's endpoints put a wrapper between a plain socket and its protocol.
        """
        super().connectionMade()
        transport: Any = self.transport
        if type(transport) is Client:
            transport.protocol = self
        # TLS has the socket's transport below its own.
        getattr(transport, "transport", transport).bufferSize = READ_BYTES
        connected = getattr(transport, "socket", None)
        if connected is not None:
            for level, option, value in KEEPALIVE:
                connected.setsockopt(level, option, value)

    def dataReceived(self, data: bytes) -> None:
        """Pass a whole chunk to the body's reader, and any other read to the parser.

        The fast path needs a parser that waits for the next chunk's size and buffers no earlier
        bytes. It reads private attributes of Twisted. If Twisted renames them, or if no answer is
        in progress, the parser gets every read.
        """
        body = None
        try:
            parser: Any = self._parser
            decoder, response = parser.bodyDecoder, parser.response
            if (
                type(decoder) is _ChunkedTransferDecoder
                and decoder.state == "CHUNK_LENGTH"
                and not decoder._buffer  # noqa: SLF001 - else it holds part of the next size
                and not parser._busyReceiving  # noqa: SLF001 - else it holds earlier bytes
                and response._state == "CONNECTED"  # noqa: SLF001 - else it buffers the body
            ):
                reader: Any = response._bodyProtocol  # noqa: SLF001 - Twisted has no public name
                body = whole_chunk(data)
        except AttributeError:
            pass
        if body is None:
            before = self._parser
            super().dataReceived(data)
            if self._parser is before:
                self._count_head(data)
            else:  # The answer has ended, and a request may have gone out meanwhile.
                self._head_bytes = 0
            return
        try:
            reader.dataReceived(body)
        except BaseException:  # Twisted catches as much
            self._giveUp(Failure())

    def _count_head(self, data: bytes) -> None:
        """End an answer whose head is too long; interim answers count, for they have no body."""
        parser: Any = self._parser
        if getattr(parser, "state", None) not in (STATUS, HEADER):
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            words = f"the answer's head is longer than {MAX_HEAD_BYTES // 1024} KiB"
            self._giveUp(Failure(UnfitAnswer(words)))


class _Dropped(Protocol):
    """Takes a body that nobody wants, by closing its connection."""

    def connectionMade(self) -> None:
        """Close the connection."""
        transport: Any = self.transport
        transport.loseConnection()


def is_tls(answer: bytes) -> bool:
    """Return whether an answer that is no HTTP is an alert of TLS (RFC 8446 5.1)."""
    return answer.startswith(b"\x15\x03")


def check_head(response: IResponse) -> IResponse:
    """Return a response whose head is fit for us. Raises UnfitAnswer for any other.

    We inflate nothing: a compressed body has no length that we could know beforehand.
    """
    encoding = response.headers.getRawHeaders(b"Content-Encoding")
    if encoding and b",".join(encoding).strip().lower() not in (b"", IDENTITY):
        words = "the answer is compressed, although we asked for none of that"
    elif sum(len(values) for _, values in response.headers.getAllRawHeaders()) > MAX_HEADERS:
        words = f"the answer has more than {MAX_HEADERS} headers"
    else:
        return response
    response.deliverBody(_Dropped())
    raise UnfitAnswer(words)


def tcp_state(transport: object) -> tuple[int, int | None]:
    """Return a connection's state, and how many of our bytes its other end has acknowledged.

    Without Linux, or without a socket, the state is 0 and the count ``None``.
    """
    connected = getattr(transport, "socket", None)
    if connected is None or _TCP_INFO is None:
        return 0, None
    try:
        found = connected.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKED.size)
        return found[0], _ACKED.unpack(found)[0]
    except (OSError, struct.error):
        return 0, None


def whole_chunk(data: bytes) -> bytes | None:
    """Return the content of ``data`` if it is exactly one whole chunk, else ``None``.

    Only the plainest form counts: no extension, no leading zero, not the last chunk.
    """
    line_end = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2)
    size = len(data) - line_end - 4
    if line_end < 1 or size < 1 or data[:line_end].lower() != b"%x" % size or data[-2:] != b"\r\n":
        return None
    return data[line_end + 2 : -2]
