from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import Usage
from cortexd.errors import BadGateway, BadRequest, NodeTimeout
from cortexd.logs import Fields, fields_of
from cortexd.telemetry.accounting import GAPS_KEPT, Accountant, RequestRecord
from cortexd.telemetry.metrics import Metrics
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet
from tests.testing.client import CHAT

LINE = {
    "event",
    "request_id",
    "route",
    "client",
    "key",
    "model",
    "node",
    "stream",
    "status",
    "outcome",
    "code",
    "attempts",
    "decision",
    "affinity",
    "expected",
    "queued",
    "load",
    "duration",
    "ttft",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tokens_per_second",
    "bytes_out",
    "upstream_id",
    "hygiene",
}


class AccountantTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.accountant = Accountant(self.metrics, self.clock)
        self.events: list[tuple[LogLevel, Fields]] = []
        observer = cast("ILogObserver", self.take_event)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def take_event(self, event: LogEvent) -> None:
        fields = fields_of(event)
        if fields is not None:
            self.events.append((event["log_level"], fields))

    def open(self) -> RequestRecord:
        return self.accountant.open("req_1", CHAT, "127.0.0.1")

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels or {"model": "m", "node": "a"})

    def content_after(self, record: RequestRecord, *seconds: float) -> None:
        for each in seconds:
            self.clock.advance(each)
            record.note_content(self.clock.seconds())

    def test_times_are_exact(self) -> None:
        """To the first content, between contents, and of the whole; pace is of all but one."""
        self.clock.advance(100)
        record = self.open()
        record.streams = True
        record.note_grant(1.25, 1.0, "loaded")
        self.accountant.note_attempt(record, "m", "a")
        self.content_after(record, 0.5, 0.25, 0.25, 1.5)
        record.usage = Usage(11, 5)
        record.bytes_out, record.upstream_id = 321, "42"
        self.clock.advance(0.5)
        self.accountant.close(record)

        assert (1.0, 0.5) == (
            self.sample("cortex_time_to_first_token_seconds_count"),
            self.sample("cortex_time_to_first_token_seconds_sum"),
        )
        assert (3.0, 2.0) == (
            self.sample("cortex_inter_token_latency_seconds_count"),
            self.sample("cortex_inter_token_latency_seconds_sum"),
        )
        bucket = self.sample(
            "cortex_inter_token_latency_seconds_bucket", model="m", node="a", le="0.25"
        )
        assert 2.0 == bucket
        assert (1.0, 2.0) == (
            self.sample("cortex_tokens_per_second_count"),
            self.sample("cortex_tokens_per_second_sum"),
        )
        whole = {"route": CHAT, "model": "m", "node": "a"}
        assert 3.0 == self.sample("cortex_request_duration_seconds_sum", **whole)
        assert 1.0 == self.sample("cortex_requests_total", **whole, status="200")
        for direction, tokens in (("prompt", 11.0), ("completion", 5.0)):
            labels = {"model": "m", "node": "a", "direction": direction}
            assert tokens == self.sample("cortex_tokens_total", **labels)
        ((level, line),) = self.events
        assert LogLevel.info is level
        assert {
            "event": "request",
            "request_id": "req_1",
            "route": CHAT,
            "client": "127.0.0.1",
            "key": None,
            "model": "m",
            "node": "a",
            "stream": True,
            "status": 200,
            "outcome": "200",
            "code": None,
            "attempts": 1,
            "decision": "loaded",
            "affinity": None,
            "expected": None,
            "queued": 1.25,
            "load": 1.0,
            "duration": 3.0,
            "ttft": 0.5,
            "prompt_tokens": 11,
            "cached_tokens": None,
            "completion_tokens": 5,
            "tokens_per_second": 2.0,
            "bytes_out": 321,
            "upstream_id": "42",
            "hygiene": None,
        } == line

    def test_a_pace_needs_two_tokens_and_time(self) -> None:
        """Where too little was seen there is no sample rather than a wrong one."""
        for usage, gaps in ((None, (1.0, 1.0)), (Usage(1, 1), (1.0, 1.0)), (Usage(1, 9), (1.0,))):
            record = self.open()
            self.accountant.note_attempt(record, "m", "a")
            self.content_after(record, *gaps)
            record.usage = usage
            self.accountant.close(record)
            assert self.events[-1][1]["tokens_per_second"] is None
        assert self.sample("cortex_tokens_per_second_count") is None

    def test_gaps_are_counted_along_the_way(self) -> None:
        """A long stream keeps only so many, and none is lost or counted twice."""
        record = self.open()
        self.accountant.note_attempt(record, "m", "a")
        self.content_after(record, *[0.125] * (2 * GAPS_KEPT + 10))
        name = "cortex_inter_token_latency_seconds_count"

        assert 2.0 * GAPS_KEPT == self.sample(name)
        assert 9 == len(record.gaps)
        self.accountant.close(record)
        assert 2.0 * GAPS_KEPT + 9 == self.sample(name)

    def test_another_attempt_begins_anew(self) -> None:
        """What a failed one brought counts for its node only, and not for the answer."""
        record = self.open()
        self.accountant.note_attempt(record, "m", "a")
        self.content_after(record, 1, 1)
        record.usage, record.upstream_id = Usage(1, 2), "7"
        self.accountant.note_failed_attempt(record, BadGateway("gone", elsewhere=True))
        self.accountant.note_attempt(record, "m", "b")
        self.content_after(record, 3)
        self.accountant.close(record)

        assert 1.0 == self.sample("cortex_inter_token_latency_seconds_count")
        assert self.sample("cortex_time_to_first_token_seconds_count") is None
        at_b = self.sample("cortex_time_to_first_token_seconds_sum", model="m", node="b")
        assert 5.0 == at_b
        line = self.events[-1][1]
        assert ("b", 2, 5.0, None, None) == tuple(
            line[field] for field in ("node", "attempts", "ttft", "prompt_tokens", "upstream_id")
        )

    def test_what_was_waited_for_adds_up(self) -> None:
        """Over all grants of a request; the last decision counts. Nothing is told of no wait."""
        record = self.open()
        record.note_grant(2.0, 1.5, "swapped")
        record.note_grant(0.5, 0.0, "resident")
        self.accountant.close(record)
        self.accountant.close(self.open())
        assert [("resident", 2.5, 1.5), (None, None, None)] == [
            tuple(line[field] for field in ("decision", "queued", "load"))
            for _, line in self.events
        ]

    def test_a_failed_attempt_is_counted_by_node_and_code(self) -> None:
        """The node's words are logged only where the fault is the node's: they may quote."""
        record = self.open()
        self.accountant.note_attempt(record, "m", "a")
        for error, code, reason in (
            (BadGateway("node a: reset", elsewhere=True), "bad_gateway", "node a: reset"),
            (NodeTimeout("silent"), "timeout", None),
            (BadRequest("'tell nobody' is no text"), "invalid_request_error", None),
        ):
            self.accountant.note_failed_attempt(record, error)
            level, event = self.events[-1]
            assert LogLevel.warn is level
            assert ("attempt_failed", "req_1", "a", "m", code, reason) == tuple(
                event[field] for field in ("event", "request_id", "node", "model", "code", "reason")
            )
            counted = self.sample("cortex_upstream_errors_total", node="a", code=code)
            assert 1.0 == counted

    def test_what_no_node_saw_has_labels_all_the_same(self) -> None:
        """Two fixed words stand for a model and a node there were none of."""
        self.accountant.close(self.open())
        labels = {"route": CHAT, "model": "unknown", "node": "none", "status": "200"}
        assert 1.0 == self.sample("cortex_requests_total", **labels)

    def test_an_outcome_is_what_the_client_saw(self) -> None:
        """Leaving comes before breaking, and that before the status."""
        for gone, broken, outcome in (
            (True, True, "client_gone"),
            (True, False, "client_gone"),
            (False, True, "broken"),
            (False, False, "404"),
        ):
            record = self.open()
            record.status, record.client_gone, record.broken = 404, gone, broken
            self.accountant.close(record)
            assert outcome == self.events[-1][1]["outcome"]

    def test_a_probe_is_for_debugging(self) -> None:
        """Its line is at that level."""
        self.accountant.close(self.open(), is_probe=True)
        assert LogLevel.debug is self.events[-1][0]

    def test_a_clock_set_back_makes_no_negative_times(self) -> None:
        """Histograms only ever grow."""
        self.clock.rightNow = 50.0
        record = self.open()
        self.accountant.note_attempt(record, "m", "a")
        self.clock.rightNow = 40.0
        record.note_content(40.0)
        record.note_content(39.0)
        self.accountant.close(record)
        line = self.events[-1][1]
        assert (0.0, 0.0) == (line["duration"], line["ttft"])
        assert 0.0 == self.sample("cortex_inter_token_latency_seconds_sum")


class RequestLineTests(FleetTestCase):
    def line(self, fleet: InMemoryFleet) -> Any:
        (line,) = fleet.events("request")
        fleet.log_events.clear()
        return line

    def test_a_stream_is_measured_at_the_gateway(self) -> None:
        """Three tokens, the first after half a second, then one a second."""
        fleet = self.fleet(self.node(prompt_seconds=0.5, token_seconds=1))
        client = fleet.stream()
        fleet.advance(5)

        line = self.line(fleet)
        assert LINE == line.keys()
        assert (0.5, 2.5, 3, 1.0) == tuple(
            line[field] for field in ("ttft", "duration", "completion_tokens", "tokens_per_second")
        )
        assert len(client.body) == line["bytes_out"]
        labels = {"model": MODEL, "node": "a"}
        assert 2.0 == fleet.sample("cortex_inter_token_latency_seconds_count", **labels)
        assert 2.0 == fleet.sample("cortex_inter_token_latency_seconds_sum", **labels)

    def test_a_whole_answer_is_measured_alike(self) -> None:
        """It is streamed to us, so we know its times though the client does not see them."""
        fleet = self.fleet(self.node(prompt_seconds=0.5, token_seconds=1))
        client = fleet.chat()
        fleet.advance(5)

        line = self.line(fleet)
        assert (0.5, 2.5, 3, 1.0, False) == tuple(
            line[field]
            for field in ("ttft", "duration", "completion_tokens", "tokens_per_second", "stream")
        )
        assert len(client.body) == line["bytes_out"]

    def test_no_event_and_no_label_holds_what_was_said(self) -> None:
        """Neither prompt nor answer, whether it goes well or not."""
        node = self.node()
        fleet = self.fleet(node)
        secret = "tell-nobody-7"
        fleet.chat(secret)
        fleet.stream(secret)
        node.faults.error_responses, node.faults.error_message = 2, f"cannot answer {secret}"
        fleet.chat(secret)
        fleet.stream(secret)
        fleet.request("POST", CHAT, body=b'{"messages": "tell-nobody-7')
        fleet.chat(model=secret)

        assert 6 == len(fleet.events("request"))
        assert secret not in "".join(map(str, fleet.log_events))
        assert secret not in fleet.metrics_text()
