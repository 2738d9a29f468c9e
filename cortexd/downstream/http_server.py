"""The HTTP server under the gateway: twisted.web with limits and without HTML.

This server departs from twisted.web (26.10) in these points:

- twisted.web writes a body of more than 100 kB to a file and takes any size; here the body stays
  in memory and has a limit;
- it lets the head of a request come as slowly as the client likes; here the head has the idle
  time;
- it answers a bad request with a bare status line; here the answer is an error in the client's
  envelope, and the server goes on reading for a while, since closing on unread data would reset
  the connection and lose the answer;
- it cuts a slow reader of a large answer off once the connection is idle otherwise, but never
  after the last answer of a connection; here it does so once the client stops reading;
- over TLS it keeps a connection until the client closes it too; here it does not wait for that;
- it makes an HTML page of an exception; here the client gets an error in the envelope;
- it parses the bodies of forms and writes an access log; here it does neither, since the gateway
  writes its own line for each request.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

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
from cortexd.dialects.wire.paths import canonical
from cortexd.downstream.cross_origin import NO_ORIGINS, CrossOrigin
from cortexd.downstream.refusals import refusal
from cortexd.downstream.targets import is_text, without_authority
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
"""The limit of request line and headers together. Some cookies take more than Twisted's 16 KiB."""

LINGER_SECONDS = 5.0
"""How long the server reads on after it has refused a request, before it closes the connection."""

SERVER_NAME = b"cortex"

MAX_LENGTH_DIGITS = 20
"""The most digits of a Content-Length: a longer number is over any limit, and Python reads no
number of more than 4300."""

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

log = get_logger("cortexd.http")


def request_id_of(given: str | None) -> str:
    """Return the client's own request id where it is a plain one, else a new one."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return f"req_{os.urandom(16).hex()}"


class GatewayRequest(Request):
    """One request of a client, its body in memory and under a limit."""

    channel: GatewayChannel
    defaultContentType = None  # a response without a type has no body
    request_id = ""
    broken_off = False
    bytes_out = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body whose stated length is over the limit, before it is read."""
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
            BodyTooLarge(f"the body is larger than {limit} MiB (gateway.max_body_mb)")
        )

    def process(self) -> None:
        """Serve the request once its path is known to be text.

        A path that means a route becomes that of the route, and a browser's preflight is answered.
        """
        given_id = self.getHeader(b"x-request-id")
        self.request_id = request_id_of(given_id.decode("latin-1") if given_id else None)
        self.path = without_authority(self.path)
        if self.path == b"*":
            self._answer_asterisk()
        elif not is_text(self.path):
            self._refuse(BadRequest("the path is not UTF-8"))
        elif granted := self.channel.site.cross_origin.preflight(self.method, self.requestHeaders):
            self.begin(204, granted)
            self.finish()
        else:
            self.path = canonical(self.path)
            super().process()

    def _answer_asterisk(self) -> None:
        if self.method == b"OPTIONS":  # RFC 9110 9.3.7: a ping of the server as a whole
            self.respond(200, {}, b"")
        else:
            self._refuse(MethodNotAllowed("'*' accepts only OPTIONS", allow=("OPTIONS",)))

    def _refuse(self, error: CortexError) -> None:
        _log_refusal(self.request_id, error, self.client)
        self.respond_error(error)

    def getRequestHostname(self) -> bytes:  # noqa: N802 - Klein calls it by this name
        """Return our own name: some values of Host make Klein fail."""
        return SERVER_NAME

    def isSecure(self) -> bool:  # noqa: N802 - Klein calls it by this name
        """Return whether the client came over TLS, without Twisted's search for adapters."""
        return bool(ISSLTransport.providedBy(self.channel.transport))

    @property
    def text_path(self) -> str:
        """The path as text, for the choice of a dialect; bytes that are not UTF-8 are replaced."""
        return (self.path or b"").decode("utf-8", "replace")

    @property
    def has_anthropic_version(self) -> bool:
        """Whether a header of the client states that it speaks Anthropic's dialect."""
        return bool(self.requestHeaders.hasHeader(b"anthropic-version"))

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response, unless the client is gone."""
        if self._disconnected or self.finished:
            return
        self.begin(status, {**headers, "Content-Length": str(len(body))})
        self.write(body)
        self.finish()

    def write(self, data: bytes) -> None:
        """Send a piece of the body, unless the client is gone; in a stream by a short cut."""
        self.bytes_out += len(data)
        if self.startedWriting and self.chunked and data and not self._disconnected:
            self.channel.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            super().write(data)
            if not self._disconnected:
                self.channel.release()
            if self.chunked:
                # A stream keeps its request for long, but needs its heads of some 3 KB no more.
                self.requestHeaders, self.responseHeaders = Headers(), Headers()

    def finish_with(self, last: bytes) -> None:
        """End a stream. Its last piece, if any, goes out together with the end."""
        if last and self.startedWriting and self.chunked and not self._disconnected:
            self.bytes_out += len(last)
            self.channel.hold(b"%x\r\n%b\r\n" % (len(last), last))
        elif last:
            self.write(last)
        self.finish()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Set the head of a response; it goes out with the first bytes of the body."""
        self.setResponseCode(status)
        self.setHeader("Server", SERVER_NAME)
        ids = request_id_headers(
            self.text_path, self.request_id, has_version=self.has_anthropic_version
        )
        cross_origin = self.channel.site.cross_origin.headers(self.requestHeaders)
        for name, value in {**ids, **cross_origin, **headers}.items():
            self.setHeader(name, value)

    def close_after_response(self) -> None:
        """Make this response the last one on its connection, and state that in its head."""
        self.channel.persistent = False
        self.setHeader("Connection", "close")

    def respond_error(self, error: CortexError) -> None:
        """Send an error in the client's envelope, unless the client is gone."""
        has_version = self.has_anthropic_version
        self.respond(
            *error_response(self.text_path, error, self.request_id, has_version=has_version)
        )

    def processingFailed(self, reason: Failure) -> Failure:
        """Report a mistake of ours: log the traceback, and send the request's id to the client."""
        log.error("request_crashed", request_id=self.request_id, failure=reason)
        if self.startedWriting:
            self.break_off()
        else:
            self.respond_error(internal_error(self.request_id))
        return reason

    def break_off(self) -> None:
        """End the response so that no client can take it for complete.

        The bytes written so far go out; then the connection is closed without the last chunk.
        """
        if not self._disconnected and not self.finished:
            self.broken_off = True
            self.channel.setTimeout(LINGER_SECONDS)
            self.channel.loseConnection()

    def finish(self) -> None:
        """End the response, once, unless it was broken off or the client is gone.

        Klein calls this after each handler, also where the handler has ended the response itself.
        """
        if not (self.broken_off or self.finished or self._disconnected):
            super().finish()


class GatewayChannel(HTTPChannel):
    """One connection of a client, with limits."""

    site: GatewaySite
    transport: Any  # a TCP, TLS or UNIX connection, or a double of one
    totalHeadersSize = MAX_HEADER_BYTES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False
    _held = b""
    _unsent = 0

    def connectionMade(self) -> None:
        """Add this connection to the site's."""
        super().connectionMade()
        self.site.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget this connection; the request that is being answered ends with it."""
        super().connectionLost(reason)
        self.site.forget(self)

    def requestDone(self, request: Request) -> None:  # noqa: N802 - Twisted calls it by this name
        """Make the connection idle again, and note what it has yet to send."""
        self.note_unsent()
        super().requestDone(request)

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close once the client has read what was written.

        Over TLS, do not wait for the client to close as well (RFC 8446 6.1): a client that keeps
        the connection in its pool does so only when it next looks there.
        """
        if self.timeOut is None:
            self.note_unsent()
            self.setTimeout(self.site.timeOut)
        super().loseConnection()
        if ISSLTransport.providedBy(self.transport):
            tls: Any = self.transport
            tls.transport.loseConnection()

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Restart the idle time for the first bytes of a head and any bytes of a body.

        The whole head has to come within that time, because a head that drips would otherwise hold
        its connection for good.
        """
        if not (self.line_mode and (self._buffer or self._receivedHeaderSize)):
            super().resetTimeout()

    def refuse(self, error: CortexError) -> None:
        """Refuse a request with this error, then close once the client has read the answer."""
        if self.refused:
            return
        self.refused = True
        # From here on bytes are read and dropped, the rest of this very read included. To look at
        # ``refused`` in each of these methods would cost every request eight more calls.
        for name in ("dataReceived", "lineReceived", "rawDataReceived", "allContentReceived"):
            setattr(self, name, _ignore)
        path = canonical(getattr(self, "_path", b"").partition(b"?")[0]).decode("utf-8", "replace")
        request_id = request_id_of(None)
        _log_refusal(request_id, error, self.getPeer())
        # As far as the head of the request has come.
        asked = self.requests[-1].requestHeaders if self.requests else Headers()
        cross_origin = self.site.cross_origin.headers(asked)
        self.transport.write(refusal(path, error, request_id, cross_origin))
        self.persistent = False
        self._linger()

    def writeHeaders(  # noqa: N802 - Twisted calls it by this name
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """Hold the head of a response until the first bytes of its body, which follow at once."""
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        for name, values in headers.getAllRawHeaders():
            lines += [b"%b: %b\r\n" % (name, value) for value in values]
        lines.append(b"\r\n")
        self.hold(b"".join(lines))

    def hold(self, data: bytes) -> None:
        """Keep ``data`` for the next write, which follows in this turn and sends both at once."""
        self._held += data

    def release(self) -> None:
        """Write the bytes that are held, if any."""
        if self._held:
            self.write(b"")

    def writeSequence(self, iovec: Iterable[bytes]) -> None:  # noqa: N802 - as writeHeaders
        """Write several pieces as one."""
        self.write(b"".join(iovec))

    def write(self, data: bytes) -> None:
        """Write ``data`` at once where no bytes wait to be written, else behind those that wait.

        Held bytes go out before it.

        Twisted's own write arms the poller and sends in the next turn of the reactor, which makes
        up a third of the cost of a relayed chunk. The transport keeps waiting bytes in two places,
        one of them private. With a transport that lacks those, or over TLS, this is a plain write.
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
                sent = 0  # the socket is full or broken, and the plain write waits or finds out
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def _linger(self) -> None:
        self.setTimeout(LINGER_SECONDS)
        is_by_tls = ISSLTransport.providedBy(self.transport)
        if is_by_tls or not ITCPTransport.providedBy(self.transport):
            super().loseConnection()  # over TLS this states our end, and reading goes on
        else:
            self.transport.loseWriteConnection()

    def headerReceived(self, line: bytes) -> bool:  # noqa: N802 - Twisted calls it by this name
        """Take a header; cut a length with too many digits to as many as still exceed any limit."""
        if len(line) > MAX_LENGTH_DIGITS:
            name, _, value = line.partition(b":")
            digits = value.strip(b" \t")
            if name.lower() == b"content-length" and digits.isdigit():
                line = name + b":" + (digits.lstrip(b"0")[:MAX_LENGTH_DIGITS] or b"0")
        taken: bool = super().headerReceived(line)
        return taken

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request whose line does not end."""
        self._refuse_headers()

    def note_unsent(self) -> int:
        """Note how many bytes the transport has yet to send, and return the number noted before."""
        before, transport = self._unsent, self.transport
        waiting = getattr(transport, "_tempDataLen", 0) - getattr(transport, "offset", 0)
        self._unsent = waiting + len(getattr(transport, "dataBuffer", b""))
        return before

    def timeoutConnection(self) -> None:
        """Close an idle connection, without a line in the log.

        A connection is not idle while its client reads the answer slowly: to abort it would cut
        off the answer and the bytes that the kernel has not sent yet. After a refusal there is
        nothing to wait for.
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
            HeadersTooLarge(
                f"request line and headers are larger than {MAX_HEADER_BYTES // 1024} KiB"
            )
        )

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_headers()
        elif self._receivedHeaderCount > self.maxHeaders:
            self.refuse(HeadersTooLarge(f"the request has more than {self.maxHeaders} headers"))
        else:
            self.refuse(BadRequest("this is not a valid HTTP/1.1 request"))

    def _send100Continue(self) -> None:
        if not self.refused:
            super()._send100Continue()


def _ignore(*_: object) -> None:
    """Do nothing."""


class GatewaySite(Site):
    """Serves ``resource`` to clients whose bodies are at most ``max_body_bytes`` long.

    ``cross_origin`` knows which pages in browsers may read the answers.
    """

    # The channel itself, without Twisted's negotiation of HTTP/2 in between.
    noisy = False
    protocol = GatewayChannel  # type: ignore[assignment] # as declared, it is a function

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        max_body_bytes: int,
        cross_origin: CrossOrigin = NO_ORIGINS,
    ) -> None:
        super().__init__(
            resource,
            requestFactory=cast("Callable[..., Request]", GatewayRequest),
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.max_body_bytes = max_body_bytes
        self.cross_origin = cross_origin
        self.connections: set[GatewayChannel] = set()
        self._emptied: Deferred[None] | None = None

    async def close_connections(self) -> None:
        """Close every connection once its bytes have gone out, and wait for that.

        The process must not end before, because bytes that wait for a slow reader would be lost. A
        client that takes longer than LINGER_SECONDS is cut off.
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
        """Remove a connection that is gone."""
        self.connections.discard(connection)
        if self._emptied is not None and not self.connections:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def log(self, request: object) -> None:
        """Write no access log, since the gateway writes its own line for each request."""


def _log_refusal(request_id: str, error: CortexError, client: IAddress) -> None:
    log.info(
        "request_refused",
        request_id=request_id,
        status=error.status,
        reason=error.code or error.openai_type,
        client=_host(client),
    )


def _host(address: IAddress) -> str:
    return str(getattr(address, "host", "unix"))
