"""A request for an adapter loads its base, also while no node lists the adapter."""

import json

from tests.support.fleets import InMemoryFleet
from tests.support.relays import RelayTestCase, chunk
from tests.support.scripted import ScriptedNode

BASE = "acme/base"
ADAPTER = "acme/base::code"


class AdapterTests(RelayTestCase):
    def unlisted(self) -> tuple[InMemoryFleet, ScriptedNode]:
        """Return a fleet whose node has listed an adapter, and has unloaded its base since."""
        node = self.scripted("a", BASE, ADAPTER)
        node.parents[ADAPTER] = BASE
        fleet = self.fleet(node, models={ADAPTER: {"aliases": ["code"]}, BASE: {"vision": False}})
        node.listed = [(BASE, "unloaded")]
        fleet.poll()
        return fleet, node

    def answer(self, fleet: InMemoryFleet, node: ScriptedNode, status: str) -> None:
        node.answer(200, json.dumps({"model_id": BASE, "status": status}).encode())
        fleet.flush()

    def test_list(self) -> None:
        """It stays in the list, as a model that can be loaded, with the abilities of its base."""
        fleet, _ = self.unlisted()
        listed = {model["id"]: model for model in fleet.get("/v1/models").json()["data"]}

        assert {BASE, ADAPTER, "code"} == listed.keys()
        assert ("unloaded", ["a"]) == (listed[ADAPTER]["status"], listed[ADAPTER]["nodes"])
        assert 200 == fleet.get(f"/v1/models/{ADAPTER}").status

    def test_request(self) -> None:
        """Its base is loaded, and then the node gets the request under the adapter's id."""
        fleet, node = self.unlisted()
        client = fleet.stream(model="code")
        self.answer(fleet, node, "unloaded")
        assert "/v1/models/reload" == node.asked[-1]
        assert BASE == node.newest_body["model_id"]
        self.answer(fleet, node, "loaded")
        assert ("/v1/chat/completions", ADAPTER) == (node.asked[-1], node.newest_body["model"])
        node.stream(chunk("hi", "stop"), end=True)
        fleet.flush()
        assert (200, "hi") == (client.status, client.content())
        assert ADAPTER == client.headers["x-cortex-model"]
        self.assert_at_rest(fleet)

    def test_gone(self) -> None:
        """An adapter that its loaded base does not bring is a model that nobody has."""
        fleet, node = self.unlisted()
        node.listed = [(BASE, "loaded")]
        fleet.poll()
        assert 404 == fleet.chat(model=ADAPTER).status
