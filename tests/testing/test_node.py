from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from cortexd.testing.node import FIRST_UNIX_TIME
from tests.testing.client import Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
COLD = SimulatedModel(id="acme/cold", size_mb=2_000, load_seconds=5, loaded=False)


class RestartTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node with a loaded and a cold model."""
        self.bench = Bench(A, COLD, token_seconds=1)
        self.node = self.bench.node

    def created(self) -> int:
        """Give the `created` of the model list."""
        created = {m["created"] for m in self.bench.get("/v1/models").json()["data"]}
        self.assertEqual(1, len(created))
        return int(created.pop())

    def test_created_changes(self) -> None:
        """Every process has another `created`, also within one second."""
        seen = [self.created()]
        for _ in range(2):
            self.node.restart()
            seen.append(self.created())
        self.bench.advance(100)
        self.node.restart()
        seen.append(self.created())
        self.assertEqual(
            [FIRST_UNIX_TIME, FIRST_UNIX_TIME + 1, FIRST_UNIX_TIME + 2, FIRST_UNIX_TIME + 100],
            seen,
        )

    def test_breaks_streams(self) -> None:
        """A restart breaks the connections of open streams."""
        stream = self.bench.stream()
        self.node.restart()
        self.bench.advance(0)
        self.assertEqual("broken", stream.ended)
        self.assertEqual(0, self.node.open_streams)
        (ended,) = self.node.journal.of("stream_ended")
        self.assertEqual("cut", ended.detail["reason"])
        self.assertEqual([], self.bench.clock.getDelayedCalls())

    def test_breaks_answers(self) -> None:
        """Whoever waits for an answer that does not stream, or for a load, gets none."""
        waiting = [
            self.bench.chat(),
            self.bench.post("/v1/models/reload", {"model_id": "acme/cold"}),
        ]
        self.node.restart()
        self.bench.advance(10)
        self.assertEqual(["refused", "refused"], [exchange.ended for exchange in waiting])
        self.assertEqual("unloaded", self.bench.operate("status", "acme/cold")["status"])

    def test_models_start_anew(self) -> None:
        """Every model is back in its first state, and the ids of answers begin anew."""
        self.bench.operate("unload", "acme/chat")
        self.bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        self.bench.advance(5)
        self.node.restart()
        self.assertEqual(("acme/chat",), self.node.loaded_models)
        self.assertEqual("1", self.bench.stream().chunks()[0]["id"])

    def test_heals(self) -> None:
        """Stuck ids, leaks and counters are gone."""
        self.node.faults.leak_mb_per_unload = 500
        self.bench.operate("reload", "acme/chat")
        self.bench.operate("unload", "acme/chat")
        self.assertEqual(500, self.node.resident_mb)
        self.node.restart()
        self.assertEqual(6_000, self.node.resident_mb)
        self.assertEqual("loaded", self.bench.operate("status", "acme/chat")["status"])
        self.assertNotIn("/v1/models/unload", self.bench.get("/metrics").text())

    def test_journal(self) -> None:
        """The journal outlives the restart and says so."""
        self.bench.get("/health")
        self.node.restart()
        self.assertEqual(["request", "restarted"], [entry.kind for entry in self.node.journal])


class CloseTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node with a loaded and a cold model."""
        self.bench = Bench(A, COLD, token_seconds=1)
        self.node = self.bench.node

    def close(self) -> None:
        """Close the node, which must not take any time."""
        self.successResultOf(Deferred.fromCoroutine(self.node.close()))

    def test_refuses(self) -> None:
        """A closed node breaks what is open and answers nothing more."""
        stream = self.bench.stream()
        self.node.faults.hang = True
        hung = self.bench.get("/health")
        self.node.faults.hang = False
        self.close()
        self.bench.advance(0)
        self.assertEqual(["broken", "refused"], [stream.ended, hung.ended])
        self.assertEqual("refused", self.bench.get("/health").ended)
        self.assertEqual((0, ()), (self.node.resident_mb, self.node.loaded_models))

    def test_leaves_no_timer(self) -> None:
        """Loads, streams and slow answers leave no timer behind."""
        self.bench.stream()
        self.bench.chat()
        self.bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        self.node.faults.slow_seconds = 60
        self.bench.get("/health")
        self.close()
        self.bench.advance(0)
        self.assertEqual([], self.bench.clock.getDelayedCalls())
