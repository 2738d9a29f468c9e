"""A server that has handed over, and its successor at another port of the same network."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.admission.proxies import Proxies
from cortexd.config.listening import Files
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.passing_on import PassingOn
from cortexd.service.certificates import Certificate, read_certificate
from cortexd.service.entrance import Entrance
from tests.doubles.certificates import write_certificate
from tests.support.http_answers import read_answers
from tests.support.http_sites import MIB, Routes, Server, get, post

NEW_PORT = 8001


class PassingOnTests(SynchronousTestCase):
    """To a successor that reads no header."""

    token = b""
    certificate: Certificate | None = None

    def setUp(self) -> None:
        self.old = Server()
        self.network = self.old.network
        self.new_routes = Routes()
        self.new_site = GatewaySite(self.new_routes, self.network, MIB)
        entrance = Entrance(self.new_site, self.certificate, are_by_proxies=True)
        self.network.listenTCP(NEW_PORT, entrance)
        endpoint = TCP4ClientEndpoint(self.network, "127.0.0.1", NEW_PORT)
        is_tls = self.certificate is not None
        self.passing_on = PassingOn(endpoint, self.token, is_tls=is_tls)

    def hand_over(self) -> None:
        self.old.site.pass_on(self.passing_on)

    def test_the_next_request_on_an_idle_connection_goes_to_the_successor(self) -> None:
        """The client sees nothing of it, not even with the request after that."""
        client = self.old.connect()
        self.old.send(client, get(b"/first"))
        self.hand_over()
        assert (0, 0) == (self.passing_on.open, len(self.new_site.connections))
        self.old.send(client, post(b"second"))
        self.old.send(client, get(b"/stream"))
        (streaming,) = self.new_routes.open
        streaming.write(b"data: 2\n\n")
        streaming.finish()
        self.network.flush()

        first, second, third = read_answers(client.received)
        assert (200, 200, 200) == (first.status, second.status, third.status)
        assert b"second" in second.body
        assert third.body.endswith(b"data: 2\n\n")
        assert (1, 1, "") == (self.passing_on.open, len(self.new_site.connections), client.ended)

    def test_a_request_that_has_begun_is_answered_by_the_old_process(self) -> None:
        """Whether its head or its answer is under way; the one after it goes on."""
        streaming, half = self.old.connect(), self.old.connect()
        self.old.send(streaming, get(b"/stream"))
        self.old.send(half, b"GET /half HT")
        self.hand_over()
        self.old.send(half, b"TP/1.1\r\nHost: x\r\n\r\n")
        assert [200] == [answer.status for answer in read_answers(half.received)]
        (open_request,) = self.old.routes.open
        open_request.finish()
        self.network.flush()
        assert 0 == len(self.new_site.connections)
        for client in (streaming, half):
            self.old.send(client, get(b"/next"))
            assert [200, 200] == [answer.status for answer in read_answers(client.received)]
        assert 2 == len(self.new_site.connections)

    def test_a_large_body_arrives_whole(self) -> None:
        """Also the part of it that came before the connection to the successor."""
        client = self.old.connect()
        self.hand_over()
        self.old.send(client, post(b"x" * 900_000))
        (answer,) = read_answers(client.received)
        assert b"x" * 900_000 in answer.body

    def test_a_client_that_leaves_is_gone_for_the_successor_too(self) -> None:
        """Its request is cancelled there, and the old process need not wait for it."""
        client = self.old.connect()
        self.hand_over()
        self.old.send(client, get(b"/wait"))
        waiting = self.passing_on.wait()
        self.assertNoResult(waiting)
        assert client.transport is not None
        client.transport.loseConnection()
        self.network.flush()
        self.successResultOf(waiting)
        assert 1 == len(self.new_routes.gone)
        assert 0 == len(self.new_site.connections)

    def test_a_connection_that_the_successor_closes_is_closed(self) -> None:
        """After its last answer has gone out."""
        client = self.old.connect()
        self.hand_over()
        self.old.send(client, get(b"/last", b"Connection: close"))
        assert [200] == [answer.status for answer in read_answers(client.received)]
        assert "clean" == client.ended
        self.successResultOf(self.passing_on.wait())

    def test_without_a_successor_the_connection_ends(self) -> None:
        """The client sees that, and may send its request again."""
        client = self.old.connect()
        self.old.site.pass_on(PassingOn(TCP4ClientEndpoint(self.network, "127.0.0.1", 1)))
        self.old.send(client, get(b"/lost"))
        assert "" != client.ended


class IntroducedTests(PassingOnTests):
    """To a successor that knows the token of our headers."""

    token = b"t" * 32

    def setUp(self) -> None:
        super().setUp()
        self.new_site.tokens = (self.token,)

    def test_the_client_stays_the_one_it_was(self) -> None:
        """It is no trusted proxy for the successor, even though we connect from one's address."""
        self.new_site.proxies = Proxies(["127.0.0.1"], send_header=True)
        client = self.old.connect()
        (connection,) = self.old.site.connections
        connection.peer_host = "203.0.113.7"
        self.hand_over()
        self.old.send(client, get(b"/next", b"X-Forwarded-For: 198.51.100.1"))
        assert [200] == [answer.status for answer in read_answers(client.received)]
        (passed,) = self.new_site.connections
        forwarded = Headers({"X-Forwarded-For": ["198.51.100.1"]})
        assert "203.0.113.7" == passed.client_host(forwarded)


class OverTLSTests(IntroducedTests):
    """To a successor whose clients speak TLS; the header comes before it."""

    def setUp(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "gateway.pem")
            write_certificate(path)
            self.certificate = read_certificate(Files(str(path), str(path)))
        super().setUp()
