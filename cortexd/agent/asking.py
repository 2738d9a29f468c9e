"""Asks the engine of this machine over HTTP, with limits of time and size.

twisted.web's own client is enough here, and the gateway's client of a node is too heavy: with treq
and what it needs it would take megabytes, for requests that have neither files nor cookies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import (
    ParseError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.client import URI, HTTPConnectionPool
from twisted.web.client import Agent as WebClient
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from cortexd.config.addresses import host_and_port
from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.engine import Ask
from cortexd.text import scrubbed

MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
"""The longest answer of an engine: a list of 1,000 models takes a tenth of it."""

IDLE_SECONDS: Final = 4.0
"""How long a connection waits for the next request: less than the 5 s after which some close it."""

CONNECT_SECONDS: Final = 5.0
"""How long a connection may take: on one machine it is there at once or never."""

FAULTS: Final = (
    ConnectError,
    ParseError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)

T = TypeVar("T")


class Unanswered(Exception):
    """Raised when the engine does not answer as it should; the message says why.

    ``is_refused``: nothing listens at its port. ``is_silent``: no answer came in time.
    """

    def __init__(self, reason: str, *, is_refused: bool = False, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_refused = is_refused
        self.is_silent = is_silent


class EngineClient:
    """Asks the engine at ``endpoint``, a URL without a trailing slash.

    ``credentials`` are the headers with its API key, if it requires one.
    """

    def __init__(self, reactor: Any, endpoint: str, credentials: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._endpoint = endpoint.encode("ascii")
        self._headers = Headers({name: [value] for name, value in credentials.items()})
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = IDLE_SECONDS  # type: ignore[assignment] # any number
        self._http = WebClient.usingEndpointFactory(
            reactor, _Endpoint(reactor, endpoint), self._pool
        )

    def ask(self, ask: Ask[T], limit: float) -> Deferred[T]:
        """Return the answer to a question without a body, within ``limit`` seconds.

        Raises Unanswered.
        """
        return Deferred.fromCoroutine(self._answer(ask, limit))

    async def _answer(self, ask: Ask[T], limit: float) -> T:
        asked = f"{ask.method} {ask.path}"
        try:
            fetching = Deferred.fromCoroutine(self._fetch(ask))
            status, body = await fetching.addTimeout(limit, self._reactor, _timed_out)
        except TimedOut:
            words = f"{asked}: no answer within {limit:g} s"
            raise Unanswered(words, is_silent=True) from None
        except Refused:
            raise Unanswered("its port refuses connections", is_refused=True) from None
        except TooLong:
            words = f"{asked}: the answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB"
            raise Unanswered(words) from None
        except FAULTS as error:
            raise Unanswered(f"{asked}: {_words(error)}") from None
        try:
            return ask.answer(status, body)
        except BadAnswer as error:
            raise Unanswered(scrubbed(str(error))) from None

    async def _fetch(self, ask: Ask[T]) -> tuple[int, bytes]:
        headers = self._headers.copy()
        for name, value in ask.headers:
            headers.setRawHeaders(name, [value])
        url = self._endpoint + ask.path.encode("ascii")
        response = await self._http.request(ask.method.encode("ascii"), url, headers)
        return response.code, await _collected(response)

    def close(self) -> Deferred[None]:
        """Close the connections that wait for a next request."""
        closing: Deferred[None] = self._pool.closeCachedConnections()
        return closing


@implementer(IAgentEndpointFactory)
class _Endpoint:
    """Where the engine is. An address needs no look-up, and no second attempt beside the first."""

    def __init__(self, reactor: Any, endpoint: str) -> None:
        host, port = host_and_port(endpoint)
        host = host or ""
        self._endpoint: IStreamClientEndpoint
        if isIPAddress(host):
            self._endpoint = TCP4ClientEndpoint(reactor, host, port, CONNECT_SECONDS)
        elif isIPv6Address(host):
            self._endpoint = TCP6ClientEndpoint(reactor, host, port, CONNECT_SECONDS)
        else:
            self._endpoint = HostnameEndpoint(reactor, host, port, CONNECT_SECONDS)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return it."""
        return self._endpoint


def _timed_out(_: object, seconds: float) -> NoReturn:
    """Fail, in whatever way the request has ended when it was cancelled."""
    raise TimedOut


class TooLong(Exception):
    """Raised when an answer is longer than MAX_ANSWER_BYTES."""


class _Collector(Protocol):
    """Collects a body up to the limit, then fires ``whole``."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the body."""
        self._size += len(data)
        if self._size <= MAX_ANSWER_BYTES:
            self._parts.append(data)
        elif not self.whole.called:
            self.whole.errback(TooLong())
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the body."""
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)

    def _abort(self) -> None:
        transport: Any = self.transport
        abort = getattr(transport, "abortConnection", None) or transport.loseConnection
        abort()


def _collected(response: IResponse) -> Deferred[bytes]:
    collector = _Collector()
    response.deliverBody(collector)
    return collector.whole


def _words(error: Exception) -> str:
    """Return the reason of a failed request, without Twisted's wrapping."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return scrubbed(str(reasons[0].value)) or "the connection broke"
    return scrubbed(str(error)) or "the connection broke"
