"""One node's HTTP API: its listing, its system, and requests for its models.

Everything goes through treq, over connections that are kept. What can go wrong on the way to a
node is turned into a CortexError in words, and no wait here is without a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from hyperlink import DecodedURL
from treq.client import HTTPClient
from twisted.internet import error as network_errors
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    PartialDownloadError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
    _HTTP11ClientFactory,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from cortexd.dialects import mistralrs
from cortexd.errors import BadGateway, NodeTimeout
from cortexd.fleet import Observation, SystemInfo

MAX_CONNECTIONS_KEPT = 64
"""Idle connections kept to each node: a burst of that many requests finds them warm."""

IDLE_SECONDS = 60
"""How long an idle connection is kept. A node itself sets no limit (upstream notes part 8)."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The longest answer taken in one piece: an image or many embeddings, not an endless body."""


T = TypeVar("T")


class Response(Protocol):
    """What is used of a treq response."""

    code: int
    headers: Headers

    def deliverBody(self, protocol: TwistedProtocol) -> None:
        """Send the body, as it comes, to the protocol."""


class _QuietFactory(_HTTP11ClientFactory):
    """Twisted's own, which otherwise logs two lines for each connection."""

    noisy = False


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Makes the endpoint of each address once; Twisted's Agent would make one for each request."""

    def __init__(self, reactor: Any, connect_timeout: float) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._known: dict[tuple[bytes, bytes, int], IStreamClientEndpoint] = {}

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return the endpoint to connect to for a URI."""
        key = (uri.scheme, uri.host, uri.port)
        endpoint = self._known.get(key)
        if endpoint is None:
            host = uri.host.decode("ascii")
            endpoint = self._plain(host, uri.port)
            if uri.scheme == b"https":
                endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
            self._known[key] = endpoint
        return endpoint

    def _plain(self, host: str, port: int) -> IStreamClientEndpoint:
        timeout = self._connect_timeout
        if isIPAddress(host):
            return TCP4ClientEndpoint(self._reactor, host, port, timeout)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port, timeout)
        # Only after this delay does Twisted tell that the last of a name's addresses refused.
        return HostnameEndpoint(self._reactor, host, port, timeout, attemptDelay=0.02)


def make_http_client(reactor: Any, connect_timeout: float) -> tuple[HTTPClient, HTTPConnectionPool]:
    """Return an HTTP client for nodes, and the pool that must be closed when it is done with."""
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = MAX_CONNECTIONS_KEPT
    pool.cachedConnectionTimeout = IDLE_SECONDS
    pool.retryAutomatically = False
    pool._factory = _QuietFactory  # noqa: SLF001 - there is no other way to it
    return HTTPClient(
        Agent.usingEndpointFactory(reactor, _Endpoints(reactor, connect_timeout), pool)
    ), pool


class NodeClient:
    """Speaks to one node. ``http`` is treq's client or its test double."""

    def __init__(self, name: str, endpoint: str, http: Any, clock: IReactorTime) -> None:
        self.name = name
        self._base = DecodedURL.from_text(endpoint)
        self._http = http
        self._clock = clock
        self._urls: dict[str, DecodedURL] = {}

    async def listing(self, timeout: float) -> Observation:
        """Return what the node says of its models.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node cannot be
        reached or answers something else.
        """
        return await self._read(mistralrs.MODELS_PATH, mistralrs.read_listing, timeout)

    async def system_info(self, timeout: float) -> SystemInfo:
        """Return what the node says of its machine; raises as ``listing`` does."""
        return await self._read(mistralrs.SYSTEM_INFO_PATH, mistralrs.read_system_info, timeout)

    async def _read(self, path: str, reader: Callable[[bytes], T], timeout: float) -> T:
        fetching = Deferred.fromCoroutine(self._fetch(path))
        fetching.addTimeout(timeout, self._clock)
        try:
            code, body = await fetching
        except DeferredTimeoutError:
            raise NodeTimeout(f"no answer within {timeout:g} s") from None
        if code != 200:
            raise BadGateway(f"GET {path} answered with status {code}")
        try:
            return reader(body)
        except mistralrs.BadAnswer as error:
            raise BadGateway(f"GET {path}: {error}") from None

    async def _fetch(self, path: str) -> tuple[int, bytes]:
        try:
            opening = self._http.request(
                "GET", self._url(path), unbuffered=True, allow_redirects=False
            )
            response = await opening.addErrback(_unwrap_cancellation)
            return response.code, await collect(response)
        except CancelledError:
            raise
        except Exception as error:
            raise BadGateway(describe(error)) from error

    def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> Deferred[Response]:
        """Send a request for one of the node's models; the response's body is not read yet.

        Cancelling closes the connection. Fails with the errors of Twisted's Agent, for which
        ``describe`` has words.
        """
        sent = Headers({"Content-Type": ["application/json"]})
        for name, value in headers.items():
            sent.setRawHeaders(name, [value])
        opening: Deferred[Response] = self._http.request(
            "POST",
            self._url(path),
            headers=sent,
            data=body,
            unbuffered=True,
            allow_redirects=False,
        )
        return opening.addErrback(_unwrap_cancellation)

    def _url(self, path: str) -> DecodedURL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._base.click(path)
        return url


def _unwrap_cancellation(failure: Failure) -> Failure:
    """Raise CancelledError where Twisted's Agent has wrapped it as the reason of another."""
    reasons = getattr(failure.value, "reasons", ())
    if failure.check(network_errors.ConnectingCancelledError) or any(
        reason.check(CancelledError) for reason in reasons
    ):
        raise CancelledError
    return failure


class _Collector(TwistedProtocol):
    """Collects a body up to a limit and fires ``whole`` with it; cancelling ends the connection."""

    transport: Any

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)
            return
        self._pieces = []
        if not self.whole.called:
            self.whole.errback(BadGateway(f"the answer is over {self._limit // 2**20} MiB"))
        self._abort()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - a constant
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def collect(response: Response, limit: int = MAX_ANSWER_BYTES) -> Deferred[bytes]:
    """Return a response's whole body. Cancelling closes the connection.

    Fails with BadGateway when it is over ``limit`` bytes, and with the errors of Twisted's
    Agent when it breaks off.
    """
    collector = _Collector(limit)
    response.deliverBody(collector)
    return collector.whole


NOT_UNDERSTOOD = "the answer cannot be understood"


def describe(error: BaseException) -> str:
    """Return in words what went wrong between us and a node."""
    if isinstance(error, (ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed)):
        # Beside why the connection ended may stand what that did to the parser.
        words = [describe(reason.value) for reason in getattr(error, "reasons", [])]
        return min(
            words, key=lambda word: NOT_UNDERSTOOD in word, default="the connection broke off"
        )
    if isinstance(error, network_errors.ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, network_errors.DNSLookupError):
        return "the name of the node cannot be resolved"
    if isinstance(error, (network_errors.TimeoutError, network_errors.UserError)):
        return "connecting took too long"
    if isinstance(error, network_errors.ConnectError):
        return f"cannot connect: {str(error).rstrip('.')}"
    if isinstance(error, (network_errors.ConnectionClosed, ResponseDone, PartialDownloadError)):
        return "the connection was closed before the answer was complete"
    if isinstance(error, RequestGenerationFailed):
        return "the request could not be sent"
    if isinstance(error, (BadGateway, NodeTimeout)):
        return error.message
    return f"{type(error).__name__}: {NOT_UNDERSTOOD}"
