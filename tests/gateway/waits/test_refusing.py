"""Clients that do not wait: they are refused at once, and their model comes nevertheless."""

from typing import Any

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet
from tests.support.relays import error_in

COLD = "acme/cold"
TURNS = {"model": COLD, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": TURNS,
    "/v1/completions": {"model": COLD, "prompt": "hi"},
    "/v1/embeddings": {"model": COLD, "input": "hi"},
    "/v1/messages": TURNS,
    "/v1/responses": {"model": COLD, "input": "hi"},
}
BACKGROUND = {**BODIES["/v1/responses"], "background": True}


class RefusingTests(FleetTestCase):
    def made(self, load_seconds: float = 20.0, **settings: Any) -> InMemoryFleet:
        cold = SimulatedModel(id=COLD, loaded=False, load_seconds=load_seconds)
        self.a = self.node("a", MODEL, cold)
        return self.fleet(self.a, allow_http_control=True, **settings)

    def check(self, client: Client, path: str) -> int:
        """Check that a request was refused in its own dialect; return when to come back."""
        error = client.json()["error"]
        if path == "/v1/messages":
            assert (529, "overloaded_error") == (client.status, error["type"]), path
        else:
            assert (503, "model_loading") == (client.status, error["code"]), path
            assert "server_error" == error["type"]
        seconds = int(client.headers["retry-after"])
        assert seconds >= 1
        assert str(seconds * 1000) == client.headers["x-cortex-eta-ms"]
        return seconds

    def test_every_dialect(self) -> None:
        """By the header and by the query, streamed or not; nobody waits in the queue."""
        fleet = self.made()
        for path, body in BODIES.items():
            for stream in (False, True):
                asked = {**body, "stream": True} if stream else body
                headers = {"X-Cortex-Wait": "0"}
                self.check(fleet.request("POST", path, json=asked, headers=headers), path)
            self.check(fleet.request("POST", f"{path}?wait=0", json=body), path)
        assert 0 == len(fleet.scheduler.waiting)
        fleet.advance(60.0)

    def test_who_comes_back_when_told_finds_the_model(self) -> None:
        """One load is enough for all who asked; once a load was seen, the time is right."""
        fleet = self.made()
        for _ in range(2):
            headers = {"X-Cortex-Wait": "0"}
            seconds = self.check(fleet.chat(model=COLD, headers=headers), "/v1/chat/completions")
            self.check(fleet.chat(model=COLD, headers=headers), "/v1/chat/completions")
            fleet.advance(seconds)
            back = fleet.chat(model=COLD)
            fleet.advance(30.0)
            assert 200 == back.status
            fleet.request("POST", f"/api/models/unload/{COLD}", body=b"")
            fleet.advance(30.0)
        assert abs(20.0 - seconds) <= 4.0
        assert {COLD: 2} == self.a.journal.report().loads

    def test_work_in_the_background_is_refused_at_once(self) -> None:
        """It leaves no response."""
        fleet = self.made()
        headers = {"X-Cortex-Wait": "0"}
        client = fleet.request("POST", "/v1/responses", json=BACKGROUND, headers=headers)
        self.check(client, "/v1/responses")
        fleet.advance(60.0)

    def test_a_wait_that_ends_in_the_queue(self) -> None:
        """A whole answer gets the status; a stream that has begun gets it as its last event."""
        fleet = self.made(200.0, hold_seconds=1)
        headers = {"X-Cortex-Wait": "40"}
        whole = fleet.chat(model=COLD, headers=headers)
        stream = fleet.chat(model=COLD, headers=headers, stream=True)
        fleet.advance(39.0)
        assert (None, 200) == (whole.status, stream.status)
        fleet.advance(2.0)
        self.check(whole, "/v1/chat/completions")
        assert ("broken", "model_loading") == (stream.ended, error_in(stream)["code"])
        fleet.advance(300.0)

    def test_a_model_that_is_loaded_is_not_refused(self) -> None:
        """There is nothing to wait for."""
        fleet = self.made()
        client = fleet.chat(headers={"X-Cortex-Wait": "0"})
        assert 200 == client.status
