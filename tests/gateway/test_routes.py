import json
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, STARTED_AT, FleetTestCase, InMemoryFleet
from tests.testing.client import CHAT

SLASHED = "/models/tiny"


class CatalogueRouteTests(FleetTestCase):
    def catalogue(self) -> InMemoryFleet:
        return self.fleet(
            self.node("a", "acme/chat", SimulatedModel(id="acme/cold", loaded=False)),
            self.node("b", "acme/chat", SLASHED, "acme/ü %2F"),
            models={SLASHED: {}, "acme/chat": {"aliases": ["small"]}},
        )

    def test_the_list_has_every_model_once(self) -> None:
        """Sorted by id, with status, nodes and aliases; the nodes' pseudo-model is not there."""
        listed = self.catalogue().get("/v1/models").json()

        assert [
            (SLASHED, "loaded", ["b"], []),
            ("acme/chat", "loaded", ["a", "b"], ["small"]),
            ("small", "loaded", ["a", "b"], ["small"]),
            ("acme/cold", "unloaded", ["a"], []),
            ("acme/ü %2F", "loaded", ["b"], []),
        ] == [
            (model["id"], model["status"], model["nodes"], model["aliases"])
            for model in listed["data"]
        ]

    def test_the_list_satisfies_both_sdks(self) -> None:
        """It has the fields of the OpenAI and of the Anthropic model list, in one object."""
        listed = self.catalogue().get("/v1/models").json()

        assert ("list", False) == (listed["object"], listed["has_more"])
        assert (SLASHED, "acme/ü %2F") == (listed["first_id"], listed["last_id"])
        for model in listed["data"]:
            assert ("model", "model", STARTED_AT, "cortex", "active") == (
                model["object"],
                model["type"],
                model["created"],
                model["owned_by"],
                model["lifecycle"],
            )
            assert model["display_name"] in (model["id"], model.get("alias_of"))
            assert "2026-09-21T14:13:20Z" == model["created_at"]

    def test_an_empty_fleet_lists_nothing(self) -> None:
        """If no node answers the first polls, the list is empty, and not an error."""
        node = self.node()
        node.faults.hang = True
        listed = self.fleet(node).get("/v1/models").json()

        assert ([], None, None) == (listed["data"], listed["first_id"], listed["last_id"])

    def test_a_model_is_shown_by_any_spelling_of_its_path(self) -> None:
        """Slashes plain or encoded, at the beginning of an id too, and an alias."""
        fleet = self.catalogue()

        for path, model in (
            ("acme/chat", "acme/chat"),
            ("acme%2Fchat", "acme/chat"),
            ("acme%2fchat", "acme/chat"),
            ("small", "acme/chat"),
            ("default", SLASHED),
            ("/models/tiny", SLASHED),
            ("%2Fmodels%2Ftiny", SLASHED),
            ("%2Fmodels/tiny", SLASHED),
            ("acme%2F%C3%BC%20%252F", "acme/ü %2F"),
        ):
            shown = fleet.get(f"/v1/models/{path}")
            assert (200, model) == (shown.status, shown.json().get("id")), path

    def test_an_unknown_model_is_not_found(self) -> None:
        """The error is the OpenAI one, with the name that was asked for."""
        client = self.catalogue().get("/v1/models/acme%2Fnothing")

        error = client.error
        assert (404, "model_not_found", "model") == (client.status, error["code"], error["param"])
        assert "'acme/nothing'" in error["message"]

    def test_looking_loads_nothing(self) -> None:
        """Listing and showing ask no node anything."""
        node = self.node("a", SimulatedModel(id="acme/cold", loaded=False))
        fleet = self.fleet(node)
        before = len(node.journal.requests())

        for path in ("/v1/models", "/v1/models/acme%2Fcold", "/", "/health", "/ready"):
            assert fleet.get(path).status == 200

        assert before == len(node.journal.requests())
        assert () == node.loaded_models


class HealthRouteTests(FleetTestCase):
    def test_somebody_is_there(self) -> None:
        """HEAD / has no body, GET / a word, GET /health another; none needs a node."""
        fleet = self.fleet(self.node(), polled=False)

        head = fleet.request("HEAD", "/")
        assert (200, b"", "clean") == (head.status, head.body, head.ended)
        assert (200, b"cortexd\n") == (fleet.get("/").status, fleet.get("/").body)
        assert (200, b"OK") == (fleet.get("/health").status, fleet.get("/health").body)

    def test_ready_waits_for_the_first_poll_of_every_node(self) -> None:
        """503 with the reason until all nodes were polled, 200 as soon as one of them is up."""
        deaf = self.node("deaf")
        deaf.faults.hang = True
        fleet = self.fleet(self.node("good"), deaf, polled=False, down_after=1)

        before = fleet.get("/ready")
        polling = fleet.poller.poll_all()
        fleet.flush()
        meanwhile = fleet.get("/ready")
        fleet.advance(2)
        after = fleet.get("/ready")

        self.successResultOf(polling)
        assert (503, 503, 200) == (before.status, meanwhile.status, after.status)
        assert "good" in before.json()["reason"]
        assert "deaf" in meanwhile.json()["reason"]
        assert {"status": "ready"} == after.json()

    def test_ready_is_over_when_no_node_is_up(self) -> None:
        """When the last node is down the reason says so; health is another matter."""
        node = self.node("gone")
        fleet = self.fleet(node, down_after=1)
        assert 200 == fleet.get("/ready").status

        Deferred.fromCoroutine(node.close())
        fleet.poll()

        unready = fleet.get("/ready")
        assert (503, "not ready") == (unready.status, unready.json()["status"])
        assert unready.json()["reason"]
        assert 200 == fleet.get("/health").status

    def test_probes_leave_no_line_in_the_log(self) -> None:
        """What asks every second is counted, and logged for debugging only."""
        fleet = self.fleet(self.node())
        fleet.get("/health")

        assert 1.0 == fleet.sample(
            "cortex_requests_total", route="/health", model="unknown", node="none", status="200"
        )


class NamingTests(FleetTestCase):
    def test_an_alias_and_default_are_resolved_here(self) -> None:
        """The node is asked for the id, and the answer is signed with it."""
        node = self.node("a", "acme/chat", "acme/other")
        fleet = self.fleet(node, models={"acme/other": {"aliases": ["fast"]}})

        for name, model in (("fast", "acme/other"), ("default", "acme/other")):
            answer = fleet.chat(model=name)
            assert (200, model) == (answer.status, answer.headers["x-cortex-model"])
            assert model == answer.json()["model"]
        assert {"acme/other"} == {entry.model for entry in node.journal.requests(CHAT)}

    def test_an_alias_default_comes_first(self) -> None:
        """An operator's own default is taken instead of the first loaded model."""
        fleet = self.fleet(
            self.node("a", "a/one", "z/two"), models={"z/two": {"aliases": ["default"]}}
        )

        assert "z/two" == fleet.chat(model="default").json()["model"]

    def test_a_model_only_unloaded_is_loaded_first(self) -> None:
        """By us: the node is asked for an answer only once it has it."""
        node = self.node("a", "acme/chat", SimulatedModel(id="acme/cold", loaded=False))
        fleet = self.fleet(node)

        client = fleet.chat(model="acme/cold")

        assert (200, "acme/cold") == (client.status, client.headers["x-cortex-model"])
        assert "loaded" == client.headers["x-cortex-decision"]
        report = node.journal.report()
        assert ({"acme/cold": 1}, 0) == (report.loads, report.stray_requests)

    def test_a_model_whose_nodes_are_down_is_a_503_with_retry_after(self) -> None:
        """The error names them, and when to come back."""
        node = self.node("gone")
        fleet = self.fleet(node, down_after=1)
        Deferred.fromCoroutine(node.close())
        fleet.poll()

        client = fleet.chat()

        error = client.error
        assert (503, "server_error", "overloaded", "5") == (
            client.status,
            error["type"],
            error["code"],
            client.headers["retry-after"],
        )
        assert "'acme/chat'" in error["message"]
        assert "gone" in error["message"]

    def test_a_default_with_nothing_loaded_is_a_503(self) -> None:
        """There is a model that it could be, later."""
        fleet = self.fleet(self.node("a", SimulatedModel(id="acme/cold", loaded=False)))

        client = fleet.chat(model="default")

        assert (503, "model_not_loaded") == (client.status, client.error["code"])

    def test_when_all_places_are_taken_a_request_waits(self) -> None:
        """It is served when one of those before it has ended."""
        fleet = self.fleet(self.node(token_seconds=1), models={MODEL: {"max_concurrency": 2}})
        before = [fleet.stream(), fleet.stream()]
        waiting = fleet.chat()

        fleet.advance(2)
        assert ["clean", "clean", ""] == [client.ended for client in (*before, waiting)]
        fleet.advance(2)

        assert (200, "queued", "2000") == (
            waiting.status,
            waiting.headers["x-cortex-decision"],
            waiting.headers["x-cortex-queue-ms"],
        )

    def test_an_unknown_name_becomes_no_label(self) -> None:
        """Whatever clients make up, the metrics know it as unknown."""
        fleet = self.fleet(self.node())

        for number in range(5):
            assert 404 == fleet.chat(model=f"made-up-{number}").status

        assert "made-up" not in fleet.metrics_text()
        labels = {"route": CHAT, "model": "unknown", "node": "none", "status": "404"}
        assert 5.0 == fleet.sample("cortex_requests_total", **labels)


class HeaderTests(FleetTestCase):
    def test_a_sane_request_id_goes_all_the_way(self) -> None:
        """It is sent upstream, answered with, and logged."""
        node = self.node()
        fleet = self.fleet(node)

        for client in (
            fleet.chat(headers={"X-Request-ID": "mine-1"}),
            fleet.stream(headers={"X-Request-ID": "mine-1"}),
        ):
            assert "mine-1" == client.headers["x-request-id"]
        assert ["mine-1", "mine-1"] == [
            cast("dict[str, str]", entry.detail["headers"])["x-request-id"]
            for entry in node.journal.requests(CHAT)
        ]
        assert {"mine-1"} == {event["request_id"] for event in fleet.events("request")}

    def test_an_insane_request_id_is_replaced(self) -> None:
        """An id that is long or odd goes nowhere: neither upstream nor into the log."""
        node = self.node()
        fleet = self.fleet(node)

        for odd in ("a b", "x" * 200, "a;b", "é"):
            client = fleet.chat(headers={"X-Request-ID": odd})
            (sent,) = [
                cast("dict[str, str]", entry.detail["headers"])["x-request-id"]
                for entry in node.journal.requests(CHAT)[-1:]
            ]
            assert client.headers["x-request-id"].startswith("req_")
            assert sent == client.headers["x-request-id"]

    def test_an_answer_names_node_and_model(self) -> None:
        """Whole or streamed; what no node answered names none."""
        fleet = self.fleet(self.node("gpu-7"))

        for client in (fleet.chat(), fleet.stream()):
            assert ("gpu-7", "acme/chat") == (
                client.headers["x-cortex-node"],
                client.headers["x-cortex-model"],
            )
        assert "x-cortex-node" not in fleet.chat(model="nobody").headers

    def test_every_answer_has_an_id_and_no_trace_of_twisted(self) -> None:
        """Errors of the router, of the dialect and of nobody's making included."""
        fleet = self.fleet(self.node())

        for client in (
            fleet.get("/v1/models"),
            fleet.get("/nothing"),
            fleet.get(CHAT),
            fleet.request("POST", CHAT, body=b"{"),
            fleet.get("/v1/models/x"),
            fleet.get("/%ff"),
        ):
            assert client.headers["x-request-id"].startswith("req_")
            assert "cortex" == client.headers["server"]
            assert "Twisted" not in str(client.headers)


class ErrorTests(FleetTestCase):
    def test_a_wrong_path_is_told(self) -> None:
        """404 in the envelope, with method and path."""
        client = self.fleet(self.node()).get("/v1/nothing?secret=1")

        error = client.error
        assert (404, "invalid_request_error", "unknown_url") == (
            client.status,
            error["type"],
            error["code"],
        )
        assert "there is no route GET /v1/nothing" == error["message"]

    def test_a_wrong_method_is_told(self) -> None:
        """405 in the envelope, with the methods that the path takes, in the header too."""
        fleet = self.fleet(self.node())

        for method, path, allowed in (
            ("GET", CHAT, "POST"),
            ("PUT", "/v1/models", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("DELETE", "/v1/models/acme%2Fchat", "GET, HEAD"),
        ):
            client = fleet.request(method, path)
            assert (405, "method_not_allowed") == (client.status, client.error["code"])
            assert allowed == client.headers["allow"]

    @settings(max_examples=60)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["model", "messages", "role", "content", "stream", "n", "x"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_json_is_answered_in_json(self, value: object) -> None:
        """No body of a chat makes the gateway fail: it is served or refused in the envelope."""
        fleet = InMemoryFleet(self.node())
        body = {"model": "acme/chat", **value} if isinstance(value, dict) else value
        client = fleet.request("POST", CHAT, body=json.dumps(body).encode())
        fleet.advance(1)

        assert "clean" == client.ended
        if client.status == 200:
            assert client.body
        else:
            assert client.error["message"]
        assert [] == self.flushLoggedErrors()
        fleet.close()
