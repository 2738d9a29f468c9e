"""One node's HTTP API: its listing, its system, and requests for its models.

Everything goes through treq, over the connections of ``cortexd.upstream.connections``. What can go
wrong on the way to a node is turned into a CortexError in words, and no wait here is without a
limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from hyperlink import EncodedURL
from OpenSSL import SSL
from prometheus_client.parser import text_string_to_metric_families
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
from cortexd.dialects.nodes import messages, mistralrs, mistralrs_lifecycle
from cortexd.dialects.nodes.errors import error_words
from cortexd.dialects.nodes.mistralrs_lifecycle import Outcome
from cortexd.errors import BadGateway, NodeTimeout
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
    """Speaks to one node. ``http`` is treq's client or its test double.

    A node that speaks Messages alone is no mistral.rs server: it can be asked for its models, and
    for messages. ``credentials`` are headers that go with every request.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        http: Any,
        clock: IReactorTime,
        *,
        speaks_messages_alone: bool = False,
        credentials: Mapping[str, str] = NO_CREDENTIALS,
    ) -> None:
        self.name = name
        self._base = _NodeURL.from_text(endpoint)
        self._http = http
        self._clock = clock
        self._speaks_messages_alone = speaks_messages_alone
        self._credentials = dict(credentials)
        self._urls: dict[str, EncodedURL] = {}

    async def listing(self, timeout: float) -> Observation:
        """Return what the node says of its models.

        Raises NodeTimeout after ``timeout`` seconds, and BadGateway when the node cannot be
        reached or answers something else.
        """
        if self._speaks_messages_alone:
            return await self._read(messages.MODELS_PATH, messages.read_listing, timeout)
        return await self._read(mistralrs.MODELS_PATH, mistralrs.read_listing, timeout)

    async def system_info(self, timeout: float) -> SystemInfo:
        """Return what the node says of its machine; raises as ``listing`` does."""
        return await self._read(mistralrs.SYSTEM_INFO_PATH, mistralrs.read_system_info, timeout)

    async def status(self, model: str, timeout: float) -> Outcome:
        """Return what the node says of one of its models; raises as ``listing`` does."""
        operation = mistralrs_lifecycle.operation_body(model)
        return await self._operate(mistralrs_lifecycle.STATUS_PATH, operation, timeout)

    async def reload(self, model: str, timeout: float) -> Outcome:
        """Have the node load a model, and return how that ended, which may take many minutes.

        To be asked only for a model that is exactly unloaded: of any other the node never gets the
        id back into order (nodes.md 2.3.2). Raises as ``listing`` does; the load may go on all the
        same, for nothing stops one.
        """
        return await self._order(mistralrs_lifecycle.RELOAD_PATH, model, timeout)

    async def unload(self, model: str, timeout: float) -> Outcome:
        """Have the node drop a model, with every request that still runs on it.

        Its memory comes back only later, if it does (nodes.md 2.5.4 and 2.6). Raises as ``listing``
        does.
        """
        return await self._order(mistralrs_lifecycle.UNLOAD_PATH, model, timeout)

    async def requests_in_flight(self, timeout: float) -> Mapping[str, int] | None:
        """Return how many requests the node itself counts for each model, whoever sent them.

        A model that is not there has had none. ``None`` where the node does not count by model,
        as one with metrics switched off, or before v0.8.4. Raises as ``listing`` does.
        """
        path = mistralrs_lifecycle.METRICS_PATH
        code, body, _ = await self._ask(path, timeout)
        if code in (404, 503):
            return None
        if code != 200:
            raise BadGateway(f"GET {path} answered with status {code}")
        try:
            return mistralrs_lifecycle.count_in_flight(
                _samples(mistralrs_lifecycle.IN_FLIGHT_SERIES, body)
            )
        except mistralrs.BadAnswer as error:
            raise BadGateway(f"GET {path}: {error}") from None

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

    async def _read(self, path: str, reader: Callable[[bytes], T], timeout: float) -> T:
        code, body, _ = await self._ask(path, timeout)
        if code != 200:
            raise _refusal("GET", path, code, body)
        try:
            return reader(body)
        except mistralrs.BadAnswer as error:
            raise BadGateway(f"GET {path}: {error}") from None

    async def _order(self, path: str, model: str, timeout: float) -> Outcome:
        # A node that takes a second reload of a model never loads it again (nodes.md 2.3).
        return await self._operate(
            path, OnlyOnce(mistralrs_lifecycle.operation_body(model)), timeout
        )

    async def _operate(self, path: str, operation: bytes, timeout: float) -> Outcome:
        code, body, _ = await self._ask(path, timeout, operation)
        if code != 200:
            raise _refusal("POST", path, code, body)
        try:
            return mistralrs_lifecycle.read_outcome(body)
        except mistralrs.BadAnswer as error:
            raise BadGateway(f"POST {path}: {error}") from None

    async def _ask(self, path: str, timeout: float, body: bytes | None = None) -> NodeAnswer:
        def send() -> Deferred[Response]:
            if body is None:
                headers = dict(messages.HEADERS) if self._speaks_messages_alone else {}
                return self._send("GET", self._url(path), headers)
            return self.open(path, body, {})

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


def _refusal(method: str, path: str, code: int, body: bytes) -> BadGateway:
    words = mistralrs_lifecycle.first_line(error_words(body)) or "no message"
    return BadGateway(f"{method} {path} answered with status {code}: {words}")


async def _fetch(send: Callable[[], Deferred[Response]]) -> NodeAnswer:
    try:
        response = await send()
        return NodeAnswer(response.code, await collect(response), response.headers)
    except CancelledError:
        raise
    except Exception as error:
        raise BadGateway(describe(error)) from error


def _samples(series: str, text: bytes) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield labels and value of each sample of one series of a Prometheus text.

    Only its own lines are parsed: the histograms beside them are many times as long, and may hold
    what a parser of another time does not know. Raises BadAnswer.
    """
    lines = text.decode("utf-8", "replace").split("\n")
    own = "\n".join(line for line in lines if line.startswith((f"{series}{{", f"{series} ")))
    try:
        for family in text_string_to_metric_families(own):
            for sample in family.samples:
                yield sample.labels, sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise mistralrs.BadAnswer(f"{series} cannot be read: {error}") from None


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
