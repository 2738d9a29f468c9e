from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.gauge import labels_of
from cortexd.testing.model import ModelStore, SimulatedModel
from tests.testing.client import CHAT, Bench

A = SimulatedModel(id="acme/a")
COLD = SimulatedModel(id="acme/cold", load_seconds=5, loaded=False)
OPERATION = "/v1/models/unload"


class LabelTests(SynchronousTestCase):
    def labelled(self, path: str, body: object = None, method: str = "POST") -> object:
        store = ModelStore([A, COLD], memory_mb=10_000, version=(0, 9, 2))
        return labels_of(method, path, body, store)

    def test_inference(self) -> None:
        """A request counts for the model it names, loaded or not, and for the default's real id."""
        for path in (
            CHAT,
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/images/generations",
            "/v1/audio/speech",
        ):
            for body, model in (
                ({"model": "acme/a"}, "acme/a"),
                ({"model": "acme/cold"}, "acme/cold"),
                ({"model": "default"}, "acme/a"),
                ({}, "acme/a"),
                ({"model": ""}, "acme/a"),
                ({"model": 7}, "acme/a"),
                ({"model": "acme/none"}, "unknown"),
                (None, "unknown"),
                ([], "unknown"),
            ):
                self.assertEqual(("POST", path, model), self.labelled(path, body), body)

    def test_no_default(self) -> None:
        """Without a default the pseudo-model's own name stands there."""
        store = ModelStore([COLD], memory_mb=10_000, version=(0, 9, 2))
        self.assertEqual(("POST", CHAT, "default"), labels_of("POST", CHAT, {}, store))

    def test_operations(self) -> None:
        """An operation counts for the model it is done to; `default` is none here."""
        for body, model in (
            ({"model_id": "acme/a"}, "acme/a"),
            ({"model_id": "acme/none"}, "unknown"),
            ({"model_id": "default"}, "unknown"),
            ({"model": "acme/a"}, "unknown"),
            (None, "unknown"),
        ):
            self.assertEqual(("POST", OPERATION, model), self.labelled(OPERATION, body), body)

    def test_no_model(self) -> None:
        """Routes without a model count under none, and unknown ones under one name together."""
        self.assertEqual(
            ("GET", "/v1/models", "none"), self.labelled("/v1/models", None, method="GET")
        )
        self.assertEqual(
            ("GET", "<unmatched>", "none"), self.labelled("/v2", {"model": "acme/a"}, method="GET")
        )

    def test_housekeeping(self) -> None:
        """Health, metrics and preflights are not counted at all."""
        for path in ("/", "/health", "/metrics"):
            self.assertIsNone(self.labelled(path, None, method="GET"))
        self.assertIsNone(self.labelled(CHAT, {"model": "acme/a"}, method="OPTIONS"))


class GaugeTests(SynchronousTestCase):
    def in_flight(self, bench: Bench) -> list[str]:
        """Give the gauge's lines."""
        lines = bench.get("/metrics").text().splitlines()
        return [line for line in lines if line.startswith("http_requests_in_flight{")]

    def test_a_poll_counts_under_none(self) -> None:
        """A new node has no line; the listing of its models makes the first."""
        bench = Bench(A)
        self.assertEqual([], self.in_flight(bench))
        bench.get("/v1/models")
        self.assertEqual(
            ['http_requests_in_flight{method="GET",path="/v1/models",model="none"} 0'],
            self.in_flight(bench),
        )

    def test_a_load_counts_for_its_model(self) -> None:
        """The reload that is under way is a request for the model, and so is what waits for it."""
        bench = Bench(A, COLD)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        line = 'http_requests_in_flight{method="POST",path="/v1/models/reload",model="acme/cold"} '
        self.assertEqual([f"{line}1"], self.in_flight(bench))
        bench.advance(5)
        self.assertEqual([f"{line}0"], self.in_flight(bench))

    def test_a_client_that_leaves_is_not_counted(self) -> None:
        """Even where the node still works on its answer."""
        bench = Bench(A, token_seconds=1)
        bench.leave(bench.chat(model="acme/a"))
        (line,) = self.in_flight(bench)
        self.assertTrue(line.endswith('model="acme/a"} 0'), line)
