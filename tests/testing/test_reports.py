from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
COLD = SimulatedModel(id="acme/cold", size_mb=2_000, load_seconds=5, loaded=False)


class HealthTests(SynchronousTestCase):
    def test_ok(self) -> None:
        """Health and root say OK though no model is loaded."""
        bench = Bench(COLD)
        for path in ("/", "/health"):
            self.assertEqual((200, "OK"), (bench.get(path).status, bench.get(path).text()))

    def test_info(self) -> None:
        """The machine is described with total and free bytes of its one CUDA device."""
        bench = Bench(A, memory_mb=10_000)
        bench.node.faults.leak_mb_per_unload = 100
        cpu, gpu = bench.get("/v1/system/info").json()["devices"]
        self.assertEqual(("cpu", None), (cpu["kind"], cpu["ordinal"]))
        self.assertEqual(("cuda", 0, None), (gpu["kind"], gpu["ordinal"], gpu["name"]))
        mebibyte = 1024 * 1024
        self.assertEqual(10_000 * mebibyte, gpu["total_memory_bytes"])
        self.assertEqual(4_000 * mebibyte, gpu["available_memory_bytes"])
        bench.operate("unload", "acme/chat")
        gpu = bench.get("/v1/system/info").json()["devices"][1]
        self.assertEqual(9_900 * mebibyte, gpu["available_memory_bytes"])

    def test_info_version(self) -> None:
        """The version is that of the mistral.rs imitated, without a v."""
        info = Bench(A, version="0.9.3").get("/v1/system/info").json()
        self.assertEqual("0.9.3", info["build"]["version"])

    def test_metrics(self) -> None:
        """Requests in flight are counted by method, path and model; sequences without a label."""
        bench = Bench(A, token_seconds=1, max_sequences=1)
        bench.stream()
        bench.stream()
        text = bench.get("/metrics").text()
        labels = 'method="POST",path="/v1/chat/completions",model="acme/chat"'
        self.assertIn(f"http_requests_in_flight{{{labels}}} 2\n", text)
        self.assertIn("mistralrs_sequences_running 1\n", text)
        self.assertIn("mistralrs_sequences_waiting 1\n", text)

    def test_metrics_when_done(self) -> None:
        """A finished request leaves the gauge and enters the counter with its status."""
        bench = Bench(A)
        bench.stream()
        text = bench.get("/metrics").text()
        labels = 'method="POST",path="/v1/chat/completions",model="acme/chat"'
        self.assertIn(f"http_requests_in_flight{{{labels}}} 0\n", text)
        self.assertIn(f'http_requests_total{{{labels},status="200"}} 1\n', text)

    def test_metrics_escape(self) -> None:
        """A model's name cannot break the text format."""
        bench = Bench(SimulatedModel(id='a"b\\c\nd'))
        bench.chat(model='a"b\\c\nd')
        self.assertIn(r'model="a\"b\\c\nd"', bench.get("/metrics").text())

    def test_old_metrics(self) -> None:
        """Older versions have fewer series, or no metrics at all."""
        self.assertNotIn("sequences", Bench(A, version="0.9.1").get("/metrics").text())
        self.assertEqual(404, Bench(A, version="0.8.3").get("/metrics").status)
