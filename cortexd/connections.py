"""Connections to nodes: how they are made, kept and read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.tcp import Client
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.client import URI, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http import _ChunkedTransferDecoder
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

MAX_CONNECTIONS_KEPT = 64
"""Idle connections kept to each node: a burst of that many requests finds them warm."""

IDLE_SECONDS = 60
"""How long an idle connection is kept. A node itself sets no limit (upstream notes part 8)."""

MAX_URLS_KNOWN = 1024
"""How many URLs are known: those of the routes of many nodes, and some of single answers."""

PIECE_BYTES = 128 * 1024
"""How much of a request's body is written at once: what Twisted hands to the kernel at once."""

MAX_SIZE_DIGITS = 8
"""How far ``whole_chunk`` looks for the end of a chunk's size; a read of 64 KiB needs four."""


def make_http_client(reactor: Any, connect_timeout: float) -> tuple[HTTPClient, HTTPConnectionPool]:
    """Return an HTTP client for nodes, and the pool that must be closed when it is done with.

    ``connect_timeout`` is in seconds.
    """
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = MAX_CONNECTIONS_KEPT
    pool.cachedConnectionTimeout = IDLE_SECONDS
    pool.retryAutomatically = False
    pool._factory = _ConnectionFactory  # noqa: SLF001 - there is no other way to it
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
    the CPU that one costs us; here a URL is known once it was asked for.
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
        connecting = self._pool.getConnection(target.connections, target.endpoint)
        return connecting.addCallback(lambda connection: connection.request(request))

    def _find(self, url: bytes) -> _Target:
        uri = URI.fromBytes(url)
        endpoint = self._endpoint(uri.scheme, uri.host.decode("ascii"), uri.port)
        return _Target((uri.scheme, uri.host, uri.port), endpoint, uri.netloc, uri.originForm)

    def _make_endpoint(self, scheme: bytes, host: str, port: int) -> IStreamClientEndpoint:
        endpoint = self._make_plain_endpoint(host, port)
        if scheme == b"https":
            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        return endpoint

    def _make_plain_endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        timeout = self._connect_timeout
        if isIPAddress(host):
            return TCP4ClientEndpoint(self._reactor, host, port, timeout)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port, timeout)
        # Only after this delay does Twisted tell that the last of a name's addresses refused.
        return HostnameEndpoint(self._reactor, host, port, timeout, attemptDelay=0.02)


class _ConnectionFactory(_HTTP11ClientFactory):
    """Makes connections of ours, and without Twisted's two lines in the log for each."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self._quiescentCallback)


class Connection(HTTP11ClientProtocol):
    """A connection to a node, on which a token takes the short way.

    Nearly every read of a stream is one chunk of the body, whole. Twisted takes it through its
    parser and decoder, which are afterwards as they were before; here such a read goes at once to
    the protocol that reads the body, and every other one to the parser.
    """

    def __init__(self, keep: Callable[[HTTP11ClientProtocol], None] = lambda _: None) -> None:
        super().__init__(self._keep_if_open)
        self._keep = keep

    def _keep_if_open(self, connection: HTTP11ClientProtocol) -> None:
        """Serve again once an answer is in, but not where its reader has let go of us.

        Both come together where a reader ends an answer, at a stop sequence say, and the same read
        brings its last chunk. Twisted would keep the connection for the instant that it still is.
        """
        transport: Any = self.transport
        if not transport.disconnecting:
            self._keep(connection)

    def connectionMade(self) -> None:
        """Be called by the socket itself, where Twisted's endpoints stand in between."""
        super().connectionMade()
        if type(self.transport) is Client:
            self.transport.protocol = self

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
