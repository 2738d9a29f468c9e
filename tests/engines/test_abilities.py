"""How nodes are treated whose engine is able to do less than mistral.rs."""

from dataclasses import replace
from typing import Any

from cortexd.engines.mistralrs import MistralRs
from cortexd.scheduling.events import LoadDone, UnloadDone
from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import COLD, COLD_MB, METRICS, SYSTEM, LifecycleTestCase, cold


class Lesser(MistralRs):
    """A mistral.rs server that can be asked for nothing but its models, and to load them."""

    abilities = replace(
        MistralRs.abilities, tells_memory=False, counts_requests=False, keeps_state=False
    )


class LesserEngineTests(LifecycleTestCase):
    def fleet_of_lesser(self, *nodes: Any, **keys: Any) -> InMemoryFleet:
        sizes = {model: {"vram_mb": COLD_MB} for model in (MODEL, COLD)}
        fleet = self.fleet_of(*nodes, polled=False, models=sizes, **keys)
        for client in fleet.clients.values():
            client.engine = Lesser()
        fleet.poll()
        return fleet

    def test_neither_memory_nor_counts(self) -> None:
        """It is asked for neither, and loads and unloads all the same."""
        node = self.node("a", SimulatedModel(id=MODEL), cold(load_seconds=1.0))
        fleet = self.fleet_of_lesser(node)
        self.load(fleet)
        fleet.advance(3)
        self.unload(fleet)
        fleet.advance(3)

        loaded, unloaded = self.ends
        assert isinstance(loaded, LoadDone)
        assert isinstance(unloaded, UnloadDone)
        assert (None, 0, [None, None]) == (
            loaded.footprint_mb,
            unloaded.leaked_mb,
            self.systems,
        )
        assert (COLD,) == node.loaded_models
        assert [] == node.journal.requests(SYSTEM) + node.journal.requests(METRICS)

    def test_nothing_kept(self) -> None:
        """What its answers tell of state is not believed, so that nobody is sent there for it."""
        fleet = self.fleet_of_lesser(self.node("a"), node_keys={"a": {"responses": "native"}})
        asked = {"model": MODEL, "input": "hi"}
        response = fleet.request("POST", "/v1/responses", json=asked).json()["id"]

        found = fleet.get(f"/v1/responses/{response}")
        assert (404, "response_not_found") == (found.status, found.error["code"])
        asked["previous_response_id"] = response
        followed = fleet.request("POST", "/v1/responses", json=asked)
        assert (404, "previous_response_not_found") == (followed.status, followed.error["code"])
