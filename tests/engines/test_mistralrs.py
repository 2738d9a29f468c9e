import json

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.mistralrs import MistralRs
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from cortexd.fleet.states import ReplicaState

ENGINE = MistralRs()


class AskTests(SynchronousTestCase):
    def test_questions(self) -> None:
        """Its models, its machine and its gauge are asked for by GET, without a body."""
        asks = (
            ENGINE.listing(),
            ENGINE.health(),
            ENGINE.system(),
            ENGINE.hardware(),
            ENGINE.requests_in_flight(),
        )
        assert [
            ("GET", "/v1/models", None),
            ("GET", "/health", None),
            ("GET", "/v1/system/info", None),
            ("GET", "/v1/system/info", None),
            ("GET", "/metrics", None),
        ] == [(ask.method, ask.path, ask.body) for ask in asks]

    def test_operations(self) -> None:
        """Status, load and unload name the model in their body, whatever is in its id."""
        for ask, path in (
            (ENGINE.status('a"/b'), "/v1/models/status"),
            (ENGINE.load('a"/b'), "/v1/models/reload"),
            (ENGINE.unload('a"/b'), "/v1/models/unload"),
        ):
            assert ("POST", path) == (ask.method, ask.path)
            assert ask.body is not None
            assert {"model_id": 'a"/b'} == json.loads(ask.body)
            assert Outcome(LifecycleStatus.LOADED) == ask.answer(200, b'{"status":"loaded"}')

    def test_a_listing(self) -> None:
        """It is read with each model's state."""
        body = b'{"data":[{"id":"m","status":"unloaded","created":5}]}'
        seen = ENGINE.listing().answer(200, body)
        assert ({"m": ReplicaState.UNLOADED}, 5) == (seen.replicas, seen.created)

    def test_requests_in_flight(self) -> None:
        """A node without the route, or with metrics off, does not count; other errors are none."""
        ask = ENGINE.requests_in_flight()
        assert {"m": 2} == ask.answer(200, b'http_requests_in_flight{path="/x",model="m"} 2\n')
        assert (None, None) == (ask.answer(404, b"x"), ask.answer(503, b"metrics disabled"))
        with self.assertRaisesRegex(BadAnswer, "^GET /metrics answered with status 500$"):
            ask.answer(500, b"words")

    def test_requests_on_a_model(self) -> None:
        """Those of its adapters run on it as well."""
        counts = {"m": 1, "m::code": 2, "m2": 4}
        assert (3, 2, 0) == tuple(
            ENGINE.running_on(counts, model) for model in ("m", "m::code", "other")
        )


class FactTests(SynchronousTestCase):
    def test_versions_that_lose_a_model(self) -> None:
        """Before 0.9.1, of several models one that is unloaded is lost."""
        for version in ("0.9.0", "0.8.4", "0.9", "0.9.0.post1"):
            words = ENGINE.harm_of_unload(version, 2)
            assert words is not None
            assert words.startswith(f"mistral.rs {version} loses a model that it unloads")
            assert ENGINE.harm_of_unload(version, 1) is None
        for version in ("0.9.1", "0.10.0", "1.0", "0.9.1-rc1", "unknown", ""):
            assert ENGINE.harm_of_unload(version, 2) is None, version

    def test_a_key(self) -> None:
        """It is a bearer's."""
        assert {"Authorization": "Bearer k"} == ENGINE.credentials("k")

    def test_a_model_that_a_load_has_lost(self) -> None:
        """The words say what to do about it."""
        assert ENGINE.lost_by_load().endswith("restart the node")
