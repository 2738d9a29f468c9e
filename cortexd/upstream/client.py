"""One node's HTTP API: the questions and orders of its engine, and requests for its models.

Everything goes through treq, over the connections of ``cortexd.upstream.connections``. A failure on
the way to a node becomes a CortexError in words, and no wait here is without a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from hyperlink import EncodedURL
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error as network_errors
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.client import (
    PartialDownloadError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from cortexd.config.credentials import NO_CREDENTIALS
from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.engine import Ask, Engine
from cortexd.errors import BadGateway, NodeTimeout
from cortexd.fleet.outcomes import Outcome
from cortexd.fleet.states import Observation, SystemInfo
from cortexd.headers import header_text
from cortexd.upstream.connections import NO_COOKIES, OnlyOnce

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The longest answer taken in one piece: an image or many embeddings, not an endless body."""


MAX_URLS = 64
"""How many of a node's URLs are kept made: more than it has routes that are asked for often."""

T = TypeVar("T")


class Response(Protocol):
    """What is used of a treq response."""

    code: int
    headers: Headers

    def deliverBody(self, protocol: TwistedProtocol) -> None:
        """Send the body, as it comes, to the protocol."""


class NodeAnswer(NamedTuple):
    """A node's answer in one piece."""

    status: int
    body: bytes
    headers: Headers

    @property
    def content_type(self) -> str | None:
        """What the body is, if the node says."""
        return header_text(self.headers, "content-type")

    @property
    def disposition(self) -> dict[str, str]:
        """The header that says what a file of the body is called, if the node says."""
        given = header_text(self.headers, "content-disposition")
        return {"Content-Disposition": given} if given else {}


class _NodeURL(EncodedURL):
    """A URL on a node, in ASCII as it is, and rendered once.

    treq would encode and render it again for each request, and cannot encode it where the host is
    an IPv6 address (hyperlink's issue 68).
    """

    _text: str | None = None

    def to_uri(self) -> _NodeURL:
        """Return it as it is."""
        return self

    def to_text(self, with_password: bool = False) -> str:
        """Return it as text. No address of a node holds a password."""
        if self._text is None:
            self._text = super().to_text(with_password)
        return self._text


class NodeClient:
    """Speaks to one node, which runs an ``engine``. ``http`` is treq's client or its test double.

    ``credentials`` are headers that go with every request. Questions that the engine is not able to
    answer must not be asked; see Abilities.
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
    ) -> None:
        self.name = name
        self.engine = engine
        self._base = _NodeURL.from_text(endpoint)
        self._http = http
        self._clock = clock
        self._credentials = dict(credentials)
        self._urls: dict[str, EncodedURL] = {}

    async def listing(self, timeout: float) -> Observation:
        """Return what the node says of its models; raises as ``ask`` does."""
        return await self.ask(self.engine.listing(), timeout)

    async def system_info(self, timeout: float) -> SystemInfo:
        """Return what the node says of its machine; raises as ``ask`` does."""
        return await self.ask(self.engine.system(), timeout)

    async def status(self, model: str, timeout: float) -> Outcome:
        """Return what the node says of one of its models; raises as ``ask`` does."""
        return await self.ask(self.engine.status(model), timeout)

    async def load(self, model: str, timeout: float) -> Outcome:
        """Have the node load a model, and return the end of that, which may take many minutes.

        Only a model that is exactly unloaded may be loaded. Raises as ``ask`` does; the load may go
        on all the same, for nothing stops one.
        """
        return await self.ask(self.engine.load(model), timeout)

    async def unload(self, model: str, timeout: float) -> Outcome:
        """Have the node drop a model, with every request that still runs on it.

        Its memory comes back only later, if it does. Raises as ``ask`` does.
        """
        return await self.ask(self.engine.unload(model), timeout)

    async def requests_in_flight(self, timeout: float) -> Mapping[str, int] | None:
        """Return how many requests the node itself counts for each model, whoever sent them.

        A model that is not there has had none. ``None`` where the node does not count by model.
        Raises as ``ask`` does.
        """
        return await self.ask(self.engine.requests_in_flight(), timeout)

    async def ask(self, ask: Ask[T], timeout: float) -> T:
        """Carry out a question or an order of the node's engine, and return its answer.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node cannot be
        reached, refuses, or answers something else.
        """

        def send() -> Deferred[Response]:
            if ask.body is None:
                return self._send(ask.method, self._url(ask.path), dict(ask.headers))
            body = OnlyOnce(ask.body) if ask.once else ask.body
            return self.open(ask.path, body, dict(ask.headers), ask.method)

        answer = await self._collected(send, timeout)
        try:
            return ask.answer(answer.status, answer.body)
        except BadAnswer as error:
            raise BadGateway(str(error)) from None

    async def forward(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        timeout: float,
        body: bytes | None = None,
    ) -> NodeAnswer:
        """Return the node's answer to a request, as it is; a ``body`` is JSON.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node cannot be
        reached.
        """

        def send() -> Deferred[Response]:
            if body is not None:
                return self.open(path, body, headers, method)
            return self._send(method, self._base.click(path), headers)

        return await self._collected(send, timeout)

    async def _collected(
        self, send: Callable[[], Deferred[Response]], timeout: float
    ) -> NodeAnswer:
        fetching = Deferred.fromCoroutine(_fetch(send))
        fetching.addTimeout(timeout, self._clock)
        try:
            return await fetching
        except DeferredTimeoutError:
            raise NodeTimeout(f"no answer within {timeout:g} s") from None

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
        """Send a request for one of the node's models; the response's body is not read yet.

        Cancelling closes the connection. Fails with the errors of Twisted's Agent, for which
        ``describe`` has words.
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
            url = self._base.click(path)
            # There may be as many paths as there are ids in them.
            if len(self._urls) < MAX_URLS:
                self._urls[path] = url
        return url


async def _fetch(send: Callable[[], Deferred[Response]]) -> NodeAnswer:
    try:
        response = await send()
        return NodeAnswer(response.code, await collect(response), response.headers)
    except CancelledError:
        raise
    except Exception as error:
        raise BadGateway(describe(error)) from error


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
            self.whole.errback(BadGateway(f"the answer is larger than {self._limit // 2**20} MiB"))
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
    """Return a message for an error between us and a node."""
    if isinstance(error, (ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed)):
        # The reasons may include the parser's error, which is only a consequence of the other.
        words = [describe(reason.value) for reason in getattr(error, "reasons", [])]
        return min(
            words, key=lambda word: NOT_UNDERSTOOD in word, default="the connection broke off"
        )
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
    if isinstance(error, VerificationError):
        return "the certificate is not valid for the host of the endpoint"
    if isinstance(error, SSL.Error):
        # Each of OpenSSL's errors is a tuple of library, function and reason.
        errors = error.args[0] if error.args and isinstance(error.args[0], list) else []
        words = [str(each[-1]) for each in errors]
        return f"TLS failed: {', '.join(words) or 'the connection ended'}"
    return f"{type(error).__name__}: {NOT_UNDERSTOOD}"
