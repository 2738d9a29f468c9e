"""The HTTP server under the gateway: twisted.web, held to limits and never speaking HTML.

What twisted.web does otherwise, and why it is changed here (Twisted 26.10):

- a request's body goes to a file on disk from 100 kB on and may have any size: here it stays in
  memory and ends at a limit;
- bad requests are answered by a bare status line: here by an error in the client's envelope,
  and what the client still sends is read to its end for a while, since closing on unread data
  resets the connection and the answer is lost;
- an exception becomes an HTML page: here an error in the envelope;
- the body of a form is parsed: never here, and no access log is written, for the gateway has
  its own line.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IReactorTime, ITCPTransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from cortexd.dialects.envelopes import error_response
from cortexd.errors import BadRequest, BodyTooLarge, CortexError, HeadersTooLarge, InternalError
from cortexd.logs import get_logger

MAX_HEADER_BYTES = 32 * 1024
"""Of request line and headers together. Twisted's own 16 KiB is less than some cookies take."""

LINGER_SECONDS = 5.0
"""How long what a refused client still sends is read before the connection is closed."""

SERVER_NAME = b"cortex"

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

log = get_logger("cortexd.http")


def request_id_of(given: str | None) -> str:
    """Return the client's own request id where it is sane, else a new one."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return f"req_{uuid.uuid4().hex}"


class GatewayRequest(Request):
    """One request of a client, its body in memory and under a limit."""

    channel: GatewayChannel
    defaultContentType = None  # what has no type set has no body
    request_id = ""
    broken_off = False

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

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take a whole request, unless it was refused on the way."""
        if not self.channel.refused:
            super().requestReceived(command, path, version)

    def process(self) -> None:
        """Serve the request once its path is known to be text."""
        self.request_id = request_id_of(self.getHeader("x-request-id"))
        super().process()

    @property
    def text_path(self) -> str:
        """The path as text, for choosing a dialect; what is not UTF-8 in it is replaced."""
        return (self.path or b"").decode("utf-8", "replace")

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response, unless the client is gone."""
        if self._disconnected or self.finished:
            return
        self.begin(status, {**headers, "Content-Length": str(len(body))})
        self.write(body)
        self.finish()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Set the head of a response; it goes out with the first bytes written."""
        self.setResponseCode(status)
        self.setHeader("Server", SERVER_NAME)
        self.setHeader("X-Request-ID", self.request_id)
        for name, value in headers.items():
            self.setHeader(name, value)

    def respond_error(self, error: CortexError) -> None:
        """Send an error in the client's envelope, unless the client is gone."""
        self.respond(*error_response(self.text_path, error))

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


def internal_error(request_id: str) -> InternalError:
    """Return what a client is told of an exception nobody foresaw."""
    return InternalError(f"an internal error, logged under request id {request_id}")


class GatewayChannel(HTTPChannel):
    """One connection of a client, held to limits."""

    site: GatewaySite
    transport: Any  # a TCP, TLS or UNIX connection, or a double of one
    totalHeadersSize = MAX_HEADER_BYTES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False

    def refuse(self, error: CortexError) -> None:
        """Answer what cannot be parsed or taken, then close once the client has heard it."""
        if self.refused:
            return
        self.refused = True
        path = getattr(self, "_path", b"").partition(b"?")[0].decode("utf-8", "replace")
        status, headers, body = error_response(path, error)
        request_id = request_id_of(None)
        log.info(
            "request_refused",
            request_id=request_id,
            status=status,
            reason=error.code or error.openai_type,
            client=_host(self.getPeer()),
        )
        headers |= {
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-ID": request_id,
        }
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        self.persistent = False
        self._linger()

    def _linger(self) -> None:
        self.setTimeout(LINGER_SECONDS)
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Parse what the client sends, unless it was refused: then only its end is awaited."""
        if not self.refused:
            super().dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        """Take body bytes, unless the request was refused in this very read."""
        if not self.refused:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the request's head, unless the request was refused in this very read."""
        if not self.refused:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that does not end."""
        self._refuse_headers()

    def timeoutConnection(self) -> None:
        """Close an idle connection, without a line in the log for each."""
        self.transport.abortConnection()

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

    def log(self, request: object) -> None:
        """Write no access log: the gateway writes its own line for each request."""


def _host(address: IAddress) -> str:
    return str(getattr(address, "host", "unix"))
