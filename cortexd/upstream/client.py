"""The HTTP client of one node: it sends the engine's questions and orders, and model requests.

All traffic goes through treq, over the connections of ``cortexd.upstream.connections``. A network
failure becomes a CortexError with a readable message, and every wait has a time limit.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from hyperlink import EncodedURL
from twisted.internet import error as network_errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, RequestNotSent
from twisted.web.client import (
    PartialDownloadError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss, _MalformedChunkedDataError
from twisted.web.http_headers import Headers

from cortexd.admission.shedding import RETRY_SECONDS
from cortexd.config.credentials import NO_CREDENTIALS
from cortexd.config.node_tls import NO_FILES, NodeTLS
from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.engine import Ask, Engine
from cortexd.errors import BadGateway, GatewayBusy, NodeTimeout
from cortexd.fleet.outcomes import Outcome
from cortexd.fleet.states import Observation, SystemInfo
from cortexd.headers import header_text
from cortexd.text import REMOVED
from cortexd.upstream.advice import MAYBE_TLS, advice_on
from cortexd.upstream.connection import TLS_INSTEAD, UnfitAnswer, is_tls
from cortexd.upstream.connections import NO_COOKIES, OnlyOnce, Repeatable
from cortexd.upstream.tls import BrokenTLS, HandshakeCancelled, TLSFailed

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""The longest answer that we buffer: images and many embeddings fit, an endless body fails."""

MAX_REPORT_BYTES = 2 * 1024 * 1024
"""The longest answer to a question of our own: a list of 1,000 models takes a tenth of it."""

MAX_URLS = 64
"""How many parsed URLs we cache per node: more than a node has frequently used routes."""

SHORTEST_SECRET = 4
"""A shorter part of a header is not looked for in a node's words: it occurs in many."""

T = TypeVar("T")


class Response(Protocol):
    """The part of a treq response that we use."""

    code: int
    headers: Headers

    def deliverBody(self, protocol: TwistedProtocol) -> None:
        """Send the body to the protocol, piece by piece as it arrives."""


class NodeAnswer(NamedTuple):
    """A node's answer with its whole body."""

    status: int
    body: bytes
    headers: Headers

    @property
    def content_type(self) -> str | None:
        """The body's content type, ``None`` where the node states none."""
        return header_text(self.headers, "content-type")

    @property
    def disposition(self) -> dict[str, str]:
        """The header that names the body's file; empty where the node sends no such header."""
        given = header_text(self.headers, "content-disposition")
        return {"Content-Disposition": given} if given else {}


class _NodeURL(EncodedURL):
    """A URL on a node, already in ASCII and rendered only once.

    treq encodes and renders a URL again for each request, and fails to encode one whose host is an
    IPv6 address (hyperlink's issue 68).
    """

    _text: str | None = None

    def to_uri(self) -> _NodeURL:
        """Return the URL unchanged."""
        return self

    def to_text(self, with_password: bool = False) -> str:
        """Return the URL as text. A node's address never contains a password."""
        if self._text is None:
            self._text = super().to_text(with_password)
        return self._text


class NodeClient:
    """The client of one node, which runs an ``engine``. ``http`` is treq's client or a test double.

    Every request carries the headers in ``credentials``, and its path begins with that of
    ``endpoint``. ``files`` are the TLS files that ``http`` uses. A reload may replace credentials
    and files. Callers must check the engine's Abilities before they use an optional method.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        http: Any,
        clock: IReactorTime,
        engine: Engine,
        *,
        credentials: Mapping[str, str] = NO_CREDENTIALS,
        files: NodeTLS = NO_FILES,
    ) -> None:
        self.name = name
        self.engine = engine
        self.files = files
        self.endpoint = endpoint
        self._has_answered = False
        self._base = _NodeURL.from_text(endpoint)
        self._http = http
        self._clock = clock
        self._credentials = dict(credentials)
        self._secrets = _secrets(credentials.values())
        self._urls: dict[str, EncodedURL] = {}

    @property
    def credentials(self) -> Mapping[str, str]:
        """The headers with the node's key."""
        return self._credentials

    def take_credentials(self, credentials: Mapping[str, str]) -> None:
        """Send other credentials from now on; an answer under way may still repeat the old ones."""
        if credentials != self._credentials:
            self._credentials = dict(credentials)
            self._secrets += _secrets(credentials.values())

    def take_files(self, files: NodeTLS, http: Any) -> None:
        """Send requests through another client from now on, which uses other TLS files."""
        self.files = files
        self._http = http

    async def listing(self, timeout: float) -> Observation:
        """Return the node's list of its models; raises as ``ask`` does."""
        return await self._ask(self.engine.listing(), timeout, is_listing=True)

    async def system_info(self, timeout: float) -> SystemInfo:
        """Return the node's report about its machine; raises as ``ask`` does."""
        return await self.ask(self.engine.system(), timeout)

    async def status(self, model: str, timeout: float) -> Outcome:
        """Return the node's status of one of its models; raises as ``ask`` does."""
        return await self.ask(self.engine.status(model), timeout)

    async def load(self, model: str, timeout: float) -> Outcome:
        """Order the node to load a model, and return the outcome, which may take many minutes.

        The model's status must be exactly unloaded. Raises as ``ask`` does; the node cannot stop a
        load, so the load may continue after an error.
        """
        return await self.ask(self.engine.load(model), timeout)

    async def unload(self, model: str, timeout: float) -> Outcome:
        """Order the node to unload a model, which cuts off every request that still runs on it.

        The node frees the memory only later, if at all. Raises as ``ask`` does.
        """
        return await self.ask(self.engine.unload(model), timeout)

    async def requests_in_flight(self, timeout: float) -> Mapping[str, int] | None:
        """Return how many requests the node itself counts for each model, from all its clients.

        A missing model has received no request. ``None`` where the node does not count per model.
        Raises as ``ask`` does.
        """
        return await self.ask(self.engine.requests_in_flight(), timeout)

    async def ask(self, ask: Ask[T], timeout: float) -> T:
        """Send a question or an order of the node's engine, and return the parsed answer.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node is unreachable,
        refuses, or sends an unexpected answer.
        """
        return await self._ask(ask, timeout)

    async def _ask(self, ask: Ask[T], timeout: float, *, is_listing: bool = False) -> T:
        def send() -> Deferred[Response]:
            if ask.body is None:
                return self._send(ask.method, self._url(ask.path), dict(ask.headers))
            body = OnlyOnce(ask.body) if ask.once else Repeatable(ask.body)
            return self.open(ask.path, body, dict(ask.headers), ask.method)

        try:
            answer = await self._collected(send, timeout, MAX_REPORT_BYTES)
        except BadGateway as error:
            is_silent = error.__cause__ is not None and is_silent_end(error.__cause__)
            if is_listing and is_silent and not self._has_answered and self._base.scheme == "http":
                raise BadGateway(f"{error.message}; {MAYBE_TLS}") from error.__cause__
            raise
        self._has_answered = True
        try:
            return ask.answer(answer.status, answer.body)
        except BadAnswer as error:
            location = header_text(answer.headers, "location")
            advice = advice_on(answer.status, location, "/".join(self._base.path), is_listing)
            raise BadGateway(self.without_key(f"{error}{advice}")) from None

    async def forward(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        timeout: float,
        body: bytes | None = None,
    ) -> NodeAnswer:
        """Send a request, and return the node's answer unchanged; a ``body`` is JSON.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node is unreachable.
        """

        def send() -> Deferred[Response]:
            if body is not None:
                return self.open(path, body, headers, method)
            return self._send(method, self._to(path), headers)

        return await self._collected(send, timeout)

    def without_key(self, words: str) -> str:
        """Return words of the node without the key that we send it."""
        for secret in self._secrets:
            words = words.replace(secret, REMOVED)
        return words

    async def _collected(
        self,
        send: Callable[[], Deferred[Response]],
        timeout: float,
        limit: int = MAX_ANSWER_BYTES,
    ) -> NodeAnswer:
        fetching = Deferred.fromCoroutine(_fetch(send, limit))
        fetching.addTimeout(timeout, self._clock, _timed_out)
        answer = await fetching
        if answer.status == 200:
            return answer
        body = answer.body
        for secret in self._secrets:
            body = body.replace(secret.encode(), REMOVED.encode())
        return answer._replace(body=body)

    def _send(self, method: str, url: EncodedURL, headers: Mapping[str, str]) -> Deferred[Response]:
        opening: Deferred[Response] = self._http.request(
            method,
            url,
            headers=Headers(
                {name: [value] for name, value in {**headers, **self._credentials}.items()}
            ),
            cookies=NO_COOKIES,
            unbuffered=True,
            allow_redirects=False,
        )
        return opening.addErrback(_unwrap_cancellation)

    def open(
        self, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST"
    ) -> Deferred[Response]:
        """Send a request for one of the node's models; the caller reads the response's body.

        Cancelling closes the connection. The Deferred fails with the errors of Twisted's Agent;
        ``describe`` makes a message of each.
        """
        sent = Headers({"Content-Type": ["application/json"]})
        for name, value in {**headers, **self._credentials}.items():
            sent.setRawHeaders(name, [value])
        opening: Deferred[Response] = self._http.request(
            method,
            self._url(path),
            headers=sent,
            data=body,
            cookies=NO_COOKIES,
            unbuffered=True,
            allow_redirects=False,
        )
        return opening.addErrback(_unwrap_cancellation)

    def _url(self, path: str) -> EncodedURL:
        url = self._urls.get(path)
        if url is None:
            url = self._to(path)
            # Some paths contain an id, so the number of paths has no bound.
            if len(self._urls) < MAX_URLS:
                self._urls[path] = url
        return url

    def _to(self, path: str) -> EncodedURL:
        """Return the URL of a path below the node's endpoint, which no dots in the path can leave.

        A ``path`` begins with a slash, and may end with a query.
        """
        url = self._base.click(path)
        prefix = self._base.path
        return url.replace(path=(*prefix, *url.path)) if prefix else url


def _secrets(credentials: Iterable[str]) -> list[str]:
    """Return what no words of a node may repeat, of the values of our headers to it."""
    found = {part for value in credentials for part in (value, value.rpartition(" ")[2])}
    return sorted((each for each in found if len(each) >= SHORTEST_SECRET), key=len, reverse=True)


async def _fetch(send: Callable[[], Deferred[Response]], limit: int) -> NodeAnswer:
    try:
        response = await send()
        return NodeAnswer(response.code, await collect(response, limit), response.headers)
    except CancelledError:
        raise
    except Exception as error:
        raise own_failure(error) or BadGateway(describe(error)) from error


def _timed_out(result: object, timeout: float) -> NoReturn:
    """Raise NodeTimeout in place of the cancellation that ended a wait of so many seconds."""
    if isinstance(result, Failure):
        result.trap(CancelledError)
    if isinstance(result, Failure) and isinstance(result.value, HandshakeCancelled):
        raise NodeTimeout(f"the TLS handshake did not end within {timeout:g} s")
    raise NodeTimeout(f"no answer within {timeout:g} s")


def _unwrap_cancellation(failure: Failure) -> Failure:
    """Raise CancelledError where Twisted's Agent has wrapped it as the reason of another error."""
    reasons = getattr(failure.value, "reasons", ())
    if failure.check(network_errors.ConnectingCancelledError) or any(
        reason.check(CancelledError) for reason in reasons
    ):
        raise CancelledError
    return failure


class _Collector(TwistedProtocol):
    """Buffers a body up to a limit, then fires ``whole``; cancelling closes the connection."""

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
            words = f"the answer is larger than {self._limit // 2**20} MiB"
            self.whole.errback(UnfitAnswer(words))
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

    The Deferred fails with UnfitAnswer when the body exceeds ``limit`` bytes, and with the errors
    of Twisted's Agent when the connection breaks off.
    """
    collector = _Collector(limit)
    response.deliverBody(collector)
    return collector.whole


def is_unread(error: BaseException) -> bool:
    """Return whether a request that failed with this error cannot have been read whole."""
    return isinstance(error, _BEFORE_THE_END) or getattr(error, "is_unread", False)


def is_cut(error: BaseException) -> bool:
    """Return whether a connection ended behind a whole request, before the whole answer."""
    reasons = getattr(error, "reasons", ())
    return isinstance(error, (ResponseFailed, ResponseNeverReceived)) and any(
        reason.check(network_errors.ConnectionDone, network_errors.ConnectionLost)
        for reason in reasons
    )


def is_silent_end(error: BaseException) -> bool:
    """Return whether a connection ended behind a whole request, without a byte of an answer."""
    return isinstance(error, ResponseNeverReceived) and is_cut(error)


_BEFORE_THE_END = (
    network_errors.ConnectError,
    network_errors.DNSLookupError,
    network_errors.UserError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
)
"""The errors of requests that did not go out whole; a connection attempt that timed out is a
ConnectError, as is a refused one."""

NOT_UNDERSTOOD = "the answer cannot be understood"


def own_failure(error: BaseException) -> GatewayBusy | None:
    """Return the error for a connection that failed for want of files or ports of our own machine.

    It is no fault of the node, and no other node could be reached either.
    """
    is_ours = isinstance(error, network_errors.ConnectBindError) or (
        isinstance(error, network_errors.ConnectError) and error.osError == errno.EADDRNOTAVAIL
    )
    if not is_ours:
        return None
    return GatewayBusy(
        "the gateway has no file or port left for a connection to a node; raise its limit of open "
        "files (LimitNOFILE), or lower gateway.max_clients",
        retry_after=RETRY_SECONDS,
    )


def describe(error: BaseException) -> str:
    """Return a readable message for an error between us and a node."""
    if isinstance(error, (ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed)):
        # The reasons may include a parser error that the first error caused: prefer the first.
        words = [describe(reason.value) for reason in getattr(error, "reasons", [])]
        return min(
            words, key=lambda word: NOT_UNDERSTOOD in word, default="the connection broke off"
        )
    if isinstance(error, (TLSFailed, BrokenTLS)):
        return error.message
    if isinstance(error, network_errors.ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, network_errors.DNSLookupError):
        return "the host name cannot be resolved"
    if isinstance(error, (network_errors.TimeoutError, network_errors.UserError)):
        return "the connection attempt timed out"
    if isinstance(error, network_errors.ConnectError):
        return f"cannot connect: {str(error).rstrip('.')}"
    if isinstance(error, (network_errors.ConnectionClosed, ResponseDone, PartialDownloadError)):
        return "the connection was closed before the answer was complete"
    if isinstance(error, RequestGenerationFailed):
        return "the request could not be sent"
    if isinstance(error, (BadGateway, NodeTimeout)):
        return error.message
    if isinstance(error, UnfitAnswer):
        return str(error)
    if isinstance(error, ParseError) and is_tls(error.data):
        return TLS_INSTEAD
    if isinstance(error, _MalformedChunkedDataError):
        return "the chunks of the answer cannot be understood"
    return f"{type(error).__name__}: {NOT_UNDERSTOOD}"
