"""The HTTP server under the gateway: twisted.web, held to limits and never speaking HTML.

What twisted.web does otherwise, and why it is changed here (Twisted 26.10):

- a request's body goes to a file on disk from 100 kB on and may have any size: here it stays in
  memory and ends at a limit;
- the head of a request may come as slowly as its client likes: here it has the idle time;
- bad requests are answered by a bare status line: here by an error in the client's envelope,
  and what the client still sends is read to its end for a while, since closing on unread data
  resets the connection and the answer is lost;
- a slow reader of a large answer is cut off once it is idle otherwise, and never where that was
  the last on its connection: here once it reads no more;
- by TLS a connection stays until its client says that it ends too: here that is not awaited;
- an exception becomes an HTML page: here an error in the envelope;
- the body of a form is parsed: never here, and no access log is written, for the gateway has
  its own line.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, ISSLTransport, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.errors import (
    BadRequest,
    BodyTooLarge,
    CortexError,
    HeadersTooLarge,
    MethodNotAllowed,
    internal_error,
)
from cortexd.logs import get_logger

MAX_HEADER_BYTES = 32 * 1024
"""Of request line and headers together. Twisted's own 16 KiB is less than some cookies take."""

LINGER_SECONDS = 5.0
"""How long what a refused client still sends is read before the connection is closed."""

SERVER_NAME = b"cortex"

MAX_LENGTH_DIGITS = 20
"""Of a Content-Length: more is over any limit, and over 4300 Python refuses to read the number."""

_ABSOLUTE_TARGET = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

log = get_logger("cortexd.http")


def request_id_of(given: str | None) -> str:
    """Return the client's own request id where it is sane, else a new one."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return f"req_{os.urandom(16).hex()}"


class GatewayRequest(Request):
    """One request of a client, its body in memory and under a limit."""

    channel: GatewayChannel
    defaultContentType = None  # what has no type set has no body
    request_id = ""
    broken_off = False
    bytes_out = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that says it is too long before it is read."""
        self.content = io.BytesIO()
        self._body_bytes = 0
        if length is not None and length > self.channel.site.max_body_bytes:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, up to the limit."""
        self._body_bytes += len(data)
        if self._body_bytes <= self.channel.site.max_body_bytes:
            super().handleContentChunk(data)
        else:
            self._refuse_body()

    def _refuse_body(self) -> None:
        limit = self.channel.site.max_body_bytes // (1024 * 1024)
        self.content = io.BytesIO()
        self.channel.refuse(
            BodyTooLarge(f"the body is over the limit of {limit} MiB (gateway.max_body_mb)")
        )

    def process(self) -> None:
        """Serve the request once its path is known to be text."""
        given_id = self.getHeader(b"x-request-id")
        self.request_id = request_id_of(given_id.decode("latin-1") if given_id else None)
        if not self.path.startswith(b"/"):
            # RFC 9112 3.2.2: a server must take the absolute form as well.
            self.path = _ABSOLUTE_TARGET.sub(b"", self.path) or b"/"
        if self.path == b"*":
            self._answer_asterisk()
        elif _is_text(self.path):
            super().process()
        else:
            self._refuse(BadRequest("the path is not UTF-8"))

    def _answer_asterisk(self) -> None:
        if self.method == b"OPTIONS":  # RFC 9110 9.3.7: a ping of the server as a whole
            self.respond(200, {}, b"")
        else:
            self._refuse(MethodNotAllowed("'*' takes OPTIONS only", allow=("OPTIONS",)))

    def _refuse(self, error: CortexError) -> None:
        _log_refusal(self.request_id, error, self.client)
        self.respond_error(error)

    def getRequestHostname(self) -> bytes:  # noqa: N802 - Klein calls it by this name
        """Return our own name: Klein fails on some of what clients put into Host."""
        return SERVER_NAME

    def isSecure(self) -> bool:  # noqa: N802 - Klein calls it by this name
        """Tell whether the client came by TLS, without Twisted's search for adapters."""
        return bool(ISSLTransport.providedBy(self.channel.transport))

    @property
    def text_path(self) -> str:
        """The path as text, for choosing a dialect; what is not UTF-8 in it is replaced."""
        return (self.path or b"").decode("utf-8", "replace")

    @property
    def has_anthropic_version(self) -> bool:
        """Whether the client says by a header that it speaks Anthropic's dialect."""
        return bool(self.requestHeaders.hasHeader(b"anthropic-version"))

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response, unless the client is gone."""
        if self._disconnected or self.finished:
            return
        self.begin(status, {**headers, "Content-Length": str(len(body))})
        self.write(body)
        self.finish()

    def write(self, data: bytes) -> None:
        """Send a piece of the body, unless nobody is there; one of a stream goes the short way."""
        self.bytes_out += len(data)
        if self.startedWriting and self.chunked and data and not self._disconnected:
            self.channel.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            super().write(data)
            if not self._disconnected:
                self.channel.release()
            if self.chunked:
                # A stream keeps its request for long; its heads, some 3 KB, are done with.
                self.requestHeaders, self.responseHeaders = Headers(), Headers()

    def finish_with(self, last: bytes) -> None:
        """End a stream with its last piece, if there is one: both go out at once."""
        if last and self.startedWriting and self.chunked and not self._disconnected:
            self.bytes_out += len(last)
            self.channel.hold(b"%x\r\n%b\r\n" % (len(last), last))
        elif last:
            self.write(last)
        self.finish()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Set the head of a response; it goes out with the first bytes written."""
        self.setResponseCode(status)
        self.setHeader("Server", SERVER_NAME)
        ids = request_id_headers(
            self.text_path, self.request_id, has_version=self.has_anthropic_version
        )
        for name, value in ids.items():
            self.setHeader(name, value)
        for name, value in headers.items():
            self.setHeader(name, value)

    def close_after_response(self) -> None:
        """Make this response the last one on its connection, and say so in its head."""
        self.channel.persistent = False
        self.setHeader("Connection", "close")

    def respond_error(self, error: CortexError) -> None:
        """Send an error in the client's envelope, unless the client is gone."""
        has_version = self.has_anthropic_version
        self.respond(
            *error_response(self.text_path, error, self.request_id, has_version=has_version)
        )

    def processingFailed(self, reason: Failure) -> Failure:
        """Tell of a mistake of ours: the traceback to the log, the id to the client."""
        log.error("request_crashed", request_id=self.request_id, failure=reason)
        if self.startedWriting:
            self.break_off()
        else:
            self.respond_error(internal_error(self.request_id))
        return reason

    def break_off(self) -> None:
        """End the response so that no client can take it for whole.

        What was written goes out first; then the connection is closed without the last chunk.
        """
        if not self._disconnected and not self.finished:
            self.broken_off = True
            self.channel.setTimeout(LINGER_SECONDS)
            self.channel.loseConnection()

    def finish(self) -> None:
        """End the response, once, unless it was broken off or nobody is there.

        Klein finishes what a handler returns from, whatever the handler did to it.
        """
        if not (self.broken_off or self.finished or self._disconnected):
            super().finish()


class GatewayChannel(HTTPChannel):
    """One connection of a client, held to limits."""

    site: GatewaySite
    transport: Any  # a TCP, TLS or UNIX connection, or a double of one
    totalHeadersSize = MAX_HEADER_BYTES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False
    _held = b""
    _unsent = 0

    def connectionMade(self) -> None:
        """Be one of the site's connections."""
        super().connectionMade()
        self.site.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Be gone, and the request that was being answered with it."""
        super().connectionLost(reason)
        self.site.forget(self)

    def requestDone(self, request: Request) -> None:  # noqa: N802 - Twisted calls it by this name
        """Be idle again, but for what has yet to be sent."""
        self.note_unsent()
        super().requestDone(request)

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close once what was written has gone out, to a client that reads it.

        By TLS the client's word that it ends too is not awaited (RFC 8446 6.1): one that has the
        connection in its pool gives it when it next looks there.
        """
        if self.timeOut is None:
            self.note_unsent()
            self.setTimeout(self.site.timeOut)
        super().loseConnection()
        if ISSLTransport.providedBy(self.transport):
            tls: Any = self.transport
            tls.transport.loseConnection()

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Begin the idle time anew, for the first bytes of a head and any of a body.

        A head has that time to come whole: one that drips would hold its connection for good.
        """
        if not (self.line_mode and (self._buffer or self._receivedHeaderSize)):
            super().resetTimeout()

    def refuse(self, error: CortexError) -> None:
        """Answer what cannot be parsed or taken, then close once the client has heard it."""
        if self.refused:
            return
        self.refused = True
        # What still comes is read and goes nowhere, the rest of this very read included. A look at
        # ``refused`` in each of these would be eight more calls for every request.
        for name in ("dataReceived", "lineReceived", "rawDataReceived", "allContentReceived"):
            setattr(self, name, _ignore)
        path = getattr(self, "_path", b"").partition(b"?")[0].decode("utf-8", "replace")
        request_id = request_id_of(None)
        status, headers, body = error_response(path, error, request_id)
        _log_refusal(request_id, error, self.getPeer())
        headers |= {
            "Content-Length": str(len(body)),
            "Connection": "close",
            **request_id_headers(path, request_id),
        }
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        self.persistent = False
        self._linger()

    def writeHeaders(  # noqa: N802 - Twisted calls it by this name
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """Hold the head of a response for the first bytes of its body, which follow at once."""
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b\r\n" % (name, value) for value in values]
        lines.append(b"\r\n")
        self.hold(b"".join(lines))

    def hold(self, data: bytes) -> None:
        """Keep ``data`` for the next write, which sends both at once; it follows in this turn."""
        self._held += data

    def release(self) -> None:
        """Write what is held, if there is anything."""
        if self._held:
            self.write(b"")

    def writeSequence(self, iovec: Iterable[bytes]) -> None:  # noqa: N802 - as writeHeaders
        """Write several pieces as one."""
        self.write(b"".join(iovec))

    def write(self, data: bytes) -> None:
        """Write ``data`` at once where nothing waits to be written, else behind what waits.

        What is held goes out before it.

        Twisted's own write arms the poller and sends in the next turn of the reactor, which is a
        third of what a relayed chunk costs. The transport keeps what waits in two places, one of
        them private; with a transport that has them not, or with TLS, this is a plain write.
        """
        if self._held:
            data, self._held = self._held + data, b""
        transport = self.transport
        if (
            type(transport) is Server
            and not transport.dataBuffer
            and not getattr(transport, "_tempDataBuffer", True)
            and transport.connected
            and not transport.disconnecting
        ):
            try:
                sent = transport.socket.send(data)
            except OSError:
                sent = 0  # full, or broken: the plain write waits, or finds out
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def _linger(self) -> None:
        self.setTimeout(LINGER_SECONDS)
        is_by_tls = ISSLTransport.providedBy(self.transport)
        if is_by_tls or not ITCPTransport.providedBy(self.transport):
            super().loseConnection()  # by TLS it says that we end, and goes on reading
        else:
            self.transport.loseWriteConnection()

    def headerReceived(self, line: bytes) -> bool:  # noqa: N802 - Twisted calls it by this name
        """Take a header; of a length with too many digits to be read, as many as say enough."""
        if len(line) > MAX_LENGTH_DIGITS:
            name, _, value = line.partition(b":")
            digits = value.strip(b" \t")
            if name.lower() == b"content-length" and digits.isdigit():
                line = name + b":" + (digits.lstrip(b"0")[:MAX_LENGTH_DIGITS] or b"0")
        taken: bool = super().headerReceived(line)
        return taken

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that does not end."""
        self._refuse_headers()

    def note_unsent(self) -> int:
        """Note how many bytes the transport has yet to send, and return how many they were."""
        before, transport = self._unsent, self.transport
        waiting = getattr(transport, "_tempDataLen", 0) - getattr(transport, "offset", 0)
        self._unsent = waiting + len(getattr(transport, "dataBuffer", b""))
        return before

    def timeoutConnection(self) -> None:
        """Close an idle connection, without a line in the log for each.

        One whose client reads the answer, slowly, is not idle; to abort it would cut the answer
        off, and with it what the kernel has not sent yet. Of a client that was refused nothing more
        is awaited.
        """
        reads = self.note_unsent() > self._unsent > 0
        if reads and not self.refused:
            self.setTimeout(self.timeOut)
        elif self.refused or self._unsent or self.transport.disconnecting:
            self.transport.abortConnection()
        else:
            self.setTimeout(self.timeOut)
            self.loseConnection()

    def _refuse_headers(self) -> None:
        self.refuse(
            HeadersTooLarge(f"request line and headers are over {MAX_HEADER_BYTES // 1024} KiB")
        )

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_headers()
        elif self._receivedHeaderCount > self.maxHeaders:
            self.refuse(HeadersTooLarge(f"the request has over {self.maxHeaders} headers"))
        else:
            self.refuse(BadRequest("this is not a valid HTTP/1.1 request"))

    def _send100Continue(self) -> None:
        if not self.refused:
            super()._send100Continue()


def _ignore(*_: object) -> None:
    """Take no notice."""


_REASONS = {
    400: "Bad Request",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}


class GatewaySite(Site):
    """Serves ``resource`` to clients whose bodies are at most ``max_body_bytes`` long."""

    # HTTP/1.1 without Twisted's negotiation of HTTP/2 in between.
    noisy = False
    protocol = GatewayChannel  # type: ignore[assignment] # as declared, it is a function

    def __init__(self, resource: IResource, reactor: IReactorTime, max_body_bytes: int) -> None:
        super().__init__(
            resource,
            requestFactory=cast("Callable[..., Request]", GatewayRequest),
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.max_body_bytes = max_body_bytes
        self.connections: set[GatewayChannel] = set()
        self._emptied: Deferred[None] | None = None

    async def close_connections(self) -> None:
        """Close every connection once what was written has gone out, and wait for that.

        The process must not end before: what still waits for a slow reader would be lost. A client
        that takes longer than LINGER_SECONDS over it is cut off.
        """
        if not self.connections:
            return
        self._emptied = Deferred()
        for connection in list(self.connections):
            connection.loseConnection()
        timer = self.reactor.callLater(LINGER_SECONDS, self._abort_connections)
        await self._emptied
        if timer.active():
            timer.cancel()

    def _abort_connections(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def forget(self, connection: GatewayChannel) -> None:
        """Note that a connection is gone."""
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def log(self, request: object) -> None:
        """Write no access log: the gateway writes its own line for each request."""


def _log_refusal(request_id: str, error: CortexError, client: IAddress) -> None:
    log.info(
        "request_refused",
        request_id=request_id,
        status=error.status,
        reason=error.code or error.openai_type,
        client=_host(client),
    )


def _is_text(path: bytes) -> bool:
    if b"%" not in path and path.isascii():
        return True
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _host(address: IAddress) -> str:
    return str(getattr(address, "host", "unix"))
