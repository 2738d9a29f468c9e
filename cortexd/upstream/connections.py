"""Connections to nodes: the agent and the pool that open and reuse them, and the fast read path."""

from __future__ import annotations

import socket
from functools import cache, lru_cache
from typing import Any, NamedTuple

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Client
from twisted.python.failure import Failure
from twisted.web._newclient import (
    HEADER,
    STATUS,
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

from cortexd.upstream.endpoints import Endpoints

MAX_CONNECTIONS_KEPT = 64
"""Idle connections per node in the pool: a burst of that many requests opens no new one."""

IDLE_SECONDS = 60
"""How long an idle connection stays in the pool. A node itself sets no limit (nodes.md 8.6)."""

MAX_URLS_KNOWN = 1024
"""How many parsed URLs the agent caches: the routes of many nodes, and some URLs with an id."""

PIECE_BYTES = 128 * 1024
"""How much of a request's body one write takes: Twisted passes the kernel as much at once."""

LONG_IDLE_SECONDS = 1.0
"""The shortest idle time after which a server may have closed the connection: the usual limits are
2 s (gunicorn), 5 s (uvicorn, Node.js, Apache) and more."""

SOON_SECONDS = 1.0
"""We retry a request only if its connection ends within this time after we sent it.

A node that closes an idle connection does so before the request arrives, so the close reaches us
within one network latency. If the connection ends later, the request itself may have crashed the
node, and a retry would repeat all of its work.
"""

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


class UnfitAnswer(Exception):
    """Raised when a node's answer breaks a limit of ours; the message says which."""


def make_http_client(reactor: Any, connect_timeout: float) -> tuple[HTTPClient, HTTPConnectionPool]:
    """Return an HTTP client for nodes, and its pool, which the caller closes at the end.

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
    """A cookie jar that stays empty, so that no node's cookie leaks from one client to another.

    treq reads its jar twice for each request, and creates another jar for a request without one.
    """

    def add_cookie_header(self, request: Any) -> None:
        """Add no cookies to a request."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Store no cookies of a response."""


NO_COOKIES = NoCookies()


class OnlyOnce(bytes):
    """A request body that we must not send twice, so we send it over a fresh connection."""


@implementer(IBodyProducer, IPushProducer)
class RequestBody:
    """Writes a request's body at once, as far as the connection accepts it.

    treq's own producer reads a file in later reactor turns, with timers and tasks of Twisted's
    cooperator; a body in memory needs neither.
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
        """Whether we must not send the body twice."""
        return isinstance(self._body, OnlyOnce)

    def anew(self) -> RequestBody:
        """Return a new producer of the same body, from its start."""
        return RequestBody(self._body)

    def startProducing(  # noqa: N802 - Twisted calls it by this name
        self, consumer: IConsumer
    ) -> Deferred[None]:
        """Write the body; the Deferred fires after the last byte."""
        self._consumer = consumer
        self.resumeProducing()
        return self._done

    def resumeProducing(self) -> None:
        """Continue to write until the connection pauses us."""
        self._paused = False
        while self._written < self.length and not self._paused:
            piece = self._body[self._written : self._written + PIECE_BYTES]
            self._written += len(piece)
            self._consumer.write(piece)
        if self._written == self.length and not self._done.called:
            self._done.callback(None)

    def pauseProducing(self) -> None:
        """Stop writing until ``resumeProducing``."""
        self._paused = True

    def stopProducing(self) -> None:
        """Stop writing for good: the connection has ended."""
        self._paused = True


class _Target(NamedTuple):
    """A parsed URL: the pool's key, the endpoint for new connections, the Host and the path."""

    connections: tuple[bytes, bytes, int]
    endpoint: IStreamClientEndpoint
    host: bytes
    path: bytes


@implementer(IAgent)
class _NodeAgent:
    """Sends requests to nodes over the connections of ``pool``, as Twisted's Agent does.

    Twisted's Agent parses the URL, copies the headers and makes an endpoint for each request, which
    is 8 % of the CPU time that a request costs us; this agent caches parsed URLs. If an idle
    connection closes under a request, Twisted retries the request only without a body; this agent
    also retries it with one.
    """

    def __init__(self, reactor: Any, connect_timeout: float, pool: HTTPConnectionPool) -> None:
        self._reactor = reactor
        self._pool = pool
        self._target = lru_cache(maxsize=MAX_URLS_KNOWN)(self._find)
        self._endpoint = cache(Endpoints(reactor, connect_timeout).make)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803 - so IAgent calls it
    ) -> Deferred[IResponse]:
        """Send a request; see IAgent. The headers are treq's copy, so we add Host to them."""
        target = self._target(uri)
        headers = headers or Headers()
        headers.setRawHeaders(b"Host", [target.host])
        # treq asks for gzip; a few kilobytes of it can inflate to gigabytes.
        headers.setRawHeaders(b"Accept-Encoding", [IDENTITY])
        request = Request(method, target.path, headers, bodyProducer, persistent=True)
        if isinstance(bodyProducer, RequestBody) and bodyProducer.is_only_once:
            return self._send_afresh(target, request).addCallback(check_head)
        connecting: Deferred[Any] = self._pool.getConnection(target.connections, target.endpoint)
        connecting.addCallback(self._send, target, request)
        return connecting.addCallback(check_head)

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
        """Retry a request over a fresh connection, if the node was closing the idle one.

        Many servers close a connection after some idle seconds, possibly while a request is on its
        way. The node is not at fault then, so we do not try another node.
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
        connecting: Deferred[Any] = self._pool._newConnection(  # noqa: SLF001 - other idle ones may be closing too
            target.connections, target.endpoint
        )
        return connecting.addCallback(lambda connection: connection.request(request))

    def _find(self, url: bytes) -> _Target:
        uri = URI.fromBytes(url)
        endpoint = self._endpoint(uri.scheme, uri.host.decode("ascii"), uri.port)
        return _Target((uri.scheme, uri.host, uri.port), endpoint, uri.netloc, uri.originForm)


class _ConnectionFactory(_HTTP11ClientFactory):
    """Makes our Connections, without Twisted's two log lines for each."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self._quiescentCallback)


class _Pool(HTTPConnectionPool):
    """A pool of idle connections that notes the time when each became idle.

    It closes a connection that the node is about to close; Twisted's pool would reuse it.
    """

    _factory = _ConnectionFactory

    def _putConnection(self, key: Any, connection: Any) -> None:  # noqa: N802 - Twisted calls it so
        if connection.has_more or connection.ends_with_its_answer:
            connection.transport.loseConnection()
            return
        connection.idle_since = self._reactor.seconds()
        super()._putConnection(key, connection)


class Connection(HTTP11ClientProtocol):
    """A connection to a node, with a fast path for the tokens of a stream.

    Nearly every read of a stream is exactly one whole chunk of the body. Twisted passes it through
    its parser and decoder, whose state does not change by it. Here it goes directly to the protocol
    that reads the body; the parser gets every other read.

    ``idle_since`` is when the connection last returned to the pool, ``None`` before its first
    answer. ``has_more`` says that extra bytes followed an answer.
    """

    idle_since: float | None = None
    has_more = False
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
            super().dataReceived(data)
            self._count_head(data)
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


def whole_chunk(data: bytes) -> bytes | None:
    """Return the content of ``data`` if it is exactly one whole chunk, else ``None``.

    Only the plainest form counts: no extension, no leading zero, not the last chunk.
    """
    line_end = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2)
    size = len(data) - line_end - 4
    if line_end < 1 or size < 1 or data[:line_end].lower() != b"%x" % size or data[-2:] != b"\r\n":
        return None
    return data[line_end + 2 : -2]
