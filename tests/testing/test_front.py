from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import CHAT, JSON_HEADERS, Bench

A = SimulatedModel(id="acme/chat")
COLD = SimulatedModel(id="acme/cold", load_seconds=5, loaded=False)


class HeaderTests(SynchronousTestCase):
    def test_request_id_echoed(self) -> None:
        """A client's request id comes back."""
        answer = Bench(A).send("GET", "/v2", headers={"x-request-id": "abc"})
        self.assertEqual("abc", answer.headers["x-request-id"])

    def test_request_id_made(self) -> None:
        """Without one the node makes its own, on refusals and streams alike."""
        bench = Bench(A)
        ids = {bench.get("/v2").headers["x-request-id"], bench.stream().headers["x-request-id"]}
        self.assertEqual(2, len(ids))
        for made in ids:
            self.assertRegex(made, r"\Areq_[0-9a-f]{32}\Z")

    def test_before_request_ids(self) -> None:
        """Before v0.8.4 there are none."""
        self.assertNotIn("x-request-id", Bench(A, version="0.8.3").get("/health").headers)

    def test_cross_origin(self) -> None:
        """Any origin is allowed, and any OPTIONS is a preflight."""
        bench = Bench(A)
        self.assertEqual("*", bench.get("/v1/models").headers["access-control-allow-origin"])
        preflight = bench.send("OPTIONS", CHAT)
        self.assertEqual((200, b""), (preflight.status, preflight.body))


class JournalTests(SynchronousTestCase):
    def test_request(self) -> None:
        """A request is journalled with its time, path, headers and decoded body."""
        bench = Bench(A)
        bench.advance(3)
        bench.chat(seed=7)
        (entry,) = bench.node.journal.requests(CHAT)
        self.assertEqual((3.0, "acme/chat"), (entry.at, entry.model))
        self.assertEqual("POST", entry.detail["method"])
        body, headers = entry.detail["body"], entry.detail["headers"]
        assert isinstance(body, dict)
        assert isinstance(headers, dict)
        self.assertEqual(7, body["seed"])
        self.assertEqual("application/json", headers["content-type"])

    def test_nonsense(self) -> None:
        """A body that is no JSON is journalled as none, under no model."""
        bench = Bench(A)
        bench.send("POST", CHAT, b"\xff{", JSON_HEADERS)
        bench.post(CHAT, {"model": 5})
        self.assertEqual(["", ""], [entry.model for entry in bench.node.journal.requests()])
        self.assertIsNone(bench.node.journal[0].detail["body"])


class FaultTests(SynchronousTestCase):
    def test_hang(self) -> None:
        """A hanging node takes requests and never answers them."""
        bench = Bench(A)
        bench.node.faults.hang = True
        health, chat = bench.get("/health"), bench.chat()
        bench.node.faults.hang = False
        bench.advance(3_600)
        self.assertEqual([None, None], [health.status, chat.status])
        self.assertEqual(["", ""], [health.ended, chat.ended])
        self.assertEqual(2, len(bench.node.journal.requests()))
        self.assertEqual(200, bench.get("/health").status)

    def test_hang_routes(self) -> None:
        """Single paths may hang."""
        bench = Bench(A)
        bench.node.faults.hang_routes.add("/v1/models")
        self.assertIsNone(bench.get("/v1/models").status)
        self.assertEqual(200, bench.get("/health").status)

    def test_slow(self) -> None:
        """A slow node answers everything late."""
        bench = Bench(A)
        bench.node.faults.slow_seconds = 2
        health = bench.get("/health")
        bench.advance(1.9)
        self.assertIsNone(health.status)
        bench.advance(0.1)
        self.assertEqual(200, health.status)

    def test_client_leaves_a_slow_node(self) -> None:
        """A request whose client has left is not carried out."""
        bench = Bench(A)
        bench.node.faults.slow_seconds = 2
        bench.leave(bench.post("/v1/models/unload", {"model_id": "acme/chat"}))
        bench.advance(2)
        self.assertEqual(("acme/chat",), bench.node.loaded_models)
        self.assertEqual([], bench.clock.getDelayedCalls())

    def test_deaf_while_loading(self) -> None:
        """A node without threads to spare answers nothing until the load has ended."""
        bench = Bench(A, COLD)
        bench.node.faults.deaf_while_loading = True
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        health = bench.get("/health")
        bench.advance(4)
        self.assertIsNone(health.status)
        bench.advance(1)
        self.assertEqual([200, 200], [reload.status, health.status])
        self.assertEqual(200, bench.get("/health").status)

    def test_error_responses(self) -> None:
        """So many inference requests fail with a 500, whatever else is asked meanwhile."""
        bench = Bench(A)
        bench.node.faults.error_responses = 2
        bench.node.faults.error_message = "CUDA error"
        failed = [bench.chat(), bench.get("/v1/models"), bench.stream(), bench.chat()]
        self.assertEqual([500, 200, 500, 200], [answer.status for answer in failed])
        self.assertEqual({"message": "CUDA error"}, failed[0].json())
