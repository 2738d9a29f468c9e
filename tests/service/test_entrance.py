"""How connections come in: over TLS, plain, and with what is neither."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from cortexd.admission.proxies import Proxies
from cortexd.admission.recent import QUIET_SECONDS
from cortexd.config.listening import Files
from cortexd.downstream.http_server import GatewaySite
from cortexd.service.certificates import Certificate, read_certificate
from cortexd.service.entrance import Entrance
from tests.doubles.certificates import write_certificate
from tests.logs.noting import lines_of
from tests.support.http_answers import read_answers
from tests.support.http_sites import MIB, PORT, Client, OneClient, Routes, get
from tests.support.network import Network

IDLE_SECONDS = 60


@implementer(IOpenSSLClientConnectionCreator)
class Trusting:
    """A client's side of TLS that takes any certificate, and offers ``protocols``.

    ``highest`` is the latest version of TLS that it speaks.
    """

    def __init__(self, protocols: list[bytes], highest: int | None) -> None:
        self._protocols = protocols
        self._highest = highest
        self.connection: Any = None

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the TLS of one connection."""
        context = SSL.Context(SSL.TLS_METHOD)
        if self._highest is not None:
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(self._highest)
        if self._protocols:
            context.set_alpn_protos(self._protocols)
        self.connection = made = SSL.Connection(context, None)
        return made

    @property
    def shown(self) -> bytes:
        """The certificate that the server has shown."""
        found = self.connection.get_peer_certificate(as_cryptography=True)
        from cryptography.hazmat.primitives import hashes

        return cast("bytes", found.fingerprint(hashes.SHA256()))


def sending(first: bytes, build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that builds protocols as ``build``, and sends these bytes before theirs."""

    def built(address: object) -> Any:
        protocol = build(address)
        begin = protocol.makeConnection

        def begun(transport: Any) -> None:
            transport.write(first)
            begin(transport)

        protocol.makeConnection = begun
        return protocol

    return built


class EntranceTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.network = Network(Clock())
        self.routes = Routes()
        self.site = GatewaySite(self.routes, self.network, MIB)
        self.first = self.certificate()
        self.entrance = Entrance(self.site, self.first)
        self.network.listenTCP(PORT, self.entrance)
        self.lines = lines_of(self, "tls_failed")

    def certificate(self) -> Certificate:
        path = self.folder / "gateway.pem"
        write_certificate(path)
        return read_certificate(Files(str(path), str(path)))

    def connect(
        self, protocols: list[bytes] | None = None, highest: int | None = None
    ) -> tuple[Client, Trusting]:
        """Connect over TLS."""
        client, trusting = Client(), Trusting(protocols or [], highest)
        factory = TLSMemoryBIOFactory(trusting, True, OneClient(client), self.network)
        self.network.connectTCP("127.0.0.1", PORT, factory)
        self.network.flush()
        return client, trusting

    def connect_plain(self, data: bytes = b"") -> Client:
        """Connect without TLS, and send these bytes."""
        client = Client()
        self.network.connectTCP("127.0.0.1", PORT, OneClient(client))
        self.network.flush()
        cast("Any", client.transport).write(data)
        self.network.advance(0)
        return client

    def ask(self, client: Client) -> int:
        """Send a request and return the status of its answer."""
        client.received = b""
        cast("Any", client.transport).write(get(b"/echo"))
        self.network.advance(0)
        (answer,) = read_answers(client.received)
        return answer.status

    def test_a_renewed_certificate(self) -> None:
        """New connections get it, and old ones go on with theirs."""
        old, with_first = self.connect()
        self.entrance.certificate = second = self.certificate()
        new, with_second = self.connect()

        assert (200, 200) == (self.ask(old), self.ask(new))
        assert self.first.digests == (with_first.shown,)
        assert second.digests == (with_second.shown,)

    def test_tls_begins_and_ends(self) -> None:
        """With the next connection; those that are open stay as they are."""
        over_tls, _ = self.connect()
        self.entrance.certificate = None
        plain = self.connect_plain()
        assert (200, 200) == (self.ask(over_tls), self.ask(plain))
        self.entrance.certificate = self.first
        again, _ = self.connect()
        assert [200, 200, 200] == [self.ask(each) for each in (over_tls, plain, again)]

    def test_a_proxy_header_before_tls(self) -> None:
        """The client is the one in it; and without it the proxy gets no TLS."""
        header = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n"
        self.site.proxies = Proxies(["127.0.0.1"], send_header=True)
        self.network.listenTCP(PORT + 1, Entrance(self.site, self.first, are_by_proxies=True))
        clients = []
        for before in (header, b""):
            clients.append(Client())
            factory: Any = TLSMemoryBIOFactory(
                Trusting([], None), True, OneClient(clients[-1]), self.network
            )
            self.patch(factory, "buildProtocol", sending(before, factory.buildProtocol))
            self.network.connectTCP("127.0.0.1", PORT + 1, factory)
            self.network.flush()
        introduced, other = clients
        assert 200 == self.ask(introduced)
        assert ["203.0.113.7"] == [each.peer_host for each in self.site.connections]
        assert "" != other.ended

    def test_http_2_is_not_offered(self) -> None:
        """Also where the package for it is installed."""
        for protocols, chosen in (
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"http/1.1"], b"http/1.1"),
            ([], b""),
        ):
            client, trusting = self.connect(protocols)
            assert chosen == trusting.connection.get_alpn_proto_negotiated()
            assert 200 == self.ask(client)

    def test_old_versions(self) -> None:
        """TLS 1.2 is the oldest; a client that speaks less is told so, by TLS."""
        modern, _ = self.connect(highest=SSL.TLS1_2_VERSION)
        old, _ = self.connect(highest=SSL.TLS1_1_VERSION)
        self.network.advance(0)

        assert 200 == self.ask(modern)
        assert old.ended
        (line,) = self.lines
        assert "unsupported protocol" in line["reason"]

    def test_a_client_that_never_finishes_is_idle(self) -> None:
        """Silent or with a part of a handshake, it ends after the idle time, and may be evicted."""
        silent, dripping = self.connect_plain(), self.connect_plain(b"\x16\x03\x01\x02\x00\x01")
        assert 2 == len(self.site.crowd.idle)
        self.network.advance(IDLE_SECONDS - 1)
        cast("Any", dripping.transport).write(b"\x00")
        self.network.advance(1)

        assert silent.ended
        assert dripping.ended
        assert set() == self.site.connections
        assert [] == self.network.getDelayedCalls()

    def test_one_without_a_handshake_makes_room(self) -> None:
        """It is closed for a client that comes when all places are taken."""
        waiting = self.connect_plain(b"\x16\x03\x01")
        next(iter(self.site.connections)).make_room()
        self.network.advance(0)
        assert waiting.ended

    def test_plain_http(self) -> None:
        """It gets one answer that says what is wrong."""
        for method in (b"GET", b"POST"):
            client = self.connect_plain(b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method)
            (answer,) = read_answers(client.received)
            assert (400, b"This port speaks TLS") == (answer.status, answer.body[:20])
            assert client.ended
        (line,) = self.lines
        assert "plain HTTP" in line["reason"]
        assert "127.0.0.1" == line["peer"]

    def test_garbage(self) -> None:
        """It ends its own connection, and makes one line a minute."""
        staying, _ = self.connect()
        for _ in range(3):
            assert self.connect_plain(b"\x00\xff garbage\r\n\r\n").ended
        assert 1 == len(self.lines)
        self.network.advance(QUIET_SECONDS - 1)
        self.connect_plain(b"garbage\r\n\r\n")
        assert 1 == len(self.lines)
        self.network.advance(1)
        self.connect_plain(b"garbage\r\n\r\n")
        assert 2 == len(self.lines)
        assert staying.ended in ("", "clean")

    def test_a_client_that_looks_whether_we_are_there(self) -> None:
        """It connects and leaves; that is no line in the log."""
        client = self.connect_plain()
        cast("Any", client.transport).loseConnection()
        self.network.advance(0)

        assert [] == self.lines
        assert set() == self.site.connections
