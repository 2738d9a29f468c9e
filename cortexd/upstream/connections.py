"""Connections to nodes: how they are made, kept and read."""

from __future__ import annotations

import socket
from functools import cache, lru_cache
from typing import Any, NamedTuple

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.tcp import Client
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web._newclient import (
    HTTP11ClientProtocol,
    Request,
    RequestTransmissionFailed,
    ResponseNeverReceived,
)
from twisted.web.client import URI, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http import _ChunkedTransferDecoder
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

MAX_CONNECTIONS_KEPT = 64
"""Idle connections kept to each node: a burst of that many requests finds them warm."""

IDLE_SECONDS = 60
"""How long an idle connection is kept. A node itself sets no limit (nodes.md 8.6)."""

MAX_URLS_KNOWN = 1024
"""How many URLs are known: those of the routes of many nodes, and some of single answers."""

PIECE_BYTES = 128 * 1024
"""How much of a request's body is written at once: what Twisted hands to the kernel at once."""

LONG_IDLE_SECONDS = 1.0
"""How long a connection must have been idle for a server to have closed it for that: the usual
limits are 2 s (gunicorn), 5 s (uvicorn, Node.js, Apache) and more."""

SOON_SECONDS = 1.0
"""How soon after a request went out its connection must end for it to be sent again.

A node that closes an idle connection does so before it has the request: we hear of it within one
way through the network. A node that took the request and ends later may have died of the work, and
would be asked for all of it once more.
"""

KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # macOS calls it TCP_KEEPALIVE, number 16.
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0x10), 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""What tells a machine that is gone from one that thinks: the kernel of the second answers.

A node that went without a word is known for gone after 40 s of silence, not only when
``upstream_timeout`` is over.
"""

HTTP_1_1 = (b"HTTP", 1, 1)

MAX_SIZE_DIGITS = 8
"""How far ``whole_chunk`` looks for the end of a chunk's size; a read of 64 KiB needs four."""


def make_http_client(reactor: Any, connect_timeout: float) -> tuple[HTTPClient, HTTPConnectionPool]:
    """Return an HTTP client for nodes, and the pool that must be closed when it is done with.

    ``connect_timeout`` is in seconds.
    """
    pool = _Pool(reactor)
    pool.maxPersistentPerHost = MAX_CONNECTIONS_KEPT
    pool.cachedConnectionTimeout = IDLE_SECONDS
    pool.retryAutomatically = False
    agent = _NodeAgent(reactor, connect_timeout, pool)
    client = HTTPClient(agent, cookiejar=NO_COOKIES, data_to_body_producer=RequestBody)
    return client, pool


class NoCookies(IndexableCookieJar):
    """A jar that stays empty: what a node would remember of one client is no business of another.

    treq looks into its jar twice for each request, and makes one more where it is given none.
    """

    def add_cookie_header(self, request: Any) -> None:
        """Send no cookies."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Keep no cookies."""


NO_COOKIES = NoCookies()


class OnlyOnce(bytes):
    """A request's body that must not go out twice, so that it goes over a fresh connection."""


@implementer(IBodyProducer, IPushProducer)
class RequestBody:
    """Writes a request's body, as far as the connection takes it, within the call that starts it.

    treq's own reads it as a file, in later turns of the reactor, which are timers and tasks of
    Twisted's cooperator; a body that is in memory needs none.
    """

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body
        self._written = 0
        self._paused = False
        self._consumer: Any = None
        self._done: Deferred[None] = Deferred()

    @property
    def is_only_once(self) -> bool:
        """Whether it must not go out twice."""
        return isinstance(self._body, OnlyOnce)

    def anew(self) -> RequestBody:
        """Return the same body, with nothing of it written."""
        return RequestBody(self._body)

    def startProducing(  # noqa: N802 - Twisted calls it by this name
        self, consumer: IConsumer
    ) -> Deferred[None]:
        """Write the body; the Deferred fires once all of it is written."""
        self._consumer = consumer
        self.resumeProducing()
        return self._done

    def resumeProducing(self) -> None:
        """Write on until the connection has enough."""
        self._paused = False
        while self._written < self.length and not self._paused:
            piece = self._body[self._written : self._written + PIECE_BYTES]
            self._written += len(piece)
            self._consumer.write(piece)
        if self._written == self.length and not self._done.called:
            self._done.callback(None)

    def pauseProducing(self) -> None:
        """Write nothing more for now."""
        self._paused = True

    def stopProducing(self) -> None:
        """Write nothing more: nobody is there to take it."""
        self._paused = True


class _Target(NamedTuple):
    """What a URL means: which connections lead there, how one is made, and what to ask it for."""

    connections: tuple[bytes, bytes, int]
    endpoint: IStreamClientEndpoint
    host: bytes
    path: bytes


@implementer(IAgent)
class _NodeAgent:
    """Sends requests to nodes over the connections of ``pool``, as Twisted's Agent does.

    That one takes the URL apart, copies the headers and makes an endpoint for each request, 8 % of
    the CPU that one costs us; here a URL is known once it was asked for. And where Twisted repeats
    what met the end of an idle connection only without a body, here it is repeated with one too.
    """

    def __init__(self, reactor: Any, connect_timeout: float, pool: HTTPConnectionPool) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._pool = pool
        self._target = lru_cache(maxsize=MAX_URLS_KNOWN)(self._find)
        self._endpoint = cache(self._make_endpoint)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803 - so IAgent calls it
    ) -> Deferred[IResponse]:
        """Send a request; see IAgent. The headers, copied for us by treq, get their Host here."""
        target = self._target(uri)
        headers = headers or Headers()
        headers.setRawHeaders(b"Host", [target.host])
        request = Request(method, target.path, headers, bodyProducer, persistent=True)
        if isinstance(bodyProducer, RequestBody) and bodyProducer.is_only_once:
            return self._send_afresh(target, request)
        connecting: Deferred[Any] = self._pool.getConnection(target.connections, target.endpoint)
        return connecting.addCallback(self._send, target, request)

    def _send(
        self, connection: Connection, target: _Target, request: Request
    ) -> Deferred[IResponse]:
        idle_since = connection.idle_since
        if idle_since is None:
            return connection.request(request)
        if connection.is_ending:
            return self._send_afresh(target, request)
        sending = connection.request(request)
        sent_at = self._reactor.seconds()
        if sent_at - idle_since >= LONG_IDLE_SECONDS:
            sending.addErrback(self._send_again, connection, target, request, sent_at)
        return sending

    def _send_again(
        self,
        failure: Failure,
        connection: Connection,
        target: _Target,
        request: Request,
        sent_at: float,
    ) -> Failure | Deferred[IResponse]:
        """Send a request once more, over a fresh connection, if the idle one was ending.

        Many servers close a connection that was idle for some seconds, and may do so while a
        request is on its way. That is no fault of theirs, nor a reason to ask another node.
        """
        if (
            not connection.has_said_nothing(failure)
            or self._reactor.seconds() - sent_at > SOON_SECONDS
        ):
            return failure
        body = request.bodyProducer and request.bodyProducer.anew()
        again = Request(request.method, request.uri, request.headers, body, persistent=True)
        return self._send_afresh(target, again)

    def _send_afresh(self, target: _Target, request: Request) -> Deferred[IResponse]:
        connecting: Deferred[Any] = self._pool._newConnection(  # noqa: SLF001 - other kept ones may be ending too
            target.connections, target.endpoint
        )
        return connecting.addCallback(lambda connection: connection.request(request))

    def _find(self, url: bytes) -> _Target:
        uri = URI.fromBytes(url)
        endpoint = self._endpoint(uri.scheme, uri.host.decode("ascii"), uri.port)
        return _Target((uri.scheme, uri.host, uri.port), endpoint, uri.netloc, uri.originForm)

    def _make_endpoint(self, scheme: bytes, host: str, port: int) -> IStreamClientEndpoint:
        endpoint = self._make_plain_endpoint(host, port)
        if scheme == b"https":
            endpoint = _TLSEndpoint(endpoint, host, self._reactor)
        return endpoint

    def _make_plain_endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        timeout = self._connect_timeout
        if isIPAddress(host):
            return TCP4ClientEndpoint(self._reactor, host, port, timeout)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port, timeout)
        # Only after this delay does Twisted tell that the last of a name's addresses refused.
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout, attemptDelay=0.02)
        # Twisted resolves no name that a domain cannot have, such as "gpu_1"; home networks and
        # containers have them.
        endpoint._badHostname = False  # noqa: SLF001 - there is no other way to it
        return endpoint


class _NodeTLS(BufferingTLSTransport):
    """TLS to a node, which ends when we end it.

    Twisted's waits for the node's word that it ends too. A node that does not read would never give
    it, and would go on with an answer that nobody wants; nor need anybody wait (RFC 8446 6.1).
    """

    def loseConnection(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Say that this ends, and close."""
        super().loseConnection()
        transport: Any = self.transport
        transport.loseConnection()


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = _NodeTLS


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """Speaks TLS to ``host`` over the connections of another endpoint."""

    def __init__(self, endpoint: IStreamClientEndpoint, host: str, reactor: Any) -> None:
        self._endpoint = endpoint
        self._options = optionsForClientTLS(host)
        self._reactor = reactor

    def connect(
        self,
        protocolFactory: IProtocolFactory,  # noqa: N803 - so IStreamClientEndpoint calls it
    ) -> Deferred[IProtocol]:
        """Connect; the protocol is the one that speaks within TLS."""
        factory = _TLSFactory(self._options, True, protocolFactory, self._reactor)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda wrapping: wrapping.wrappedProtocol)


class _ConnectionFactory(_HTTP11ClientFactory):
    """Makes connections of ours, and without Twisted's two lines in the log for each."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self._quiescentCallback)


class _Pool(HTTPConnectionPool):
    """Keeps idle connections, each with the time since when it is idle.

    Twisted's keeps some that the node is about to close.
    """

    _factory = _ConnectionFactory

    def _putConnection(self, key: Any, connection: Any) -> None:  # noqa: N802 - Twisted calls it so
        if connection.has_more or connection.ends_with_its_answer:
            connection.transport.loseConnection()
            return
        connection.idle_since = self._reactor.seconds()
        super()._putConnection(key, connection)


class Connection(HTTP11ClientProtocol):
    """A connection to a node, on which a token takes the short way.

    Nearly every read of a stream is one chunk of the body, whole. Twisted takes it through its
    parser and decoder, which are afterwards as they were before; here such a read goes at once to
    the protocol that reads the body, and every other one to the parser.

    ``idle_since`` is when it was last given back to the pool, ``None`` before it brought an answer.
    ``has_more`` says that bytes came with an answer that do not belong to it.
    """

    idle_since: float | None = None
    has_more = False

    def _finishResponse(self, rest: bytes) -> None:  # noqa: N802 - Twisted calls it by this name
        if rest:
            self.has_more = True
        super()._finishResponse(rest)

    @property
    def is_ending(self) -> bool:
        """Whether it is being closed by us: Twisted keeps it for the instant that it still is.

        So it is where a reader lets go at a stop sequence, and the same read brought the last
        chunk; and where a node talks though nobody asked.
        """
        transport: Any = self.transport
        return bool(transport.disconnecting)

    @property
    def ends_with_its_answer(self) -> bool:
        """Whether the node closes it after the answer that is just in (RFC 9112 9.3).

        Twisted knows the word in its plainest form, and takes no notice of HTTP/1.0.
        """
        parser: Any = self._parser
        said = b",".join(parser.connHeaders.getRawHeaders(b"Connection", ())).lower()
        options = [option.strip() for option in said.split(b",")] if said else []
        return b"close" in options or (
            parser.response.version < HTTP_1_1 and b"keep-alive" not in options
        )

    def has_said_nothing(self, failure: Failure) -> bool:
        """Tell whether a request failed so since the connection ended before any of its answer."""
        error: Any = failure.value
        if isinstance(error, RequestTransmissionFailed):
            parser: Any = self._parser
            return not parser._everReceivedData  # noqa: SLF001 - there is no other way to it
        return isinstance(error, ResponseNeverReceived) and not any(
            reason.check(CancelledError) for reason in error.reasons
        )

    def _giveUp(self, reason: Failure) -> None:  # noqa: N802 - Twisted calls it by this name
        if self._state == "TRANSMITTING":
            # It is what came that cannot be read, and Twisted would tell nobody.
            response: Any = self._responseDeferred
            response.chainDeferred(self._finishedRequest)
            self._state = "TRANSMITTING_AFTER_RECEIVING_RESPONSE"
        super()._giveUp(reason)
        if self._state == "TRANSMITTING_AFTER_RECEIVING_RESPONSE":
            # The rest of the request, which the node does not want, would have to go out first.
            transport: Any = self.transport
            transport.abortConnection()

    def connectionMade(self) -> None:
        """Be called by the socket itself, where Twisted's endpoints stand in between."""
        super().connectionMade()
        transport: Any = self.transport
        if type(transport) is Client:
            transport.protocol = self
        connected = getattr(transport, "socket", None)
        if connected is not None:
            for level, option, value in KEEPALIVE:
                connected.setsockopt(level, option, value)

    def dataReceived(self, data: bytes) -> None:
        """Take a read: a chunk between two others, or something for the parser.

        The first are known by the parser's being between two chunks, with all of the body that came
        before handed on. All that this looks at is private to Twisted. Where Twisted calls it
        otherwise, and where no answer is under way, the parser takes everything.
        """
        body = None
        try:
            parser: Any = self._parser
            decoder, response = parser.bodyDecoder, parser.response
            if (
                type(decoder) is _ChunkedTransferDecoder
                and decoder.state == "CHUNK_LENGTH"
                and not decoder._buffer  # noqa: SLF001 - else it has a part of the next size
                and not parser._busyReceiving  # noqa: SLF001 - else it has what came before
                and response._state == "CONNECTED"  # noqa: SLF001 - else it keeps the body
            ):
                reader: Any = response._bodyProtocol  # noqa: SLF001 - there is no other way to it
                body = whole_chunk(data)
        except AttributeError:
            pass
        if body is None:
            super().dataReceived(data)
            return
        try:
            reader.dataReceived(body)
        except BaseException:  # as Twisted does
            self._giveUp(Failure())


def whole_chunk(data: bytes) -> bytes | None:
    """Return what ``data`` carries if it is one chunk of a chunked body, whole, and nothing else.

    Only the plainest form is known here: no extension, no leading zero, not the last chunk.
    """
    line_end = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2)
    size = len(data) - line_end - 4
    if line_end < 1 or size < 1 or data[:line_end].lower() != b"%x" % size or data[-2:] != b"\r\n":
        return None
    return data[line_end + 2 : -2]
