"""One connection of a client: the parser of twisted.web under limits, and short ways to write.

``cortexd.downstream.http_server`` lists the differences from twisted.web.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.server import Request
from zope.interface import implementer

from cortexd.admission.clients import SURPLUS_SECONDS
from cortexd.admission.proxies import UNIX, Proxies
from cortexd.dialects.wire.paths import canonical
from cortexd.downstream.body_memory import BodyMemory
from cortexd.downstream.cross_origin import CrossOrigin
from cortexd.downstream.crowd import Crowd
from cortexd.downstream.gate import Gate
from cortexd.downstream.hosts import Hosts
from cortexd.downstream.introductions import host_of
from cortexd.downstream.passing_on import PassingOn
from cortexd.downstream.refusals import log_refusal, refusal, request_id_of
from cortexd.downstream.targets import without_authority
from cortexd.errors import BadRequest, CortexError, HeadersTooLarge, RequestTimeout
from cortexd.headers import header_list

MAX_HEADER_BYTES = 32 * 1024
"""The limit of request line and headers together. Some cookies take more than Twisted's 16 KiB."""

LINGER_SECONDS = 5.0
"""How long the server reads on after it has refused a request, before it closes the connection."""

FIRST_LOOK_SECONDS = 0.001
LAST_LOOK_SECONDS = 1.0
"""Whether a client that ended its side has left is looked at after ever longer times: its reset
takes as long as the way to it and back."""

UNCOPIED_BYTES = 1024 * 1024
"""A longer body is not put together with its head: each copy of 32 MiB takes some 30 ms."""

MAX_LENGTH_DIGITS = 20
"""The most digits of a Content-Length: a longer number is over any limit, and Python reads no
number of more than 4300."""


class Door(Protocol):
    """The site of a connection: its limits, its idle time in seconds, and its connections."""

    max_body_bytes: int
    body_memory: BodyMemory
    cross_origin: CrossOrigin
    hosts: Hosts
    proxies: Proxies
    passing_on: PassingOn | None
    crowd: Crowd[GatewayChannel]
    gate: Gate | None
    reactor: Any
    timeOut: Any  # noqa: N815 - Twisted calls it by this name

    def forget(self, connection: GatewayChannel) -> None:
        """Remove a connection that is gone."""


@implementer(IHalfCloseableProtocol)
class GatewayChannel(HTTPChannel):
    """One connection of a client, with limits.

    A client that has ended its side of the connection may have left, or may still wait for the
    answer (RFC 9112 9.6): both send the same. Bytes to a client that has left come back as a reset.
    So bytes that mean nothing are sent, and the connection is looked at a few times.
    """

    site: Door
    transport: Any  # a TCP, TLS or UNIX connection, or a double of one
    totalHeadersSize = MAX_HEADER_BYTES
    MAX_LENGTH = MAX_HEADER_BYTES
    refused = False
    peer_host = UNIX
    _look: IDelayedCall | None = None
    _look_after = FIRST_LOOK_SECONDS
    _held = b""
    _unsent = 0
    _reads_not = False
    _owes_go_ahead = False

    def connectionMade(self) -> None:
        """Add this connection to the site's."""
        super().connectionMade()
        self.peer_host = host_of(self.getPeer())
        if self.site.crowd.enter(self):
            self.setTimeout(SURPLUS_SECONDS)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget this connection; the request that is being answered ends with it."""
        if self._look is not None and self._look.active():
            self._look.cancel()
        super().connectionLost(reason)
        if self.site.passing_on is not None:
            self.site.passing_on.client_left(self)
        self.site.forget(self)

    def readConnectionLost(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Take the end of the client's side, each time that the transport reads it.

        Where no request is being answered, or nothing can be sent to find out whether the client
        has left, it has left. HTTP/1.0 has no interim answers, and proxies that speak it close the
        connection when their own client has left.
        """
        if self.refused or not self._handlingRequest or not self.requests:
            self.loseConnection()
        elif self._look is None:
            if self.requests[0].send_nothing():
                self._look_for_reset()
            else:
                self.transport.abortConnection()

    def _look_for_reset(self) -> None:
        """Let the transport look whether its bytes came back as a reset, now and then.

        After the end of what the client sends, reading shows no reset (tcp_recvmsg in Linux), and
        without an interest in the socket Twisted hears of none.
        """
        self.transport.startWriting()
        self._look = self.callLater(self._look_after, self._look_for_reset)
        self._look_after = min(2 * self._look_after, LAST_LOOK_SECONDS)

    def writeConnectionLost(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Do nothing: we ended our own side."""

    def requestDone(self, request: Request) -> None:  # noqa: N802 - Twisted calls it by this name
        """Make the connection idle again, and note what it has yet to send."""
        self.note_unsent()
        if self.persistent:
            self.site.crowd.idle[self] = None
        super().requestDone(request)
        if self.site.passing_on is not None:
            self.pass_on(self.site.passing_on)

    @property
    def is_idle(self) -> bool:
        """Whether no byte of a request has come since the last answer."""
        begun = self.requests or self._buffer or self._receivedHeaderSize
        return not (begun or self.refused) and bool(self.line_mode)

    def pass_on(self, passing_on: PassingOn) -> None:
        """Pass what comes next on to our successor, if this connection is idle and stays open."""
        if self.is_idle and not self.transport.disconnecting:
            self.setTimeout(None)
            passing_on.begin(self)

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
        its connection for good. A body that drips is refused.
        """
        if self.line_mode:
            if not (self._buffer or self._receivedHeaderSize):
                super().resetTimeout()
        elif not self._handlingRequest:
            super().resetTimeout()
            self._check_body()

    def client_host(self, headers: Headers) -> str:
        """Return the host of the client whose request has these headers."""
        proxies = self.site.proxies
        if not proxies.trusts(self.peer_host):
            return self.peer_host
        return proxies.client(self.peer_host, header_list(headers, "x-forwarded-for"))

    def forwarded_hosts(self, headers: Headers) -> list[str]:
        """Return the hosts for which a trusted proxy got the request, if it states any."""
        if not self.site.proxies.trusts(self.peer_host):
            return []
        stated = header_list(headers, "x-forwarded-host").split(",")
        return [host for each in stated if (host := each.strip())]

    @property
    def is_handling(self) -> bool:
        """Whether the request has come whole."""
        return bool(self._handlingRequest)

    def needs_key(self) -> bool:
        """Whether the request whose head has just come needs a key."""
        gate, path = self.site.gate, canonical(without_authority(self._path.partition(b"?")[0]))
        return gate is not None and gate.is_needed(self._command, path)

    def stop_reading(self) -> None:
        """Read no more of the body, until ``read_on``; the rest of this very read comes still."""
        self._reads_not = True
        self._networkProducer.pauseProducing()

    def read_on(self) -> None:
        """Read the body again, whose time begins anew."""
        if not self._reads_not:
            return
        self._reads_not = False
        if self.requests:
            self.requests[-1].body_since = None
        if self._owes_go_ahead and not self.is_handling:
            self._send100Continue()
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()

    def resumeProducing(self) -> None:
        """Take up again what waited for the transport to send."""
        super().resumeProducing()
        if self._reads_not:
            self._networkProducer.pauseProducing()

    def objection(self) -> CortexError | None:
        """Return why the load does not allow the request whose head has just come."""
        return self.site.crowd.objection(self, self._command, self._path)

    def _check_body(self) -> None:
        site, request, now = self.site, self.requests[-1], self.site.reactor.seconds()
        if request.body_since is None:
            request.body_since = now
        elif site.crowd.limits.is_too_slow(now - request.body_since, request.body_bytes):
            self._refuse_slow_body()

    def _refuse_slow_body(self) -> None:
        self.refuse(
            RequestTimeout(
                "the body of the request came too slowly (gateway.body_timeout); check the "
                "connection, and send it again"
            )
        )

    def refuse(self, error: CortexError, *, is_logged: bool = True) -> None:
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
        # As far as the head of the request has come.
        asked = self.requests[-1].requestHeaders if self.requests else Headers()
        if is_logged:
            log_refusal(request_id, error, self.client_host(asked))
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
            held, self._held = self._held, b""
            if len(data) > UNCOPIED_BYTES:
                self.write(held)
                self.transport.write(data)  # alone in its buffer, it is sent from where it lies
                return
            data = held + data
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

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of the last answer wait for the client to read."""
        self.note_unsent()
        return self._unsent > 0

    def make_room(self) -> None:
        """Close the connection, which is between two requests, for the sake of a new one."""
        self.loseConnection()

    def turn_away(self) -> None:
        """Close the connection at once: there is not even room to refuse its request."""
        self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """Close an idle connection, without a line in the log.

        A connection is not idle while we do not read it, nor while its client reads the answer
        slowly: to abort it would cut
        off the answer and the bytes that the kernel has not sent yet. After a refusal there is
        nothing to wait for.
        """
        reads = self.note_unsent() > self._unsent > 0
        if self._reads_not:
            self.setTimeout(self.timeOut)
            return
        is_in_body = not self.line_mode and not self._handlingRequest
        if is_in_body and not self.refused and not self.transport.disconnecting:
            self._refuse_slow_body()
        elif reads and not self.refused:
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
        self._owes_go_ahead = self._reads_not
        if not (self.refused or self._reads_not):
            super()._send100Continue()


def _ignore(*_: object) -> None:
    """Do nothing."""
