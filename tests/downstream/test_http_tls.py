"""Connections of clients by TLS: how they end. And what waits in a transport of Twisted's own."""

import tempfile
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from cortexd.downstream.channel import LINGER_SECONDS, GatewayChannel
from cortexd.downstream.http_server import GatewaySite
from tests.support.http_answers import read_answers
from tests.support.http_sites import MIB, PORT, Client, OneClient, Routes, get
from tests.support.network import Network
from tests.upstream.test_connections_tls import Certified, certificate

IDLE_SECONDS = 60


@implementer(IOpenSSLClientConnectionCreator)
class Trusting:
    """A client's side of TLS that takes any certificate."""

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Return the TLS of one connection."""
        return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


class TLSTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        path = Path(temporary.name, "gateway.pem")
        path.write_bytes(certificate())
        self.network = Network(Clock())
        self.routes = Routes()
        self.site = GatewaySite(self.routes, self.network, MIB)
        certified = Certified(str(path))
        self.network.listenTCP(PORT, TLSMemoryBIOFactory(certified, False, self.site, self.network))

    def connect(self) -> Client:
        client = Client()
        factory = TLSMemoryBIOFactory(Trusting(), True, OneClient(client), self.network)
        self.network.connectTCP("127.0.0.1", PORT, factory)
        self.network.flush()
        return client

    def ask(self, client: Client, data: bytes) -> None:
        cast("Any", client.transport).write(data)
        self.network.advance(0)

    def stop_reading(self, client: Client) -> None:
        """Have a client look at nothing more that comes, be it the end."""
        cast("Any", client.transport).transport.protocol.dataReceived = lambda data: None

    def test_an_idle_connection_is_closed(self) -> None:
        """A client in whose pool it lies need not look at it for that."""
        client = self.connect()
        self.ask(client, get(b"/echo"))
        assert 1 == len(read_answers(client.received))
        self.stop_reading(client)
        self.network.advance(IDLE_SECONDS)

        assert set() == self.site.connections
        assert [] == self.network.getDelayedCalls()

    def test_the_last_answer_ends_the_connection(self) -> None:
        """All of it goes out, and that it is the end; no word of the client's is awaited."""
        client, deaf = self.connect(), self.connect()
        self.stop_reading(deaf)
        for each in (client, deaf):
            self.ask(each, get(b"/wait", b"Connection: close"))
            self.routes.open.pop().respond(200, {}, b"x" * MIB)
        self.network.advance(0)

        (answer,) = read_answers(client.received)
        assert b"x" * MIB == answer.body
        assert client.ended
        assert set() == self.site.connections

    def test_a_client_that_never_reads_is_cut_off(self) -> None:
        """When it has read nothing for as long as a connection may be idle."""
        client = self.connect()
        self.ask(client, get(b"/wait", b"Connection: close"))
        cast("Any", client.transport).pauseProducing()
        self.routes.open.pop().respond(200, {}, b"x" * MIB)
        self.network.advance(IDLE_SECONDS - 1)
        assert 1 == len(self.site.connections)
        self.network.advance(1)

        assert set() == self.site.connections

    def test_a_refused_client_hears_that_this_is_the_end(self) -> None:
        """Within TLS: what it goes on to send is read for a while."""
        client, staying = self.connect(), self.connect()
        self.stop_reading(staying)
        for each in (client, staying):
            self.ask(each, b"garbage\r\n\r\n")

        (answer,) = read_answers(client.received)
        assert (400, "clean") == (answer.status, client.ended)
        assert 1 == len(self.site.connections)
        self.network.advance(LINGER_SECONDS)
        assert set() == self.site.connections


class Descriptor(FileDescriptor):
    """A transport of Twisted's whose socket takes so many bytes at a time."""

    connected = True

    def __init__(self, room: int) -> None:
        super().__init__(MemoryReactor())
        self._room = room

    def writeSomeData(self, data: Any) -> int:
        """Take what there is room for."""
        return min(self._room, len(data))


class UnsentTests(SynchronousTestCase):
    def test_what_a_transport_of_twisteds_has_yet_to_send_is_known(self) -> None:
        """It keeps that in two places, one of them private, and does not move what it has sent."""
        channel = GatewayChannel()
        channel.transport = Descriptor(room=300)
        channel.transport.write(b"x" * 1000)
        channel.transport.doWrite()
        channel.transport.write(b"y" * 50)
        channel.note_unsent()

        assert 750 == channel.note_unsent()
