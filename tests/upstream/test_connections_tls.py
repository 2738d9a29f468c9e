"""Connections to nodes by TLS: how they end."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from cortexd.engines.mistralrs import MistralRs
from cortexd.errors import BadGateway
from cortexd.upstream.client import NodeClient, collect
from cortexd.upstream.connections import IDLE_SECONDS, LONG_IDLE_SECONDS, make_http_client
from tests.doubles.certificates import HOST, make_certificate
from tests.support.connection_courses import CHUNKED_HEAD, chunk
from tests.support.network import End
from tests.upstream.test_client import EMPTY_LIST, PORT, Speaker, UpstreamTestCase, response

TRUSTED = "SSL_CERT_FILE"
"""Where OpenSSL looks for the certificates to be trusted."""


certificate = cache(make_certificate)
"""The same one in each test."""


@implementer(IOpenSSLServerConnectionCreator)
class Certified:
    """A server's side of TLS, with the key and the certificate of a file."""

    def __init__(self, path: str) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_certificate_chain_file(path)
        self._context.use_privatekey_file(path)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the TLS of one connection."""
        return SSL.Connection(self._context, None)


def set_trusted(path: str | None) -> None:
    """Have OpenSSL trust the certificates of a file; ``None`` for those of the system."""
    if path is None:
        del os.environ[TRUSTED]
    else:
        os.environ[TRUSTED] = path


def be_busy(end: End) -> None:
    """Have a node take no more notice of what comes."""
    end.protocol.dataReceived = lambda data: None


class TLSTests(UpstreamTestCase):
    def setUp(self) -> None:
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        path = str(Path(temporary.name, "node.pem"))
        Path(path).write_bytes(certificate())
        self.addCleanup(set_trusted, os.environ.get(TRUSTED))
        set_trusted(path)
        self.certified = Certified(path)
        self.client = NodeClient("a", f"https://{HOST}:{PORT}", self.http, self.clock, MistralRs())

    def listen(self, words: bytes, after: Any = None) -> None:
        """Answer every connection with these bytes, within TLS."""

        def make() -> Speaker:
            self.speakers.append(Speaker(words, after))
            return self.speakers[-1]

        factory = Factory()
        factory.protocol = make
        self.network.ports.pop(PORT, None)
        self.network.listenTCP(
            PORT, TLSMemoryBIOFactory(self.certified, False, factory, self.network)
        )

    def serve_once(self) -> End:
        """Have an idle connection; return the node's end of it."""
        self.listen(response(EMPTY_LIST))
        assert {} == self.successResultOf(self.start(self.client.listing(2))).replicas
        (end,) = self.network.open_ends(PORT)
        return end

    def test_letting_go_ends_the_connection(self) -> None:
        """Though the node is busy, and does not look at what its system has read."""
        self.listen(CHUNKED_HEAD + chunk(b"x"))
        opening = self.client.open("/v1/x", b"{}", {})
        self.network.flush()
        reading = collect(self.successResultOf(opening))
        (end,) = self.network.open_ends(PORT)
        be_busy(end)
        reading.cancel()
        self.network.flush()

        self.failureResultOf(reading, CancelledError)
        assert self.speakers[0].closed

    def test_idle_connections_end(self) -> None:
        """In their time and at our end, without the node's word."""
        for is_our_end in (False, True):
            end = self.serve_once()
            be_busy(end)
            if is_our_end:
                self.successResultOf(self.closed_pool())
            else:
                self.network.advance(IDLE_SECONDS)
            assert self.speakers[-1].closed

    def closed_pool(self) -> Deferred[None]:
        closing: Deferred[None] = self.pool.closeCachedConnections()
        self.network.flush()
        return closing

    def test_what_is_wrong_with_a_certificate_is_told(self) -> None:
        """One that nobody vouches for, one for another host, and a node that speaks no TLS."""
        self.listen(response(EMPTY_LIST))
        self.client = NodeClient(
            "a", f"https://127.0.0.2:{PORT}", self.http, self.clock, MistralRs()
        )
        misnamed = "its certificate is for 127.0.0.1, not for 127.0.0.2"
        assert misnamed == self.refusal(BadGateway)
        self.client = NodeClient("a", f"https://{HOST}:{PORT}", self.http, self.clock, MistralRs())
        UpstreamTestCase.listen(self, response(EMPTY_LIST))
        assert "speaks plain HTTP on this port" in self.refusal(BadGateway)
        set_trusted(os.devnull)
        self.listen(response(EMPTY_LIST))
        http, pool = make_http_client(self.network, connect_timeout=5)
        self.client = NodeClient("a", f"https://{HOST}:{PORT}", http, self.clock, MistralRs())
        assert "its certificate is signed by itself" in self.refusal(BadGateway)
        self.successResultOf(pool.closeCachedConnections())

    def test_an_idle_connection_may_end_as_a_request_goes_out(self) -> None:
        """The request goes out again, as it does without TLS."""
        self.serve_once()
        self.network.advance(LONG_IDLE_SECONDS)
        transport: Any = self.speakers[0].transport
        transport.loseConnection()
        self.successResultOf(self.start(self.client.listing(2)))

        assert 2 == len(self.speakers)
