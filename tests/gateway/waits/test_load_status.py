"""How soon a model can take a request, as GET /api/models/{id}/load-status says."""

from typing import Any

from cortexd.scheduling.events import LoadWanted
from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

COLD = "acme/cold"


class LoadStatusTests(FleetTestCase):
    def made(self, **settings: Any) -> InMemoryFleet:
        cold = SimulatedModel(id=COLD, loaded=False, load_seconds=20.0)
        self.a = self.node("a", MODEL, cold, token_seconds=10)
        return self.fleet(self.a, models={MODEL: {"aliases": ["mine"]}}, **settings)

    def status(self, fleet: InMemoryFleet, name: str) -> Any:
        client = fleet.get(f"/api/models/{name}/load-status")
        assert (200, "application/json") == (client.status, client.headers["content-type"])
        return client.json()

    def test_a_model_that_is_loaded(self) -> None:
        """It takes a request at once, under any of its names."""
        fleet = self.made()
        for name in (MODEL, "acme%2Fchat", "mine"):
            status = self.status(fleet, name)
            assert (MODEL, "loaded", "ready", 0.0) == tuple(
                status[field] for field in ("model", "state", "phase", "expected_seconds")
            )
            assert [("a", "loaded")] == [(n["node"], n["state"]) for n in status["nodes"]]

    def test_a_load_under_way(self) -> None:
        """How far it is, and what is expected of the rest once a load was seen."""
        fleet = self.made(allow_http_control=True)
        for is_known in (False, True):
            fleet.dispatcher.dispatch(LoadWanted(COLD))
            fleet.advance(5.0)
            status = self.status(fleet, COLD)
            assert ("loading", "loading", is_known) == (
                status["state"],
                status["phase"],
                status["is_measured"],
            )
            (node,) = status["nodes"]
            assert 5.0 == node["progress"]["elapsed_seconds"]
            if is_known:
                assert abs(15.0 - status["expected_seconds"]) < 1.0
                assert abs(15.0 - node["progress"]["expected_seconds"]) < 1.0
                assert abs(0.25 - node["progress"]["value"]) < 0.05
                assert abs(20.0 - node["load_seconds"]) < 1.0
            fleet.advance(30.0)
            fleet.request("POST", f"/api/models/unload/{COLD}", body=b"")
            fleet.advance(30.0)

    def test_those_who_wait(self) -> None:
        """They are counted, and one more is expected to wait longer."""
        fleet = self.made(allow_http_control=True)
        clients = [fleet.chat(model=COLD) for _ in range(2)]
        assert 2 == self.status(fleet, COLD)["queued"]
        fleet.advance(60.0)
        assert [200, 200] == [client.status for client in clients]
        assert 0 == self.status(fleet, COLD)["queued"]

    def test_it_never_loads_a_model(self) -> None:
        """No node is asked anything, neither by GET nor by HEAD."""
        fleet = self.made()
        before = len(self.a.journal.requests())
        for method in ("GET", "HEAD"):
            assert 200 == fleet.request(method, f"/api/models/{COLD}/load-status").status
        fleet.advance(5.0)
        assert before == len(self.a.journal.requests())
        assert (MODEL,) == self.a.loaded_models

    def test_a_model_that_nobody_knows(self) -> None:
        """404, as for any question about it."""
        client = self.made().get("/api/models/acme/none/load-status")
        assert (404, "model_not_found") == (client.status, client.error["code"])
