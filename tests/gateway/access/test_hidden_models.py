"""Models that a key does not allow: whatever a client with it asks, no answer names one."""

import json
import re
from typing import Any

from cortexd.access.keys import Scope
from cortexd.gateway.routes import UNLOAD_HEADER
from cortexd.testing import SimulatedModel
from tests.access.making import Given, given
from tests.support.fleets import Client, FleetTestCase, InMemoryFleet
from tests.support.relays import RelayTestCase

SEEN, HIDDEN = ("acme/chat", "acme/cold", "mine"), ("other/chat", "other/cold", "theirs")
MODELS = {"acme/chat": {"aliases": ["mine"]}, "other/chat": {"aliases": ["theirs", "default"]}}
UNKNOWN = "other/none"
ALL = frozenset(Scope)
TURNS = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
INFERENCE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": TURNS,
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/images/generations": {"prompt": "hi"},
    "/v1/audio/speech": {"input": "hi"},
    "/v1/messages": TURNS,
    "/v1/messages/count_tokens": TURNS,
    "/v1/responses": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
}


class HiddenTests(FleetTestCase):
    def made(self) -> tuple[InMemoryFleet, Given]:
        """Make two nodes with models of both kinds, and the key of a client that sees some."""
        self.key = given("alice", models=("acme/*",), scopes=ALL)

        def cold(name: str) -> SimulatedModel:
            return SimulatedModel(id=name, loaded=False, load_seconds=3.0)

        fleet = self.fleet(
            self.node("a", "acme/chat", "other/chat", cold("acme/cold")),
            self.node("b", "other/chat", cold("other/cold")),
            keys=[self.key.key, given("boss").key],
            models=MODELS,
        )
        return fleet, self.key

    def ask(self, fleet: InMemoryFleet, method: str, path: str, json: object = None) -> Client:
        headers = {**self.key.bearer, UNLOAD_HEADER: "unload"}
        body = b"" if json is None and method != "GET" else None
        client = fleet.request(method, path, json=json, body=body, headers=headers)
        fleet.advance(5.0)
        return client

    def said(self, client: Client, name: str) -> Any:
        """Return all of an answer, with its id and the ``name`` that was asked for left out."""
        body = client.body.decode().replace(name, "NAME")
        body = re.sub(r"req_\w+", "ID", body)
        return client.status, body, client.headers.get("x-cortex-model")

    def assert_names_none(self, client: Client, *, but: str = "") -> None:
        words = client.body.decode() + json.dumps(dict(client.headers))
        if but:
            words = words.replace(but, "")
        assert not [name for name in HIDDEN if name in words], words

    def test_lists(self) -> None:
        """They have the models that are allowed, each with its names, and no others."""
        fleet, key = self.made()
        for version in ({}, {"anthropic-version": "2023-06-01"}):
            client = fleet.get("/v1/models", **key.bearer, **version)
            names = {model["id"] for model in client.json()["data"]}
            assert {"acme/chat", "acme/cold"} == names - {"mine"}
            self.assert_names_none(client)
        for path, found in (("/running", "running"), ("/api/ps", "models")):
            client = self.ask(fleet, "GET", path)
            assert ["acme/chat"] == [model["model"] for model in client.json()[found]]
            self.assert_names_none(client)
        everybody = given("all")
        fleet.parts.ring.take([everybody.key])
        whole = fleet.get("/v1/models", **everybody.bearer).json()["data"]
        assert {*SEEN, *HIDDEN, "default"} == {model["id"] for model in whole}

    def test_a_hidden_model_looks_like_none(self) -> None:
        """Each route answers for it, under each name, as for a name that no node lists."""
        fleet, _ = self.made()
        for path, body in INFERENCE.items():
            expected = self.said(self.ask(fleet, "POST", path, {"model": UNKNOWN, **body}), UNKNOWN)
            assert 403 == expected[0], (path, expected)
            for name in HIDDEN:
                found = self.said(self.ask(fleet, "POST", path, {"model": name, **body}), name)
                assert expected == found, path
        for method, path in (("GET", "/v1/models/"), ("POST", "/api/models/unload/")):
            expected = self.said(self.ask(fleet, method, path + UNKNOWN), UNKNOWN)
            assert 404 == expected[0]
            for name in HIDDEN:
                assert expected == self.said(self.ask(fleet, method, path + name), name)

    def test_uploads(self) -> None:
        """Nor do they go to its nodes, and an import neither."""
        fleet, _ = self.made()
        for method, path in (("PUT", "/v1/sessions/s"), ("POST", "/v1/files")):
            client = self.ask(fleet, method, f"{path}?model=theirs", {"messages": []})
            assert client.status in (400, 403)
            self.assert_names_none(client, but="theirs")

    def test_the_allowed_ones_work(self) -> None:
        """By each name, by default, and where they must be loaded first."""
        fleet, _ = self.made()
        for name, model in (("mine", "acme/chat"), ("default", "acme/chat"), *[("acme/cold",) * 2]):
            client = self.ask(fleet, "POST", "/v1/chat/completions", {"model": name, **TURNS})
            assert (200, model) == (client.status, client.headers["x-cortex-model"])
            self.assert_names_none(client)

    def test_unloading(self) -> None:
        """An order to unload all leaves the others where they are."""
        fleet, _ = self.made()
        unloaded = []
        for method, path in (("GET", "/unload"), ("POST", "/api/models/unload")):
            client = self.ask(fleet, method, path)
            unloaded.append([model["model"] for model in client.json()["unloading"]])
            self.assert_names_none(client)
        assert [["acme/chat"], []] == unloaded
        assert "loaded" == fleet.fleet.nodes["b"].replicas["other/chat"].state.value

    def test_not_ready(self) -> None:
        """Without a key that may read it, the reason names no node."""
        key = given("alice")
        fleet = self.fleet(self.node("secret"), polled=False, keys=[key.key])
        reasons = [fleet.get("/ready", **headers).json()["reason"] for headers in ({}, key.bearer)]
        assert ["not polled yet", "not polled yet: secret"] == reasons


class WordsTests(RelayTestCase):
    """What nodes and queues say of other models."""

    def test_a_node_that_lists_its_models(self) -> None:
        """Its words go out without the others', as a status and inside a stream."""
        words = "Requested model 'acme/chat' is not available. Available models: other/chat."
        key = given("alice", models=("acme/*",))
        node = self.scripted("a", "acme/chat", "other/chat")
        fleet = self.fleet(node, keys=[key.key])

        client = fleet.chat(headers=key.bearer)
        node.answer(500, json.dumps({"message": words}).encode())
        fleet.flush()
        assert 404 == client.status
        assert "acme/chat" in client.error["message"]
        assert b"other/chat" not in client.body

        client = fleet.stream(headers=key.bearer)
        node.stream(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
        node.stream(b"data: " + json.dumps({"error": {"message": words}}).encode() + b"\n\n")
        fleet.flush()
        assert b"not available" in client.body
        assert b"other/chat" not in client.body

    def test_the_base_of_an_adapter(self) -> None:
        """Errors of its queue, and of an order to unload it, do not name the base."""
        key = given("alice", models=("*::code",), scopes=ALL)
        node = self.scripted("a", "acme/base", "acme/base::code")
        node.parents["acme/base::code"] = "acme/base"
        fleet = self.fleet(node, keys=[key.key], queue_timeout=10)

        unloading = fleet.request(
            "POST", "/api/models/unload/acme/base::code", body=b"", headers=key.bearer
        )
        assert 409 == unloading.status
        assert "'acme/base'" not in unloading.error["message"]
        node.listed = [("acme/base", "unloaded")]
        fleet.poll()
        waiting = fleet.chat(model="acme/base::code", headers=key.bearer)
        fleet.advance(11)
        assert 503 == waiting.status
        assert "'acme/base'" not in waiting.error["message"]
