"""One request of a client: its body in memory, and the ways to answer it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from cortexd.access.callers import ANYBODY, NOBODY, Caller
from cortexd.access.keys import Scope
from cortexd.access.limits import Standing
from cortexd.admission.clients import SMALL_BODY
from cortexd.dialects.wire.envelopes import error_response, limit_headers, request_id_headers
from cortexd.dialects.wire.paths import canonical
from cortexd.downstream.body_memory import FREE_BYTES, Share
from cortexd.downstream.channel import LINGER_SECONDS, GatewayChannel
from cortexd.downstream.gate import Denied, Gate, Unproven
from cortexd.downstream.refusals import REASONS, challenges, log_refusal, request_id_of
from cortexd.downstream.targets import is_text, without_authority
from cortexd.errors import (
    BadRequest,
    BodyTooLarge,
    CortexError,
    Forbidden,
    GatewayBusy,
    MethodNotAllowed,
    Unauthenticated,
    internal_error,
)
from cortexd.logs import get_logger
from cortexd.text import one_line

SERVER_NAME = b"cortex"

RETRY_WHEN_FULL_OF_BODIES = 2.0
"""Seconds after which to retry when there is no memory left for a body."""

_FOREIGN_HOST = (
    "the Host header, or X-Forwarded-Host of a trusted proxy, is no name of this gateway: use its "
    "address, or list the name in gateway.hosts of the gateway's configuration"
)
_FOREIGN_PAGE = (
    "a page of another origin may not send this: list the page's origin in gateway.cors_origins of "
    "the gateway's configuration; other clients leave out the header Origin, or send JSON with "
    "Content-Type: application/json"
)

_STRANGE_BODY = (
    f"the body is larger than {SMALL_BODY // 1024} KiB, which needs a valid key of the gateway"
)

log = get_logger("cortexd.http")


class GatewayRequest(Request):
    """One request of a client, its body in memory and under a limit.

    ``standing`` returns what is left of the limits of the caller's key, for the response's head,
    and ``admission`` is what the request takes of them (``cortexd.metering.meters``).
    """

    channel: GatewayChannel
    defaultContentType = None  # a response without a type has no body
    request_id = ""
    caller: Caller = NOBODY
    standing: Callable[[], Standing | None] | None = None
    admission: Any = None
    broken_off = False
    takes_comments = False
    bytes_out = 0
    body_bytes = 0
    body_since: float | None = None
    _objection: CortexError | None = None
    _client_host: str | None = None
    _share: Share | None = None
    _entry: Denied | Unproven | None = None
    _is_stranger = False
    _proving: Deferred[None] | None = None

    def gotLength(self, length: int | None) -> None:
        """Take the end of the head; refuse a body whose stated length is over the limit.

        The connection is idle no longer. Where the load does not allow the request, a small body is
        read before it is refused, so that the connection can go on. Of a request without a valid
        key no more than a small body is read either.
        """
        self.content = io.BytesIO()
        channel = self.channel
        crowd = channel.site.crowd
        crowd.idle.pop(channel, None)
        if length is not None and length > channel.site.max_body_bytes:
            self._refuse_body()
        elif crowd.is_shedding or crowd.surplus:
            self._look_at_load(length)
        if (length is None or length > SMALL_BODY) and not channel.refused:
            self._look_at_key()
            self._is_stranger = self.caller is NOBODY
            if self._is_stranger and length is not None:
                self._stop_stranger()

    def _look_at_load(self, length: int | None) -> None:
        channel = self.channel
        objection = channel.objection()
        if channel in channel.site.crowd.surplus:
            self.close_after_response()
        if objection is None:
            return
        if length is not None and length <= SMALL_BODY:
            self._objection = objection
        else:
            channel.refuse(objection, is_logged=False)

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, up to the limit."""
        self.body_bytes += len(data)
        if self.body_bytes > self.channel.site.max_body_bytes:
            self._refuse_body()
        elif self.body_bytes <= FREE_BYTES or self._take_memory(len(data)):
            super().handleContentChunk(data)

    def _look_at_key(self) -> None:
        """Find out who sends the request, as far as that is known."""
        gate = self.channel.site.gate
        found = ANYBODY if gate is None else gate.look(self.requestHeaders)
        if isinstance(found, Caller):
            self.caller = found
        else:
            self._entry = found

    @property
    def is_unproven(self) -> bool:
        """Whether the request has a key that has to be compared first; see ``prove``."""
        return isinstance(self._entry, Unproven)

    async def prove(self) -> None:
        """Find out whose key the request has, if its key comes for the first time.

        Raises GatewayBusy where too many keys wait.
        """
        if isinstance(self._entry, Unproven):
            gate = self._gate
            found = await gate.prove(self._entry, self.client_host)
            if isinstance(found, Caller):
                self.caller, self._entry = found, None
            else:
                self._entry = found

    def check_scopes(self, scopes: frozenset[Scope]) -> None:
        """Raise Unauthenticated without a valid key, Forbidden if it has none of the scopes."""
        if scopes.isdisjoint(self.caller.scopes):
            if isinstance(self._entry, Denied):
                raise self._gate.denial(self._entry, self.request_id, self.client_host)
            raise self._gate.lack(self.caller, scopes)

    @property
    def _gate(self) -> Gate:
        gate = self.channel.site.gate
        if gate is None:
            raise RuntimeError("a request that needs a key came without a gate")
        return gate

    def _stop_stranger(self) -> None:
        """Read no more of a body that is not small before the key is found to be valid."""
        if self._proving is not None:
            return
        channel = self.channel
        if not channel.needs_key():
            channel.refuse(BodyTooLarge(_STRANGE_BODY))
        elif isinstance(self._entry, Unproven):
            channel.stop_reading()
            self._proving = Deferred.fromCoroutine(self.prove())
            self._proving.addCallbacks(self._proved, self._not_proved)
            self._proving.addErrback(self.processingFailed)
        elif self._entry is not None:
            channel.refuse(self._denial(self._entry), is_logged=False)

    def _denial(self, denied: Denied) -> CortexError:
        return self._gate.denial(denied, self.request_id, self.client_host)

    def _proved(self, _: None) -> None:
        """Read on, or refuse the request, unless its body has come whole meanwhile."""
        channel = self.channel
        self._is_stranger = self.caller is NOBODY
        if isinstance(self._entry, Denied) and not channel.is_handling:
            self._give_up_body(self._denial(self._entry), is_logged=False)
        channel.read_on()

    def _not_proved(self, failure: Failure) -> None:
        if failure.check(CancelledError):  # the client has left
            return
        channel, error = self.channel, failure.value
        if not isinstance(error, CortexError):
            failure.raiseException()
        elif not channel.is_handling:
            self._give_up_body(error)
        channel.read_on()

    def _give_up_body(self, error: CortexError, *, is_logged: bool = True) -> None:
        self.content = io.BytesIO()
        self.forget_body()
        self.channel.refuse(error, is_logged=is_logged)

    def _take_memory(self, size: int) -> bool:
        """Take memory for a piece of the body; refuse the request where there is none left."""
        if self._is_stranger:
            self._stop_stranger()
            if self.channel.refused:
                self.content = io.BytesIO()
                return False
        share = self._share
        if share is None:
            share = self._share = Share(self.channel.site.body_memory)
        if share.grow(size):
            return True
        self._give_up_body(
            GatewayBusy(
                "the bodies of all requests in progress take as much memory as they may "
                "(gateway.body_memory_mb); try again shortly",
                retry_after=RETRY_WHEN_FULL_OF_BODIES,
            )
        )
        return False

    def forget_body(self) -> None:
        """Give the memory of the body back."""
        if self._share is not None:
            self._share.free()

    def hand_share_over(self) -> Share | None:
        """Return the memory of the body to work that goes on after this request."""
        share, self._share = self._share, None
        return share

    def connectionLost(self, reason: Failure) -> None:
        """End with the connection."""
        self.forget_body()
        if self._proving is not None:
            self._proving.cancel()
        super().connectionLost(reason)

    def _refuse_body(self) -> None:
        limit = self.channel.site.max_body_bytes // (1024 * 1024)
        words = "requests to this address have no body"
        if limit:
            words = f"the body is larger than {limit} MiB (gateway.max_body_mb)"
        self._give_up_body(BodyTooLarge(words))

    def process(self) -> None:
        """Serve the request once its path is known to be text.

        A path that means a route becomes that of the route, and a browser's preflight is answered.
        """
        given_id = self.getHeader(b"x-request-id")
        self.request_id = request_id_of(given_id.decode("latin-1") if given_id else None)
        self.path = without_authority(self.path)
        site = self.channel.site
        forwarded = self.channel.forwarded_hosts(self.requestHeaders)
        if self._objection is not None:
            self.respond_error(self._objection)
        elif self.path == b"*":
            self._answer_asterisk()
        elif not is_text(self.path):
            self._refuse(BadRequest("the path is not UTF-8"))
        elif not site.hosts.accepts(self.requestHeaders, forwarded):
            self._refuse(Forbidden(_FOREIGN_HOST))
        elif site.cross_origin.is_intrusion(self.method, self.requestHeaders, forwarded):
            self._refuse(Forbidden(_FOREIGN_PAGE))
        elif granted := site.cross_origin.preflight(self.method, self.requestHeaders):
            self.begin(204, granted)
            self.finish()
        else:
            self.path = canonical(self.path)
            if self.caller is NOBODY and self._entry is None:
                self._look_at_key()
            super().process()

    def _answer_asterisk(self) -> None:
        if self.method == b"OPTIONS":  # RFC 9110 9.3.7: a ping of the server as a whole
            self.respond(200, {}, b"")
        else:
            self._refuse(MethodNotAllowed("'*' accepts only OPTIONS", allow=("OPTIONS",)))

    def _refuse(self, error: CortexError) -> None:
        log_refusal(self.request_id, error, self.client_host)
        self.respond_error(error)

    def getRequestHostname(self) -> bytes:  # noqa: N802 - Klein calls it by this name
        """Return our own name: some values of Host make Klein fail."""
        return SERVER_NAME

    def isSecure(self) -> bool:  # noqa: N802 - Klein calls it by this name
        """Return whether the client came over TLS, without Twisted's search for adapters."""
        return bool(ISSLTransport.providedBy(self.channel.transport))

    @property
    def client_host(self) -> str:
        """The address of the client, also behind a trusted proxy; ``unix`` over a UNIX socket."""
        # A stream gives up the headers of its request, so that the host is found once.
        if self._client_host is None:
            self._client_host = self.channel.client_host(self.requestHeaders)
        return self._client_host

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

    def send_nothing(self) -> bool:
        """Send the client bytes that mean nothing; return whether there are any.

        Before the answer this is an interim one, which a client of HTTP/1.1 must accept at any time
        (RFC 9110 15.2), and 100 is the one that all of them do. Between the events of a stream it
        is a comment.
        """
        if self.startedWriting:
            if self.takes_comments:
                self.write(b":\n\n")
            return self.takes_comments
        is_current = self.clientproto == b"HTTP/1.1"
        if is_current:
            self.channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return is_current

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
        self.setResponseCode(status, REASONS.get(status))
        self.setHeader("Server", SERVER_NAME)
        ids = request_id_headers(
            self.text_path, self.request_id, has_version=self.has_anthropic_version
        )
        cross_origin = self.channel.site.cross_origin.headers(self.requestHeaders)
        if self.standing is not None:
            headers = {**self._limits(), **headers}
        for name, value in {**ids, **cross_origin, **headers}.items():
            # A node may give its models any name, also one that controls a terminal.
            self.setHeader(name, value if value.isprintable() else one_line(value))

    def _limits(self) -> Mapping[str, str]:
        """Return the headers with what is left of the limits of the caller's key."""
        standing = None if self.standing is None else self.standing()
        if standing is None:
            return {}
        return limit_headers(self.text_path, standing, has_version=self.has_anthropic_version)

    def close_after_response(self) -> None:
        """Make this response the last one on its connection, and state that in its head."""
        self.channel.persistent = False
        self.setHeader("Connection", "close")

    def respond_error(self, error: CortexError) -> None:
        """Send an error in the client's envelope, unless the client is gone."""
        has_version = self.has_anthropic_version
        if isinstance(error, Unauthenticated):
            for challenge in challenges(self.method, self.requestHeaders):
                self.responseHeaders.addRawHeader(b"WWW-Authenticate", challenge)
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
            self.forget_body()
            super().finish()
