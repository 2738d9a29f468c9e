"""Connections to nodes: the agent and the pool that open and reuse them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, lru_cache
from itertools import count
from typing import Any, NamedTuple, TypeVar

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web._newclient import (
    Request,
    RequestTransmissionFailed,
)
from twisted.web.client import URI, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from cortexd.config.node_tls import NO_FILES, NodeTLS
from cortexd.upstream.connection import IDENTITY, Connection, LostConnection, check_head
from cortexd.upstream.endpoints import Endpoints

MAX_CONNECTIONS_KEPT = 64
"""Idle connections per node in the pool: a burst of that many requests opens no new one."""

IDLE_SECONDS = 60
"""How long an idle connection stays in the pool. A node itself sets no limit (nodes.md 8.6)."""

MAX_URLS_KNOWN = 1024
"""How many parsed URLs the agent caches: the routes of many nodes, and some URLs with an id."""

T = TypeVar("T")

PIECE_BYTES = 128 * 1024
"""How much of a request's body one write takes: Twisted passes the kernel as much at once."""

LONG_IDLE_SECONDS = 1.0
"""The shortest idle time after which a server may have closed the connection: the usual limits are
2 s (gunicorn), 5 s (uvicorn, Node.js, Apache) and more."""

SOON_SECONDS = 1.0
"""We repeat a request only if its connection ends within this time after we sent it.

A node that closes an idle connection does so before the request arrives, so the close reaches us
within one network latency. If the connection ends later, the request itself may have crashed the
node, and a retry would repeat all of its work.
"""


def make_http_client(reactor: Any, connect_timeout: float) -> tuple[HTTPClient, NodePool]:
    """Return an HTTP client for nodes, and its pool, which the caller closes at the end.

    The client is for nodes without TLS files of their own; the pool has others. ``connect_timeout``
    is in seconds.
    """
    pool = NodePool(reactor, connect_timeout)
    pool.maxPersistentPerHost = MAX_CONNECTIONS_KEPT
    pool.cachedConnectionTimeout = IDLE_SECONDS
    pool.retryAutomatically = False
    return pool.http(NO_FILES), pool


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


class Repeatable(bytes):
    """The body of a question: a node that reads it twice only answers twice."""


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

    @property
    def is_repeatable(self) -> bool:
        """Whether a node may read the body twice."""
        return isinstance(self._body, Repeatable)

    def anew(self) -> RequestBody:
        """Return a new producer of the same body, from its start."""
        return RequestBody(self._body)

    def forget(self, answer: T) -> T:
        """Let go of a body that is written; return the ``answer``, whose cycles would hold it."""
        if self._written == self.length:
            self._body = b""
        return answer

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


class Connections(NamedTuple):
    """The pool's key: a connection serves all requests to its place, by the same agent.

    Nodes at one host and port may have different TLS files. Each of these has an agent, and the
    key has the agent's number, so that no connection serves a node that would not trust it.
    """

    scheme: bytes
    host: bytes
    port: int
    agent: int


class _Target(NamedTuple):
    """A parsed URL: the pool's key, the endpoint for new connections, the Host and the path."""

    connections: Connections
    endpoint: IStreamClientEndpoint
    host: bytes
    path: bytes


@implementer(IAgent)
class _NodeAgent:
    """Sends requests to nodes over the connections of ``pool``, as Twisted's Agent does.

    ``files`` are the TLS files of all these nodes, ``number`` is the agent's in the pool's keys.

    Twisted's Agent parses the URL, copies the headers and makes an endpoint for each request, which
    is 8 % of the CPU time that a request costs us; this agent caches parsed URLs. If an idle
    connection closes under a request, this agent sends it once more if the node cannot have read
    it, or if that does no harm. Twisted's retries every request without a body, a DELETE too.
    """

    def __init__(self, reactor: Any, pool: NodePool, files: NodeTLS, number: int) -> None:
        self._reactor = reactor
        self._pool = pool
        self._number = number
        self._target = lru_cache(maxsize=MAX_URLS_KNOWN)(self._find)
        self._endpoints = Endpoints(reactor, pool.connect_timeout, files)
        self._endpoint = cache(self._endpoints.make)

    def forget_endpoints(self) -> None:
        """Make every endpoint anew, with the pool's ``connect_timeout`` as it is now."""
        self._endpoints.connect_timeout = self._pool.connect_timeout
        self._target.cache_clear()
        self._endpoint.cache_clear()

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
        sending: Deferred[IResponse] = connecting.addCallback(self._send, target, request)
        sending.addCallback(check_head)
        if isinstance(bodyProducer, RequestBody) and bodyProducer.length > PIECE_BYTES:
            sending.addBoth(bodyProducer.forget)
        return sending

    def _send(
        self, connection: Connection, target: _Target, request: Request
    ) -> Deferred[IResponse]:
        idle_since = connection.idle_since
        if idle_since is None:
            return connection.request(request)
        if connection.is_ending:
            return self._send_afresh(target, request)
        sent_at = self._reactor.seconds()
        if sent_at - idle_since < LONG_IDLE_SECONDS:
            return connection.request(request)
        if connection.was_ended():
            return self._send_afresh(target, request)
        sending: Deferred[Any] = connection.request(request)
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
        way. The node is not at fault then, so we do not try another node. A request that is not
        idempotent is repeated only if it was never applied (RFC 9110 9.2.2).
        """
        is_soon = self._reactor.seconds() - sent_at <= SOON_SECONDS
        is_whole = not failure.check(RequestTransmissionFailed)
        if not connection.has_said_nothing(failure) or not (
            connection.is_unread or (is_soon and (_is_repeatable(request) or not is_whole))
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
        return _Target(self.connections_to(uri), endpoint, uri.netloc, uri.originForm)

    def connections_to(self, uri: URI) -> Connections:
        """Return the pool's key for a URL."""
        return Connections(uri.scheme, uri.host, uri.port, self._number)


def _is_repeatable(request: Request) -> bool:
    body = request.bodyProducer
    if isinstance(body, RequestBody) and body.is_repeatable:
        return True
    return request.method in (b"GET", b"HEAD") and body is None


class _ConnectionFactory(_HTTP11ClientFactory):
    """Makes our Connections, without Twisted's two log lines for each."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self._quiescentCallback)


class NodePool(HTTPConnectionPool):
    """A pool of idle connections that notes the time when each became idle.

    It closes a connection that the node is about to close; Twisted's pool would reuse it. A new
    connection may take ``connect_timeout`` seconds. ``lost`` is called for each connection that the
    node closes.
    """

    _factory = _ConnectionFactory
    lost: Callable[[LostConnection], None] | None = None

    def __init__(self, reactor: Any, connect_timeout: float) -> None:
        super().__init__(reactor)
        self.connect_timeout = connect_timeout
        self._numbers = count()
        self._agents: dict[NodeTLS, _NodeAgent] = {}
        self._clients: dict[NodeTLS, HTTPClient] = {}
        self._not_after: dict[Connections, float] = {}

    def http(self, files: NodeTLS) -> HTTPClient:
        """Return the HTTP client of all nodes that have these TLS files."""
        client = self._clients.get(files)
        if client is None:
            agent = self._agents[files] = _NodeAgent(
                self._reactor, self, files, next(self._numbers)
            )
            client = self._clients[files] = HTTPClient(
                agent, cookiejar=NO_COOKIES, data_to_body_producer=RequestBody
            )
        return client

    def reconfigure(self, connect_timeout: float) -> None:
        """Let new connections take another time."""
        self.connect_timeout = connect_timeout
        for agent in self._agents.values():
            agent.forget_endpoints()

    def keep(self, nodes: Collection[tuple[str, NodeTLS]]) -> None:
        """Keep the idle connections to these nodes, and close all others.

        A node is its endpoint and its TLS files. The clients for other files are forgotten.
        """
        staying = {self._connections_to(endpoint, files) for endpoint, files in nodes}
        for key in [key for key in self._connections if key not in staying]:
            for connection in self._connections.pop(key):
                self._timeouts.pop(connection).cancel()
                connection.transport.loseConnection()
        for key in self._not_after.keys() - staying:
            del self._not_after[key]
        for files in self._clients.keys() - {NO_FILES, *(files for _, files in nodes)}:
            del self._clients[files], self._agents[files]

    def not_after(self, endpoint: str, files: NodeTLS) -> float | None:
        """Return when the certificate expires that a node showed last, in UNIX time."""
        key = self._connections_to(endpoint, files)
        return None if key is None else self._not_after.get(key)

    def _connections_to(self, endpoint: str, files: NodeTLS) -> Connections | None:
        agent = self._agents.get(files)
        if agent is None:
            return None
        return agent.connections_to(URI.fromBytes(endpoint.encode("ascii")))

    def _newConnection(self, key: Any, endpoint: Any) -> Any:  # noqa: N802 - Twisted calls it so
        connecting: Deferred[Any] = super()._newConnection(key, endpoint)
        return connecting.addCallback(self._note, key)

    def _note(self, connection: Connection, key: Connections) -> Connection:
        connection.address = key.host.decode("ascii"), key.port
        seen = getattr(connection.transport, "seen", None)  # with TLS
        if seen is not None:
            self._not_after[key] = seen.certificate.not_valid_after_utc.timestamp()
        connection.lost = self._lose
        return connection

    def _lose(self, lost: LostConnection) -> None:
        if self.lost is not None:
            self.lost(lost)

    def _putConnection(self, key: Any, connection: Any) -> None:  # noqa: N802 - Twisted calls it so
        if connection.has_more or connection.ends_with_its_answer:
            connection.transport.loseConnection()
            return
        connection.idle_since = self._reactor.seconds()
        connection.acked_before = None
        super()._putConnection(key, connection)
