from typing import Any

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet
from tests.testing.client import CHAT

COLD = SimulatedModel(id=MODEL, loaded=False)
QUESTION = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


class EarlyRequestTests(FleetTestCase):
    """Requests that come before the first polls have ended."""

    def started(self, *nodes: Any, **keys: Any) -> InMemoryFleet:
        """Return a fleet that has just been started: its first polls are under way."""
        fleet = self.fleet(*nodes, polled=False, **keys)
        fleet.poller.poll_all()
        return fleet

    def test_none_is_refused(self) -> None:
        """A chat by id, by alias and for default, and the lists: all wait, and are answered."""
        fleet = self.started(
            self.node(), models={MODEL: {"aliases": ["small"]}}, allow_http_control=True
        )

        clients = [fleet.chat(model=name) for name in (MODEL, "small", "default")]
        clients += [fleet.get(path) for path in ("/v1/models", "/v1/models/small", "/running")]
        clients += [fleet.get("/api/ps"), fleet.request("POST", "/v1/messages", json=QUESTION)]
        clients += [fleet.request("POST", "/v1/responses", json={"model": MODEL, "input": "hi"})]
        clients += [fleet.request("POST", "/v1/messages/count_tokens", json=QUESTION)]
        fleet.advance(1)

        assert [200] * len(clients) == [client.status for client in clients]
        assert [MODEL] == [model["id"] for model in clients[3].json()["data"][:1]]

    def held(self) -> tuple[InMemoryFleet, Client]:
        """Return a fleet whose only node does not answer, and a chat that waits."""
        node = self.node()
        node.faults.hang = True
        fleet = self.started(node)
        client = fleet.chat()
        assert client.status is None
        return fleet, client

    def test_a_request_waits_as_long_as_the_polls_do(self) -> None:
        """Once the only node has not answered in time, the request is refused, with a time."""
        fleet, client = self.held()
        fleet.advance(1.9)
        assert client.status is None
        fleet.advance(0.2)
        assert 503 == client.status
        assert "retry-after" in client.headers

    def test_a_request_never_waits_for_ever(self) -> None:
        """If no poll ends at all, the request goes on after twice the time."""
        fleet = self.fleet(self.node(), polled=False)
        client = fleet.chat()
        fleet.advance(3.9)
        assert client.status is None
        fleet.advance(0.2)
        assert 503 == client.status

    def test_a_client_may_leave_meanwhile(self) -> None:
        """No node gets its request, and no timer is left, which the fleet's end checks."""
        node = self.node()
        fleet = self.fleet(node, polled=False)
        fleet.leave(fleet.chat())
        fleet.poll()
        assert [] == node.journal.requests(CHAT)

    def test_a_model_that_answers_is_not_waited_for(self) -> None:
        """Another node, which does not answer, delays only requests for other models."""
        deaf = self.node("deaf", "acme/other")
        deaf.faults.hang = True
        fleet = self.started(self.node(), deaf)
        fleet.flush()
        here, elsewhere = fleet.chat(), fleet.chat(model="acme/other")
        assert (200, None) == (here.status, elsewhere.status)
        fleet.advance(2)
        assert 503 == elsewhere.status

    def test_no_model_is_loaded_that_another_node_has(self) -> None:
        """A request waits for the second node's list instead of a load on the first."""
        slow = self.node("b")
        slow.faults.slow_seconds = 1
        cold = self.node("a", COLD)
        fleet = self.started(cold, slow)
        fleet.flush()
        client = fleet.chat()
        fleet.advance(0.9)
        assert not client.ended
        for _ in range(3):
            fleet.advance(1)
        assert () == cold.loaded_models
        assert (200, "b") == (client.status, client.headers["x-cortex-node"])

    def test_health_does_not_wait(self) -> None:
        """The process lives, and says that it is not ready."""
        fleet, _ = self.held()
        statuses = [fleet.get(path).status for path in ("/", "/health", "/ready")]
        assert [200, 200, 503] == statuses
