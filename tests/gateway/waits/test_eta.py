"""How long a wait is expected to be, in the headers of answers and of errors."""

import json
from typing import Any

import pytest

from cortexd.dialects.wire.envelopes import error_response
from cortexd.errors import ModelLoading, QueueFull
from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

COLD = "acme/cold"
TURNS = {"model": COLD, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": TURNS,
    "/v1/completions": {"model": COLD, "prompt": "hi"},
    "/v1/messages": TURNS,
    "/v1/responses": {"model": COLD, "input": "hi"},
}


class EtaTests(FleetTestCase):
    def made(self, **settings: Any) -> InMemoryFleet:
        cold = SimulatedModel(id=COLD, loaded=False, load_seconds=20.0)
        return self.fleet(self.node("a", MODEL, cold), allow_http_control=True, **settings)

    def eta(self, client: Client) -> float:
        return int(client.headers["x-cortex-eta-ms"]) / 1000

    def unload(self, fleet: InMemoryFleet) -> None:
        fleet.advance(30.0)
        fleet.request("POST", f"/api/models/unload/{COLD}", body=b"")
        fleet.advance(30.0)

    def test_an_answer_that_waited_says_what_was_expected(self) -> None:
        """In each dialect; once a load was seen, it is what the load then takes."""
        fleet = self.made()
        for path, body in BODIES.items():
            client = fleet.request("POST", path, json=body)
            self.unload(fleet)
            assert 200 == client.status, path
            expected, waited = self.eta(client), int(client.headers["x-cortex-queue-ms"]) / 1000
            assert expected > 0
            if path != "/v1/chat/completions":  # else it was the first
                assert abs(expected - waited) <= 0.2 * waited, path
        lines = [line for line in fleet.events("request") if line["expected"] is not None]
        assert len(BODIES) == len(lines)

    def test_a_stream_says_it_while_it_waits(self) -> None:
        """Its headers go out before the load has ended."""
        fleet = self.made(hold_seconds=5)
        client = fleet.stream(model=COLD)
        fleet.advance(5.0)
        assert 200 == client.status
        assert self.eta(client) > 0
        fleet.advance(30.0)
        assert "clean" == client.ended

    def test_an_answer_that_did_not_wait(self) -> None:
        """It says nothing."""
        assert "x-cortex-eta-ms" not in self.made().chat().headers


@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_does_not_wait_is_told_when_to_come_back(path: str) -> None:
    """In the envelope of its dialect, in whole seconds and in milliseconds."""
    error = ModelLoading("model 'acme/cold' is being loaded", retry_after=12.0)
    status, headers, body = error_response(path, error, "req_1")
    assert ("12", "12000") == (headers["Retry-After"], headers["X-Cortex-Eta-Ms"])
    assert "X-Should-Retry" not in headers
    told = json.loads(body)["error"]
    if path == "/v1/messages":
        assert (529, "overloaded_error") == (status, told["type"])
    else:
        assert (503, "model_loading") == (status, told["code"])
    assert "X-Cortex-Eta-Ms" not in error_response(path, QueueFull("full", retry_after=1.0))[1]
