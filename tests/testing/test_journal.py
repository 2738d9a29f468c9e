from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import Entry, Journal, Report, SimulatedModel, together
from tests.testing.client import Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
COLD = SimulatedModel(id="acme/cold", size_mb=2_000, load_seconds=5, loaded=False)
TWIN = SimulatedModel(id="acme/twin", size_mb=2_000, load_seconds=5, loaded=False)


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Record three entries of a possible four."""
        self.journal = Journal(capacity=4)
        self.journal.record(1, "request", "acme/a", number=1, path="/v1/models", body=None)
        self.journal.record(2, "unload", "acme/a", leaked_mb=3, cut=0)
        self.journal.record(3, "unload", "acme/b", leaked_mb=0, cut=2)

    def test_of(self) -> None:
        """Entries are found by kind, and by model where one is named."""
        unload = Entry(at=2, kind="unload", model="acme/a", detail={"leaked_mb": 3, "cut": 0})
        self.assertEqual([unload], self.journal.of("unload", "acme/a"))
        self.assertEqual(2, len(self.journal.of("unload")))
        self.assertEqual([], self.journal.of("restarted"))

    def test_requests(self) -> None:
        """Requests are found by path."""
        self.assertEqual(1, len(self.journal.requests("/v1/models")))
        self.assertEqual(1, len(self.journal.requests()))
        self.assertEqual([], self.journal.requests("/health"))

    def test_list_like(self) -> None:
        """A journal can be iterated, measured and indexed."""
        self.assertEqual(3, len(self.journal))
        self.assertEqual(self.journal[2], list(self.journal)[-1])
        self.assertIn("request, unload, unload", repr(self.journal))

    def test_bounded(self) -> None:
        """Beyond its capacity the oldest entries are forgotten, and the report forgets none."""
        for at in range(4, 9):
            self.journal.record(at, "restarted", cut=0)
        self.assertEqual([5, 6, 7, 8], [entry.at for entry in self.journal])
        report = self.journal.report()
        self.assertEqual((1, 5), (report.requests, report.restarts))
        self.assertEqual({"acme/a": 1, "acme/b": 1}, report.unloads)
        self.assertEqual(2, report.cut_answers)

    def test_clear(self) -> None:
        """A cleared journal is empty, and its report is what it was."""
        before = self.journal.report()
        self.journal.clear()
        self.assertEqual(0, len(self.journal))
        self.assertEqual(before, self.journal.report())

    def test_report_stays(self) -> None:
        """A report is of its time: what happens later is not in it."""
        before = self.journal.report()
        self.journal.record(4, "unload", "acme/a", leaked_mb=0, cut=0)
        self.assertEqual(1, before.unloads["acme/a"])


class ReportTests(SynchronousTestCase):
    def test_nothing_wrong(self) -> None:
        """A node that is used as it should be has a report of loads, and nothing to complain of."""
        bench = Bench(A, COLD, memory_mb=8_000)
        bench.chat()
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        bench.operate("unload", "acme/chat")
        bench.stream(model="acme/cold")
        self.assertEqual(
            Report(
                requests=4,
                loads={"acme/cold": 1},
                unloads={"acme/chat": 1},
                peak_mb=8_000,
                memory_mb=8_000,
            ),
            bench.node.journal.report(),
        )

    def test_cut_answers(self) -> None:
        """Every answer that an unload ended counts: running or waiting, streamed or not."""
        bench = Bench(A, token_seconds=1, max_sequences=2)
        answers = [bench.stream(), bench.chat(), bench.stream()]
        bench.operate("unload", "acme/chat")
        bench.advance(0)
        self.assertEqual([200, 500, 200], [answer.status for answer in answers])
        self.assertEqual(3, bench.node.journal.report().cut_answers)
        (unload,) = bench.node.journal.of("unload")
        self.assertEqual({"leaked_mb": 0, "cut": 3}, unload.detail)

    def test_answers_nobody_waits_for(self) -> None:
        """What goes on at the node after its client has left is not cut by an unload."""
        bench = Bench(A, token_seconds=1)
        for answer in (bench.stream(), bench.chat()):
            bench.leave(answer)
        bench.operate("unload", "acme/chat")
        ended = [entry.detail["reason"] for entry in bench.node.journal.of("generation_ended")]
        self.assertEqual(["cut", "cut"], ended)
        self.assertEqual(0, bench.node.journal.report().cut_answers)

    def test_ends(self) -> None:
        """Every request has an end: answered, refused, or left by its client."""
        bench = Bench(A, token_seconds=1)
        bench.get("/v2")
        bench.stream(max_tokens=1)
        open_stream = bench.stream()
        bench.leave(bench.stream())
        (unended,) = bench.node.journal.report().unended_requests
        self.assertEqual(("request", 3), (unended.kind, unended.detail["number"]))
        bench.leave(open_stream)
        self.assertEqual((), bench.node.journal.report().unended_requests)
        ends = [
            (entry.detail["number"], entry.detail["status"], entry.detail["whole"])
            for entry in bench.node.journal.of("request_ended")
        ]
        self.assertEqual([(1, 404, True), (2, 200, True), (4, 200, False), (3, 200, False)], ends)

    def test_no_status(self) -> None:
        """A request that ended before its answer has the status 0."""
        bench = Bench(A)
        bench.node.faults.hang = True
        bench.leave(bench.get("/health"))
        (ended,) = bench.node.journal.of("request_ended")
        self.assertEqual((0, False), (ended.detail["status"], ended.detail["whole"]))

    def test_wrong_reloads(self) -> None:
        """A reload of what is loaded, unknown or being reloaded counts; a due one does not."""
        bench = Bench(A, COLD)
        for model in ("acme/cold", "acme/cold", "acme/chat", "acme/none"):
            bench.post("/v1/models/reload", {"model_id": model})
        report = bench.node.journal.report()
        self.assertEqual(3, report.wrong_reloads)
        self.assertEqual({"acme/cold": 1}, report.loads)

    def test_stray_requests(self) -> None:
        """A request that meets a model unloaded or being reloaded counts: it loads by itself."""
        bench = Bench(A, COLD)
        for _ in range(2):
            bench.chat(model="acme/cold")
        report = bench.node.journal.report()
        self.assertEqual((2, 0), (report.stray_requests, report.wrong_reloads))
        self.assertEqual({"acme/cold": 1}, report.loads)

    def test_overlapping_loads(self) -> None:
        """A load that starts while another runs counts, one that follows does not."""
        bench = Bench(A, COLD, TWIN)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.post("/v1/models/reload", {"model_id": "acme/twin"})
        bench.advance(5)
        bench.operate("unload", "acme/twin")
        bench.post("/v1/models/reload", {"model_id": "acme/twin"})
        report = bench.node.journal.report()
        self.assertEqual(1, report.overlapping_loads)
        self.assertEqual({"acme/cold": 1, "acme/twin": 2}, report.loads)

    def test_failed_loads(self) -> None:
        """Failures count by model, those for want of memory beside."""
        bench = Bench(A, COLD, TWIN, memory_mb=7_000)
        bench.node.faults.fail_load["acme/twin"] = "no such file"
        for model in ("acme/cold", "acme/twin"):
            bench.post("/v1/models/reload", {"model_id": model})
            bench.advance(5)
        report = bench.node.journal.report()
        self.assertEqual({"acme/cold": 1, "acme/twin": 1}, report.failed_loads)
        self.assertEqual((1, 0, 6_000), (report.out_of_memory, report.overfilled, report.peak_mb))

    def test_overfilled(self) -> None:
        """Where memory never runs out, more than there is counts, with what is not back yet."""
        bench = Bench(A, COLD, memory_mb=7_000, out_of_memory=False)
        bench.node.faults.free_delay_seconds = 60
        bench.operate("unload", "acme/chat")
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        report = bench.node.journal.report()
        self.assertEqual((1, 8_000, 7_000), (report.overfilled, report.peak_mb, report.memory_mb))

    def test_together(self) -> None:
        """Several nodes' reports add up, number by number."""
        one = Bench(A, COLD, TWIN, memory_mb=7_000)
        for model in ("acme/cold", "acme/twin", "acme/chat"):
            one.post("/v1/models/reload", {"model_id": model})
        one.chat(model="acme/cold")
        one.advance(5)
        one.node.restart()
        one.node.faults.hang = True
        one.get("/health")
        other = Bench(A, memory_mb=5_000, out_of_memory=False, token_seconds=1)
        for restart in (False, True):
            other.stream()
            if restart:
                other.node.restart()
            else:
                other.operate("unload", "acme/chat")
        reports = [one.node.journal.report(), other.node.journal.report()]
        total = together(reports)
        for name, value in vars(total).items():
            each = [vars(report)[name] for report in reports]
            self.assertTrue(any(each), name)
            self.assertEqual(each[0] + each[1], value, name)
