"""Connections that begin with a PROXY header."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.admission.proxies import Proxies
from cortexd.admission.proxy_header import VERSION_2, write_proxy_header
from cortexd.admission.recent import QUIET_SECONDS
from cortexd.downstream import introductions
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.introductions import HEADER_SECONDS
from cortexd.service.entrance import Entrance
from tests.logs.noting import lines_of
from tests.support.http_answers import read_answers
from tests.support.http_sites import MIB, PORT, Client, OneClient, Routes, get, post
from tests.support.network import Network

CLIENT = "203.0.113.7"
HEADER = f"PROXY TCP4 {CLIENT} 10.0.0.1 4711 8000\r\n".encode()
TOKEN = b"t" * 32


class IntroductionTests(SynchronousTestCase):
    """In this world the peer of every connection is 127.0.0.1."""

    def setUp(self) -> None:
        self.network = Network(Clock())
        self.routes = Routes()
        self.site = GatewaySite(self.routes, self.network, MIB)
        self.site.proxies = Proxies(["127.0.0.1"], send_header=True)
        self.network.listenTCP(PORT, Entrance(self.site, are_by_proxies=True))
        self.events = lines_of(self, "proxy_header_refused")

    def connect(self, *pieces: bytes, port: int = PORT) -> Client:
        client = Client()
        self.network.connectTCP("127.0.0.1", port, OneClient(client))
        self.network.flush()
        for piece in pieces:
            self.send(client, piece)
        return client

    def send(self, client: Client, data: bytes) -> None:
        cast("Any", client.transport).write(data)
        self.network.flush()

    def peers(self) -> list[str]:
        return sorted(connection.peer_host for connection in self.site.connections)

    def refusals(self) -> list[object]:
        return [each["reason"] for each in self.events]

    def test_the_client_is_the_one_in_the_header(self) -> None:
        """Of either version, together with the first request or before it, or byte by byte."""
        for pieces in (
            (HEADER + get(b"/a"),),
            (HEADER, get(b"/a")),
            tuple(bytes([each]) for each in HEADER + get(b"/a")),
            (write_proxy_header(CLIENT, 4711, b"any") + get(b"/a"),),
        ):
            client = self.connect(*pieces)
            assert [200] == [answer.status for answer in read_answers(client.received)]
        assert [CLIENT] * 4 == self.peers()

    def test_after_the_header_the_connection_is_the_site_s_alone(self) -> None:
        """No wrapper is left that would cost a call for each chunk, and bodies arrive whole."""
        client = self.connect(HEADER, post(b"x" * 70_000))
        (answer,) = read_answers(client.received)
        assert b"x" * 70_000 in answer.body
        (connection,) = self.site.connections
        assert connection.transport.protocol is connection

    def test_the_proxy_s_own_connection(self) -> None:
        """A health check of the proxy has the proxy's address."""
        self.connect(b"PROXY UNKNOWN\r\n" + get(b"/a"))
        assert ["127.0.0.1"] == self.peers()

    def test_a_trusted_proxy_must_send_the_header(self) -> None:
        """Without it the connection is reset, and there is one line a minute for each peer."""
        for _ in range(3):
            assert "" != self.connect(get(b"/a")).ended
        assert ["it does not begin with a PROXY header"] == self.refusals()
        self.network.advance(QUIET_SECONDS)
        assert "" != self.connect(b"PROXY TCP4 x\r\n").ended
        assert ["its PROXY header is malformed"] == self.refusals()[1:]
        assert set() == self.site.connections

    def test_a_header_that_does_not_come(self) -> None:
        """Drops of it do not extend the time."""
        silent, dripping = self.connect(), self.connect(HEADER[:9])
        self.network.advance(HEADER_SECONDS - 1)
        self.send(dripping, HEADER[9:12])
        self.network.advance(1)
        assert ["reset", "reset"] == [silent.ended, dripping.ended]
        assert [f"no whole PROXY header came within {HEADER_SECONDS:g} s"] == self.refusals()

    def test_a_peer_that_leaves_before_its_header(self) -> None:
        """Nothing waits for it any more."""
        client = self.connect(HEADER[:9])
        cast("Any", client.transport).loseConnection()
        self.network.flush()
        assert [] == self.network.getDelayedCalls()

    def test_too_many_that_wait(self) -> None:
        """Beyond a number, connections without a header are closed at once."""
        self.patch(introductions, "MOST_WAITING", 3)
        waiting = [self.connect() for _ in range(3)]
        assert "reset" == self.connect(HEADER + get(b"/a")).ended
        assert ["too many connections wait for their PROXY headers"] == self.refusals()
        self.send(waiting[0], HEADER + get(b"/a"))
        assert [200] == [each.status for each in read_answers(waiting[0].received)]
        assert [200] == [
            each.status for each in read_answers(self.connect(HEADER + get(b"/a")).received)
        ]
        self.network.advance(HEADER_SECONDS)
        assert {""} != {each.ended for each in waiting}

    def test_a_unix_socket(self) -> None:
        """Its peers are trusted by a word, as they have no address."""
        connection: Any = self.site.buildProtocol(UNIXAddress(None))
        connection.makeConnection(StringTransport(peerAddress=UNIXAddress(None)))
        self.addCleanup(connection.connectionLost, Failure(ConnectionDone()))
        forwarded = Headers({"X-Forwarded-For": [CLIENT]})
        assert "unix" == connection.client_host(forwarded)
        self.site.proxies = Proxies(["unix"])
        assert CLIENT == connection.client_host(forwarded)

    def test_another_peer_may_send_none(self) -> None:
        """Its header is no request, and without a header it is served."""
        self.site.proxies = Proxies(["10.0.0.0/8"], send_header=True)
        (answer,) = read_answers(self.connect(HEADER + get(b"/a")).received)
        assert 400 == answer.status
        (answer,) = read_answers(self.connect(get(b"/a")).received)
        assert 200 == answer.status

    def test_without_the_setting(self) -> None:
        """No header is read, of a trusted proxy either."""
        self.site.proxies = Proxies(["127.0.0.1"])
        (answer,) = read_answers(self.connect(HEADER + get(b"/a")).received)
        assert 400 == answer.status

    def test_a_listener_beside(self) -> None:
        """Headers of proxies come to the listener for clients only."""
        self.network.listenTCP(PORT + 1, Entrance(self.site, are_by_proxies=False))
        (answer,) = read_answers(self.connect(get(b"/a"), port=PORT + 1).received)
        assert 200 == answer.status


class PassedOnTests(IntroductionTests):
    """The same while a daemon that has handed over may pass connections on."""

    def setUp(self) -> None:
        super().setUp()
        self.site.tokens = (TOKEN,)

    def test_a_passed_connection(self) -> None:
        """The token lets it state its client, whether or not proxies send headers."""
        for proxies in (Proxies(), Proxies(["127.0.0.1"], send_header=True)):
            self.site.proxies = proxies
            client = self.connect(write_proxy_header(CLIENT, 1, TOKEN), get(b"/a"))
            assert [200] == [answer.status for answer in read_answers(client.received)]
        assert [CLIENT] * 2 == self.peers()

    def test_a_wrong_token(self) -> None:
        """Nobody else can state a client."""
        self.site.proxies = Proxies()
        for token in (b"", b"u" * 32):
            assert "reset" == self.connect(write_proxy_header(CLIENT, 1, token)).ended
        assert ["its PROXY header has no valid token"] == self.refusals()

    def test_other_local_clients_are_served(self) -> None:
        """At once when they send their request, also if that comes late or begins as a header."""
        self.site.proxies = Proxies()
        for first, second in ((get(b"/a"), b""), (b"", get(b"/a")), (VERSION_2[:2], get(b"/a"))):
            client = self.connect(first)
            if second:
                self.network.advance(HEADER_SECONDS)
                self.send(client, second)
            assert [200] == [answer.status for answer in read_answers(client.received)], first
