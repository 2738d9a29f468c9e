"""Connections to nodes: how they are made, kept and read."""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import URI, Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http import _ChunkedTransferDecoder
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

MAX_CONNECTIONS_KEPT = 64
"""Idle connections kept to each node: a burst of that many requests finds them warm."""

IDLE_SECONDS = 60
"""How long an idle connection is kept. A node itself sets no limit (upstream notes part 8)."""

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
    return HTTPClient(
        Agent.usingEndpointFactory(reactor, _Endpoints(reactor, connect_timeout), pool)
    ), pool


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

    def dataReceived(self, data: bytes) -> None:
        """Take a read: a chunk between two others, or something for the parser."""
        reader = self._reader_between_chunks()
        body = None if reader is None else whole_chunk(data)
        if body is None:
            super().dataReceived(data)
            return
        try:
            reader.dataReceived(body)
        except BaseException:  # as Twisted does
            self._giveUp(Failure())

    def _reader_between_chunks(self) -> Any:
        """Return who reads the body, where it is chunked and all of it that came has been read.

        All that this looks at is private to Twisted. Where Twisted calls it otherwise, and where
        no answer is under way, there is nobody, and the parser takes everything.
        """
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
                return response._bodyProtocol  # noqa: SLF001 - there is no other way to it
        except AttributeError:
            pass
        return None


def whole_chunk(data: bytes) -> bytes | None:
    """Return what ``data`` carries if it is one chunk of a chunked body, whole, and nothing else.

    Only the plainest form is known here: no extension, no leading zero, not the last chunk.
    """
    line_end = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2)
    size = len(data) - line_end - 4
    if line_end < 1 or size < 1 or data[:line_end].lower() != b"%x" % size or data[-2:] != b"\r\n":
        return None
    return data[line_end + 2 : -2]
