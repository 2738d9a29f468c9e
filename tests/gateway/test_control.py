import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from cortexd.access.callers import ANYBODY, caller_with
from cortexd.access.keys import Key
from cortexd.gateway.control import actor
from cortexd.gateway.routes import UNLOAD_HEADER
from cortexd.scheduling.events import LoadWanted
from cortexd.testing import SimulatedModel
from tests.support.fleets import FleetTestCase, InMemoryFleet

UNLOADS = (
    ("GET", "/unload"),
    ("POST", "/api/models/unload"),
    ("POST", "/api/models/unload/acme%2Fchat"),
    ("POST", "/api/models/unload/acme/chat"),
)


class LookingTests(FleetTestCase):
    def two_nodes(self, **settings: Any) -> InMemoryFleet:
        self.cold = SimulatedModel(id="acme/cold", loaded=False, load_seconds=30.0)
        self.a = self.node("a", "acme/chat", self.cold)
        self.b = self.node("b", "acme/chat", "acme/embed")
        return self.fleet(self.a, self.b, **settings)

    def test_running(self) -> None:
        """Everything in memory is listed for each of its nodes, with what it is doing."""
        fleet = self.two_nodes()
        before = fleet.get("/running")
        fleet.dispatcher.dispatch(LoadWanted("acme/cold"))
        fleet.flush()
        meanwhile = fleet.get("/running")

        loaded = [
            ("a", "acme/chat", "ready"),
            ("b", "acme/chat", "ready"),
            ("b", "acme/embed", "ready"),
        ]
        for client, expected in (
            (before, loaded),
            (meanwhile, [*loaded, ("a", "acme/cold", "starting")]),
        ):
            assert (200, "application/json") == (client.status, client.headers["content-type"])
            running = client.json()["running"]
            found = [(each["node"], each["model"], each["state"]) for each in running]
            assert sorted(expected) == sorted(found)

    def test_ps(self) -> None:
        """Each loaded model is listed once, with the nodes that have it."""
        client = self.two_nodes().get("/api/ps")

        assert (200, "application/json") == (client.status, client.headers["content-type"])
        assert [("acme/chat", ["a", "b"]), ("acme/embed", ["b"])] == [
            (model["name"], model["nodes"]) for model in client.json()["models"]
        ]

    def test_a_node_that_is_down(self) -> None:
        """What it had when it last answered is not in memory as far as anyone knows."""
        fleet = self.two_nodes(down_after=1)
        Deferred.fromCoroutine(self.b.close())
        fleet.poll()

        running = fleet.get("/running").json()["running"]
        assert [("a", "acme/chat")] == [(each["node"], each["model"]) for each in running]
        models = fleet.get("/api/ps").json()["models"]
        assert [("acme/chat", ["a"])] == [(model["name"], model["nodes"]) for model in models]

    def check_looking(self, *, allowed: bool) -> None:
        fleet = self.two_nodes(allow_http_control=allowed)
        before = len(self.a.journal.requests())
        for method in ("GET", "HEAD"):
            for path in ("/running", "/api/ps"):
                assert 200 == fleet.request(method, path).status
        assert before == len(self.a.journal.requests())

    def test_looking_loads_and_unloads_nothing(self) -> None:
        """No node is asked anything."""
        self.check_looking(allowed=False)

    def test_looking_changes_nothing_where_it_could(self) -> None:
        """Neither is it where HTTP may change something."""
        self.check_looking(allowed=True)

    def test_an_empty_fleet(self) -> None:
        """If no node answers the first polls, both lists are empty, and no errors."""
        node = self.node()
        node.faults.hang = True
        fleet = self.fleet(node)
        assert {"running": []} == fleet.get("/running").json()
        assert {"models": []} == fleet.get("/api/ps").json()


class ForbiddenTests(FleetTestCase):
    def test_nothing_may_be_unloaded_by_default(self) -> None:
        """Each way is 403 in the envelope, which names the key that would allow it."""
        node = self.node("a", "acme/chat")
        fleet = self.fleet(node)

        for method, path in (*UNLOADS, ("POST", "/api/models/unload/acme%2Fnothing")):
            client = fleet.request(method, path)
            error = client.error
            assert (403, "permission_error") == (client.status, error["type"]), path
            assert "gateway.allow_http_control" in error["message"]
            assert "cortexctl unload" in error["message"]
        fleet.advance(60)
        assert ("acme/chat",) == node.loaded_models

    def test_wrong_methods_are_told_all_the_same(self) -> None:
        """A path that takes POST is no secret, and neither is what GET /unload is for."""
        fleet = self.fleet(self.node())
        for method, path, allowed in (
            ("GET", "/api/models/unload", "POST"),
            ("GET", "/api/models/unload/acme%2Fchat", "POST"),
            ("POST", "/unload", "GET, HEAD"),
            ("POST", "/running", "GET, HEAD"),
        ):
            client = fleet.request(method, path)
            assert (405, allowed) == (client.status, client.headers["allow"])


class UnloadTests(FleetTestCase):
    def check_unload_of_one(self, name: str) -> None:
        a, b = self.node("a", "acme/chat", "acme/embed"), self.node("b", "acme/chat")
        fleet = self.fleet(
            a, b, allow_http_control=True, models={"acme/chat": {"aliases": ["small"]}}
        )

        client = fleet.request("POST", f"/api/models/unload/{name}")
        fleet.advance(60)

        assert (200, "application/json") == (client.status, client.headers["content-type"])
        assert {
            "msg": "ok",
            "unloading": [
                {"model": "acme/chat", "node": "a"},
                {"model": "acme/chat", "node": "b"},
            ],
            "kept": {},
        } == client.json()
        assert (("acme/embed",), ()) == (a.loaded_models, b.loaded_models)

    def test_a_model(self) -> None:
        """The model goes from every node; its slashes may be as they are."""
        self.check_unload_of_one("acme/chat")

    def test_a_model_with_encoded_slashes(self) -> None:
        """Its slashes may be encoded."""
        self.check_unload_of_one("acme%2Fchat")

    def test_a_model_by_its_alias(self) -> None:
        """A name of the configuration stands for its model here too."""
        self.check_unload_of_one("small")

    def check_unload_of_all(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> None:
        a, b = self.node("a", "acme/chat", "acme/embed"), self.node("b", "acme/embed")
        c = self.node("c", "acme/kept")
        fleet = self.fleet(
            a, b, c, allow_http_control=True, node_keys={"c": {"pinned": ["acme/kept"]}}
        )

        client = fleet.request(method, path, headers=headers)
        fleet.advance(60)

        assert 200 == client.status
        answer = client.json()
        assert {("acme/chat", "a"), ("acme/embed", "a"), ("acme/embed", "b")} == {
            (each["model"], each["node"]) for each in answer["unloading"]
        }
        assert ["acme/kept"] == list(answer["kept"])
        assert "pinned on c" in answer["kept"]["acme/kept"]
        assert ((), (), ("acme/kept",)) == (a.loaded_models, b.loaded_models, c.loaded_models)

    def test_all_models(self) -> None:
        """Everything goes that may; what is pinned stays, and is said to."""
        self.check_unload_of_all("POST", "/api/models/unload")

    def test_all_models_by_get(self) -> None:
        """The older of llama-swap's two ways does the same, with a header that no page can send."""
        self.check_unload_of_all("GET", "/unload", {UNLOAD_HEADER: "unload"})

    def test_a_plain_get_changes_nothing(self) -> None:
        """Any page can cause a GET, so it is refused with the header and the way that work."""
        node = self.node("a", "acme/chat")
        fleet = self.fleet(node, allow_http_control=True)

        for headers in ({}, {UNLOAD_HEADER: "1"}):
            error = fleet.request("GET", "/unload", headers=headers).error
            assert "permission_error" == error["type"]
            assert f"{UNLOAD_HEADER}: unload" in error["message"]
            assert "POST /api/models/unload" in error["message"]
        fleet.advance(60)
        assert ("acme/chat",) == node.loaded_models

    def test_a_head_changes_nothing(self) -> None:
        """HEAD is for looking: where GET would unload it is refused."""
        node = self.node("a", "acme/chat")
        fleet = self.fleet(node, allow_http_control=True)

        client = fleet.request("HEAD", "/unload")
        fleet.advance(60)

        assert (405, "POST") == (client.status, client.headers["allow"])
        assert ("acme/chat",) == node.loaded_models

    def test_running_answers_are_not_cut(self) -> None:
        """The model goes once its last answer has ended, and not before."""
        node = self.node("a", "acme/chat", token_seconds=10)
        fleet = self.fleet(node, allow_http_control=True)
        stream = fleet.stream()

        assert 200 == fleet.request("POST", "/api/models/unload/acme/chat").status
        fleet.advance(10)
        meanwhile = node.loaded_models
        fleet.advance(100)

        assert ("clean", "You said: hi") == (stream.ended, stream.content())
        assert [("acme/chat",), ()] == [meanwhile, node.loaded_models]

    def test_what_must_stay(self) -> None:
        """A pinned model is 409 in the envelope, with what to do first."""
        node = self.node("a", "acme/chat")
        fleet = self.fleet(
            node, allow_http_control=True, node_keys={"a": {"pinned": ["acme/chat"]}}
        )

        client = fleet.request("POST", "/api/models/unload/acme%2Fchat")

        error = client.error
        assert (409, "invalid_request_error", "conflict") == (
            client.status,
            error["type"],
            error["code"],
        )
        assert "cortexctl unpin acme/chat --node a" in error["message"]

    def test_what_is_not_there(self) -> None:
        """A model that is not loaded is as it should be; one that nobody lists is 404."""
        fleet = self.fleet(
            self.node("a", SimulatedModel(id="acme/cold", loaded=False)), allow_http_control=True
        )

        cold = fleet.request("POST", "/api/models/unload/acme%2Fcold")
        nothing = fleet.request("POST", "/api/models/unload/acme%2Fnothing")

        assert (200, []) == (cold.status, cold.json()["unloading"])
        assert (404, "model_not_found") == (nothing.status, nothing.error["code"])

    def test_a_change_is_logged_with_who_asked(self) -> None:
        """The line has the model, the client's address and the request's id."""
        fleet = self.fleet(self.node("a", "acme/chat"), allow_http_control=True)

        fleet.request("POST", "/api/models/unload/acme%2Fchat", headers={"X-Request-ID": "mine-1"})

        [line] = fleet.events("control_change")
        assert {
            "event": "control_change",
            "actor": "a client at 127.0.0.1",
            "command": "unload",
            "model": "acme/chat",
            "client": "127.0.0.1",
            "request_id": "mine-1",
        } == dict(line)

    def test_the_actor(self) -> None:
        """A key is named with the address of its client, which stands alone without a key."""
        ops = caller_with(Key("ops", "id", "hash"))
        assert "key ops at 10.0.0.7" == actor(ops, "10.0.0.7")
        assert "a client at 10.0.0.7" == actor(ANYBODY, "10.0.0.7")

    def test_the_routes_are_counted_by_their_patterns(self) -> None:
        """No model's name becomes a label."""
        fleet = self.fleet(self.node("a", "acme/chat"), allow_http_control=True)
        fleet.request("POST", "/api/models/unload/acme%2Fchat")
        for path in ("/running", "/api/ps", "/unload"):
            fleet.get(path, **{UNLOAD_HEADER: "unload"})

        text = fleet.metrics_text()
        for route in ("/api/models/unload/{id}", "/running", "/api/ps", "/unload"):
            assert f"route={json.dumps(route)}" in text
