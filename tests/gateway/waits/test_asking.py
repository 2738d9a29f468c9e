"""Requests that say how long they will wait, on every route that asks a model."""

from typing import Any

from cortexd.access.callers import NOBODY
from cortexd.dialects.routes import chat
from cortexd.gateway.waits.hinting import hints_of
from cortexd.scheduling.events import Submit
from cortexd.telemetry.accounting import RequestRecord
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

TURNS = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
INPUT = {"model": MODEL, "input": "hi"}
PROMPT = {"model": MODEL, "prompt": "hi"}
ROUTES: dict[str, Any] = {
    "/v1/chat/completions": TURNS,
    "/v1/completions": PROMPT,
    "/v1/embeddings": INPUT,
    "/v1/images/generations": PROMPT,
    "/v1/audio/speech": INPUT,
    "/v1/messages": TURNS,
    "/v1/responses": INPUT,
}


class AskingTests(FleetTestCase):
    def ask(self, fleet: InMemoryFleet, path: str, query: str = "", **headers: str) -> Client:
        body = ROUTES[path]
        return fleet.request("POST", path + query, json=body, headers=headers)

    def submitted(self, fleet: InMemoryFleet) -> list[Submit]:
        """Collect the requests that come to the scheduler from now on."""
        came: list[Submit] = []
        handle = fleet.scheduler.handle

        def note(event: Any, now: float) -> Any:
            if isinstance(event, Submit):
                came.append(event)
            return handle(event, now)

        self.patch(fleet.scheduler, "handle", note)
        return came

    def test_every_route_tells_the_scheduler(self) -> None:
        """By header or query; a request that says nothing has no wait."""
        fleet = self.fleet(self.node("a"))
        came = self.submitted(fleet)
        for path in ROUTES:
            came.clear()
            self.ask(fleet, path)
            self.ask(fleet, path, **{"X-Cortex-Wait": "0"})
            self.ask(fleet, path, "?wait=2.5")
            self.ask(fleet, path, "?wait=2.5", **{"X-Cortex-Wait": "7"})
            fleet.advance(1.0)
            waits = [each.hints.wait for each in came]
            assert waits in ([None, 0.0, 2.5, 7.0], []), path
            assert waits or path in ("/v1/images/generations", "/v1/audio/speech"), path

    def test_work_in_the_background_waits_as_long_as_its_client_says(self) -> None:
        """The request that ordered it is answered long before."""
        fleet = self.fleet(self.node("a"))
        came = self.submitted(fleet)
        body = {**INPUT, "background": True}
        fleet.request("POST", "/v1/responses", json=body, headers={"X-Cortex-Wait": "9"})
        fleet.advance(1.0)
        assert [9.0] == [each.hints.wait for each in came]

    def test_a_value_that_cannot_be_read(self) -> None:
        """400 in the envelope of the route, before the body is read; no node is asked."""
        node = self.node("a")
        fleet = self.fleet(node)
        asked = len(node.journal.requests())
        for path in ROUTES:
            for client in (
                self.ask(fleet, path, **{"X-Cortex-Wait": "soon"}),
                self.ask(fleet, path, "?wait=-1"),
            ):
                assert 400 == client.status, path
                error = client.json()["error"]
                assert "invalid_request_error" == error["type"]
                assert "seconds" in error["message"]
                is_messages = path == "/v1/messages"
                assert is_messages is ("type" in client.json()), path
        assert asked == len(node.journal.requests())


def test_the_wait_of_a_second_try_is_what_is_left() -> None:
    """A request whose node was lost does not begin to wait anew."""
    record = RequestRecord("r", "/v1/chat/completions", "c", 0.0, NOBODY, wait=10.0)
    parsed = chat.read_request(b'{"model": "m", "messages": "hi"}')
    exchange = parsed.exchange("m", random_id="1", now=0.0)
    assert 10.0 == hints_of(exchange, record).wait
    record.queued_seconds = 4.0
    assert 6.0 == hints_of(exchange, record).wait
    record.queued_seconds = 14.0
    assert 0.0 == hints_of(exchange, record).wait
    record.wait = None
    assert None is hints_of(exchange, record).wait
