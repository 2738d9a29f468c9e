"""Keys on connections: requests in a row, and connections that are passed on at a restart."""

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint

from cortexd.access.ring import KeyRing
from cortexd.downstream.gate import Gate
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.passing_on import PassingOn
from cortexd.gateway.routes import Gateway
from tests.access.making import given
from tests.gateway.access.test_proving import ProvingTestCase, chat, head, wrong
from tests.support.relays import chunk

NEW_PORT = 8001


class ConnectionTests(ProvingTestCase):
    def test_a_wrong_key_and_then_the_right_one(self) -> None:
        """A small request that is refused leaves its connection open, and its key with it."""
        fleet = self.keyed()
        fleet.worker.release()
        client, body = fleet.connect(), chat(100)
        for text in (wrong(self.alice), self.alice.text, wrong(self.alice)):
            fleet.send(client, head(len(body), text) + body)
        fleet.send(client, head(len(body), None) + body)

        statuses = [part[:3] for part in client.received.split(b"HTTP/1.1 ")[1:]]
        assert [b"401", b"200", b"401", b"401"] == statuses
        assert "" == client.closed

    def test_a_client_that_ends_its_side(self) -> None:
        """It gets its answer after the comparison, as without keys."""
        fleet = self.keyed()
        client, body = fleet.connect(), chat(100)
        fleet.send(client, head(len(body), self.alice.text) + body)
        transport: Any = client.transport
        transport.loseWriteConnection()
        fleet.flush()
        fleet.worker.release()
        fleet.flush()
        assert b"HTTP/1.1 200" in client.received

    def test_a_connection_that_is_passed_on(self) -> None:
        """What comes on it after a restart is judged by the successor, by its own keys."""
        fleet = self.keyed()
        fleet.worker.release()
        client, body = fleet.connect(), chat(100)
        fleet.send(client, head(len(body), self.alice.text) + body)
        ring = KeyRing([given("other").key])
        gate = Gate(ring, fleet.worker, lambda: 0.0, fleet.clock, Gateway.scopes_at)
        successor = GatewaySite(fleet.parts.gateway.resource(), fleet.network, 1000, gate=gate)
        fleet.network.listenTCP(NEW_PORT, successor)
        endpoint = TCP4ClientEndpoint(fleet.network, "127.0.0.1", NEW_PORT)
        fleet.parts.site.pass_on(PassingOn(endpoint))
        fleet.send(client, head(len(body), self.alice.text) + body)

        statuses = [part[:3] for part in client.received.split(b"HTTP/1.1 ")[1:]]
        assert [b"200", b"401"] == statuses

    def test_a_request_in_progress_goes_on(self) -> None:
        """A key that is revoked ends with its next request, not with the one that runs."""
        node = self.scripted()
        fleet = self.fleet(node, keys=[self.alice.key])
        client = fleet.stream(headers=self.alice.bearer)
        node.stream(chunk("one"))
        fleet.flush()
        fleet.parts.ring.take([given("other").key])
        node.stream(chunk("two", "stop"), b"data: [DONE]\n\n", end=True)
        fleet.flush()

        assert (200, "onetwo") == (client.status, client.content())
        assert 401 == fleet.chat(headers=self.alice.bearer).status
