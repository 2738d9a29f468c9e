"""TLS with nodes: real handshakes, in memory, and the words for those that fail."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from cortexd.config.node_tls import NodeTLS, tls_of
from cortexd.config.settings import NodeSettings
from cortexd.engines.mistralrs import MistralRs
from cortexd.errors import BadGateway, NodeTimeout
from cortexd.upstream.client import NodeClient, describe, is_unread
from cortexd.upstream.connection import Connection
from cortexd.upstream.tls import Creator, TLSEndpoint, TLSFailed
from tests.doubles.authorities import (
    CLIENT,
    HOST,
    OLD,
    Authority,
    Certified,
    Served,
    self_signed,
)
from tests.upstream.test_client import EMPTY_LIST, PORT, Speaker, UpstreamTestCase, response

LIMIT = 5.0
HOME = cache(lambda: Authority("Home CA"))
OTHER = cache(lambda: Authority("Other CA"))
NODE = cache(lambda: HOME().issue(HOST, "gpu.example"))

UNTRUSTED = "its certificate is signed by an authority that is not trusted: set ca_file"
NOT_IN_FILE = "its certificate is signed by an authority that is not in ca_file"
DEMANDED = "the node demands a client certificate: set client_certificate and client_key"
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"


def close(transport: Any) -> None:
    """End a connection."""
    transport.loseConnection()


class NodeTestCase(UpstreamTestCase):
    """A node by TLS at PORT, and the files for it."""

    def setUp(self) -> None:
        super().setUp()
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def files(self, trusted: Authority | None = None, shown: Certified | None = None) -> NodeTLS:
        """Return the files of a node as the daemon reads them."""
        certificate, key = shown.write(self.folder, "client") if shown else (None, None)
        return tls_of(
            NodeSettings(
                name="a",
                endpoint="https://a",
                ca_file=trusted.write(self.folder / "ca.pem") if trusted else None,
                client_certificate=certificate,
                client_key=key,
            )
        )

    def serve(self, served: Served, words: bytes = response(EMPTY_LIST)) -> None:
        """Answer every connection with these words, within TLS."""

        def make() -> Speaker:
            self.speakers.append(Speaker(words, None))
            return self.speakers[-1]

        factory = Factory()
        factory.protocol = make
        self.network.ports.pop(PORT, None)
        self.network.listenTCP(PORT, TLSMemoryBIOFactory(served, False, factory, self.network))

    def connect(self, files: NodeTLS, host: str = HOST) -> Deferred[Any]:
        """Connect to the node, as the host of this name or address."""
        below = TCP4ClientEndpoint(self.network, HOST, PORT, LIMIT)
        endpoint = TLSEndpoint(below, Creator(host, files), self.network, LIMIT)
        connecting = endpoint.connect(Factory.forProtocol(lambda: Connection(lambda _: None)))
        self.network.flush()
        return connecting

    def holds(self, files: NodeTLS, host: str = HOST) -> bool:
        """Return whether the handshake succeeds; the connection is closed again."""
        connecting = self.connect(files, host)
        outcome: list[Any] = []
        connecting.addBoth(outcome.append)
        (made,) = outcome
        if isinstance(made, Connection):
            transport: Any = made.transport
            transport.loseConnection()
            self.network.flush()
            return True
        made.trap(TLSFailed)
        return False

    def words(self, files: NodeTLS, host: str = HOST) -> str:
        """Return why the handshake fails."""
        failure = self.failureResultOf(self.connect(files, host), TLSFailed)
        assert is_unread(failure.value)
        return describe(failure.value)

    def ask(self, files: NodeTLS, seconds: float = 0.0) -> str:
        """Return how a listing fails, with the client that the daemon would make."""
        http = self.pool.http(files)
        url = f"https://{HOST}:{PORT}"
        self.client = NodeClient("a", url, http, self.clock, MistralRs(), files=files)
        return self.refusal(NodeTimeout if seconds else BadGateway, seconds)


class TrustTests(NodeTestCase):
    def test_who_is_trusted(self) -> None:
        """The authorities of the file and no others, roots or not; the names are compared."""
        home, other = self.files(HOME()), self.files(OTHER())
        below = Authority("Below", under=HOME())
        for served, files, host, is_fine in (
            (NODE(), home, HOST, True),
            (NODE(), home, "gpu.example", True),
            (NODE(), home, "gpu.example.", True),
            (NODE(), home, "GPU.example", True),
            (NODE(), home, "example", False),
            (NODE(), home, "a.gpu.example", False),
            (NODE(), home, "127.0.0.2", False),
            (NODE(), home, "::1", False),
            (HOME().issue("::1"), home, "::1", True),
            (HOME().issue("*.gpu.example"), home, "a.gpu.example", True),
            (NODE(), other, HOST, False),
            (NODE(), NodeTLS(), HOST, False),
            (below.issue(HOST), home, HOST, True),
            (below.issue(HOST), self.files(below), HOST, True),
            (Certified(NODE().key, NODE().chain), self.files(below), HOST, False),
        ):
            self.serve(Served(served))
            assert is_fine == self.holds(files, host), (served, host)

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 will do; the name goes to the node, an address does not."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            served = Served(NODE(), highest=version)
            self.serve(served)
            assert self.holds(self.files(HOME()), "gpu.example")
            assert self.holds(self.files(HOME()))
            assert [b"gpu.example", None] == served.names

    def test_a_client_certificate(self) -> None:
        """It is shown to the node that asks for it, with the chain above it."""
        below = Authority("Below", under=OTHER())
        shown = below.issue("client", purpose=CLIENT)
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            served = Served(NODE(), highest=version, clients=OTHER())
            self.serve(served)
            assert self.holds(self.files(HOME(), shown))
            assert [shown.chain[0].serial_number] == served.shown

    def test_a_single_certificate_is_trusted(self) -> None:
        """Where the file contains it, whoever has signed it; its names are compared too."""
        file = self.folder / "alone.pem"
        node = NodeSettings(name="a", endpoint="https://a", ca_file=str(file))
        for alone in (self_signed(HOST), NODE()):
            file.write_bytes(alone.chain_pem)
            self.serve(Served(alone))
            assert self.holds(tls_of(node))
            assert not self.holds(tls_of(node), "127.0.0.2")


class WordsTests(NodeTestCase):
    def test_what_is_wrong_with_a_certificate(self) -> None:
        """Each thing has its own words, and they say what to do."""
        late, early = HOME().issue(HOST, days=(-9, -2)), HOME().issue(HOST, days=(2, 9))
        old = Authority("Old CA", days=(-9, -2))
        many = HOME().issue("a.example", "b.example", "10.0.0.1", "c.example", "d.example", "e")
        home, none = self.files(HOME()), NodeTLS()
        for certified, files, host, words in (
            (NODE(), none, HOST, UNTRUSTED),
            (NODE(), self.files(OTHER()), HOST, NOT_IN_FILE),
            (NODE(), self.files(Authority("Home CA")), HOST, NOT_IN_FILE),
            (
                self_signed(HOST),
                none,
                HOST,
                "its certificate is signed by itself: set ca_file to a file that contains it",
            ),
            (
                self_signed(HOST),
                home,
                HOST,
                "its certificate is signed by itself, and is not in ca_file",
            ),
            (
                NODE(),
                home,
                "c.example",
                "its certificate is for gpu.example, 127.0.0.1, not for c.example",
            ),
            (
                many,
                home,
                "127.0.0.2",
                "its certificate is for a.example, b.example, c.example, d.example, 2 more, "
                "not for 127.0.0.2",
            ),
            (
                HOME().issue(),
                home,
                HOST,
                f"its certificate is for no host (it has no subjectAltName), so not for {HOST}",
            ),
            (
                HOME().issue(HOST, purpose=CLIENT),
                home,
                HOST,
                "its certificate is not for servers (extended key usage)",
            ),
        ):
            self.serve(Served(certified))
            assert words == self.words(files, host)
        for certified, trusted, pattern in (
            (late, HOME(), f"its certificate expired on {DATE}"),
            (
                early,
                HOME(),
                f"its certificate is not valid before {DATE}: look at the clocks of both machines",
            ),
            (
                old.issue(HOST),
                old,
                f'the certificate of its authority "Old CA" expired on {DATE}',
            ),
        ):
            self.serve(Served(certified))
            words = self.words(self.files(trusted))
            assert re.fullmatch(pattern, words), words
        self.serve(Served(late))
        expired = late.chain[0].not_valid_after_utc
        assert f"{expired:%Y-%m-%d}" in self.words(home)

    def test_a_node_that_demands_a_certificate(self) -> None:
        """With either version of TLS: a node of TLS 1.3 says so only after the handshake."""
        home = self.files(HOME())
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            self.serve(Served(NODE(), highest=version, clients=OTHER()))
            assert DEMANDED == self.ask(home)
            assert (
                "the node refuses our client certificate: its authority is not known there"
                == self.ask(self.files(HOME(), HOME().issue("us", purpose=CLIENT)))
            )
            late = OTHER().issue("us", purpose=CLIENT, days=(-9, -2))
            assert "the node refuses our client certificate: it has expired" == self.ask(
                self.files(HOME(), late)
            )

    def test_a_node_without_tls(self) -> None:
        """Plain HTTP on the port, another protocol, and an end without a word."""
        home = self.files(HOME())
        self.listen(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        plain = "the node speaks plain HTTP on this port: let its endpoint begin with http://"
        assert plain == self.words(home)
        self.listen(b"SSH-2.0-OpenSSH_9.9\r\n")
        assert "the node does not speak TLS on this port" == self.words(home)
        self.listen(b"", lambda transport: transport.loseConnection())
        words = "the node closed the connection during the TLS handshake: does it speak TLS"
        assert self.words(home).startswith(words)

    def test_an_old_version(self) -> None:
        """A node that speaks nothing above TLS 1.1."""
        home = self.files(HOME())
        self.serve(Served(NODE(), highest=OLD))
        old = "the node speaks no version of TLS from 1.2 on, and older ones are not safe"
        assert old == self.words(home)

    def test_tls_where_http_was_expected(self) -> None:
        """The node answers plain HTTP with an alert, whose last byte may end a line."""
        words = "the node speaks TLS on this port: let its endpoint begin with https://"
        for alert in (b"\x15\x03\x03\x00\x02\x02\x32", b"\x15\x03\x01\x00\x02\x02\x0a"):
            self.listen(alert, lambda transport: transport.loseConnection())
            assert words == self.refusal(BadGateway)


class EndTests(NodeTestCase):
    def test_a_handshake_has_a_limit(self) -> None:
        """A node that takes the connection and says nothing; nothing of it stays."""
        self.listen(b"")
        connecting = self.connect(self.files(HOME()))
        self.assertNoResult(connecting)
        self.network.advance(LIMIT)
        failure = self.failureResultOf(connecting, TLSFailed)
        assert "the TLS handshake did not end within 5 s" == describe(failure.value)
        assert self.speakers[-1].closed
        words = self.ask(self.files(HOME()), seconds=2)  # a poll waits no longer
        assert "the TLS handshake did not end within 2 s" == words
        assert self.speakers[-1].closed

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from([b"", b"\x15\x03\x03\x00\x02", b"\x16\x03\x03\x00\x40", b"HTTP/"]),
        st.binary(max_size=80),
        st.booleans(),
    )
    def test_any_answer_to_a_handshake(self, beginning: bytes, rest: bytes, closes: bool) -> None:
        """Whatever a node says instead, the handshake fails in words, and no connection stays."""
        self.listen(beginning + rest, close if closes else None)
        connecting = self.connect(NodeTLS())
        self.network.advance(LIMIT)
        words = describe(self.failureResultOf(connecting, TLSFailed).value)
        assert words.isprintable()
        self.network.flush()
        assert self.speakers.pop().closed

    def test_cancelling_a_handshake(self) -> None:
        """Whoever leaves takes the connection along."""
        self.listen(b"")
        connecting = self.connect(self.files(HOME()))
        connecting.cancel()
        self.network.flush()
        self.failureResultOf(connecting, CancelledError)
        assert self.speakers[-1].closed

    def test_nothing_goes_out_before_the_handshake(self) -> None:
        """A node whose certificate does not hold hears nothing of a request."""
        self.serve(Served(OTHER().issue(HOST)))
        assert NOT_IN_FILE == self.ask(self.files(HOME()))
        assert [b""] == [speaker.heard for speaker in self.speakers]

    def test_connections_are_not_shared(self) -> None:
        """Nor between two nodes at one place, where one trusts what the other does not."""
        self.serve(Served(NODE()))
        clients = [
            NodeClient(
                "a", f"https://{HOST}:{PORT}", self.pool.http(files), self.clock, MistralRs()
            )
            for files in (self.files(HOME()), self.files(OTHER()), NodeTLS())
        ]
        self.successResultOf(self.start(clients[0].listing(2)))
        for client in clients[1:]:
            self.failureResultOf(self.start(client.listing(2)), BadGateway)
        assert [True, False, False] == [bool(each.heard) for each in self.speakers]

    def test_idle_connections_are_kept_for_those_that_stay(self) -> None:
        """A node's idle connections end with its files; those of others stay."""
        self.serve(Served(NODE()))
        home = self.files(HOME())
        url = f"https://{HOST}:{PORT}"
        client = NodeClient("a", url, self.pool.http(home), self.clock, MistralRs())
        self.successResultOf(self.start(client.listing(2)))
        self.pool.keep([(url, home)])
        self.network.flush()
        assert not self.speakers[-1].closed
        assert self.pool.http(home) is self.pool.http(self.files(HOME()))
        self.pool.keep([(url, self.files(OTHER()))])
        self.network.flush()
        assert self.speakers[-1].closed
