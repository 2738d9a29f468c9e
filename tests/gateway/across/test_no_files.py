"""The daemon itself has no file left for a connection to a node."""

import json

from cortexd.fleet.states import NodeHealth
from tests.support.fleets import MODEL, FleetTestCase
from tests.support.http_answers import read_answers


class NoFilesTests(FleetTestCase):
    def test_it_is_no_fault_of_the_node(self) -> None:
        """Neither polls nor requests count against nodes; the client learns what to do."""
        fleet = self.fleet(self.node("a"), self.node("b"), down_after=1)
        client = fleet.connect()
        fleet.pool.closeCachedConnections()
        fleet.flush()
        fleet.network.has_no_files = True
        fleet.poll()
        assert {NodeHealth.UP} == {node.health for node in fleet.fleet.nodes.values()}

        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        for _ in range(10):
            client.received = b""
            fleet.send(client, f"{head}\r\n\r\n{body}".encode())
            (answer,) = read_answers(client.received)
            assert (503, "2") == (answer.status, answer.headers["retry-after"])
            assert "gateway_overloaded" == answer.error["code"]
            assert "LimitNOFILE" in answer.error["message"]

        fleet.network.has_no_files = False
        client.received = b""
        fleet.send(client, f"{head}\r\n\r\n{body}".encode())
        (answer,) = read_answers(client.received)
        assert 200 == answer.status
