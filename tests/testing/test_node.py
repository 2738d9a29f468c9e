from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.testing.node import FIRST_UNIX_TIME
from tests.support.network import Network
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
        self.assertEqual(
            ["request", "request_ended", "restarted"], [entry.kind for entry in self.node.journal]
        )

    def test_broken_answers(self) -> None:
        """A restart breaks what somebody waits for, which is nobody's unload."""
        self.bench.stream()
        self.bench.chat()
        self.node.restart()
        self.bench.advance(0)
        report = self.node.journal.report()
        self.assertEqual((2, 0, 1), (report.broken_answers, report.cut_answers, report.restarts))
        self.assertEqual((), report.unended_requests)


class StartTests(SynchronousTestCase):
    def test_subset(self) -> None:
        """A node may start with some of its models loaded, whatever they say themselves."""
        node = Bench(A, COLD, starts_loaded=["acme/cold"]).node
        self.assertEqual(("acme/cold",), node.loaded_models)
        self.assertEqual(2_000, node.resident_mb)

    def test_cold(self) -> None:
        """A node that starts without any model has no default."""
        bench = Bench(A, COLD, starts_loaded=[])
        self.assertEqual((), bench.node.loaded_models)
        self.assertEqual(
            {"message": "engine state lock is poisoned"}, bench.chat(model="default").json()
        )

    def test_another_subset_next_time(self) -> None:
        """What starts loaded may be another thing after a restart."""
        node = Bench(A, COLD, starts_loaded=["acme/cold"]).node
        node.starts_loaded = ["acme/chat"]
        node.restart()
        self.assertEqual(("acme/chat",), node.loaded_models)
        node.starts_loaded = None
        node.restart()
        self.assertEqual(("acme/chat",), node.loaded_models)

    def test_does_not_fit(self) -> None:
        """As upstream, a node does not start with more than fits, or with what it has not."""
        with self.assertRaisesRegex(ValueError, "take 8000 MiB, and there are 7000"):
            Bench(A, COLD, memory_mb=7_000, starts_loaded=["acme/chat", "acme/cold"])
        with self.assertRaisesRegex(ValueError, "acme/none"):
            Bench(A, starts_loaded=["acme/none"])

    def test_overfilled_start(self) -> None:
        """Where memory never runs out, that is journalled instead."""
        node = Bench(A, memory_mb=5_000, out_of_memory=False).node
        report = node.journal.report()
        self.assertEqual((1, 6_000, 5_000), (report.overfilled, report.peak_mb, report.memory_mb))


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


class VanishTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a node that listens."""
        self.network = Network(Clock())
        self.node = SimulatedNode(self.network, models=[A, COLD])
        self.successResultOf(Deferred.fromCoroutine(self.node.listen(self.network, 9_001)))
        self.created = self.node.running_process.created

    def test_vanish(self) -> None:
        """It refuses connections for a while, and is back at the same port in a new process."""
        gone = Deferred.fromCoroutine(self.node.vanish(self.network, 30))
        self.network.advance(29)
        self.assertNoResult(gone)
        self.assertEqual((None, {}), (self.node.process, self.network.ports))
        self.network.advance(1)
        self.successResultOf(gone)
        self.assertEqual([9_001], list(self.network.ports))
        self.assertGreater(self.node.running_process.created, self.created)
        self.assertEqual(1, self.node.journal.report().restarts)

    def test_stays_away(self) -> None:
        """Cancelled meanwhile, it stays closed."""
        gone = Deferred.fromCoroutine(self.node.vanish(self.network, 30))
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.network.advance(60)
        self.assertIsNone(self.node.process)
        self.assertEqual([], self.network.getDelayedCalls())
