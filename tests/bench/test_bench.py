"""The parts of the bench that decide what its figures say."""

import io
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench import processes, report, wire
from bench.__main__ import chosen_starters, parse_arguments
from bench.figures import (
    BARS,
    BARS_OVER_BEFORE,
    Bar,
    bars,
    compared,
    medians,
    over_before,
    percentile,
)
from bench.load import Client, ResponseScanner, Tally
from bench.loop import Loop
from bench.targets import TargetMissingError
from bench.upstream import BadRequestError, Request, Upstream, take_request
from bench.wire import Knobs


def stream_bytes(chunks: int) -> bytes:
    return wire.STREAM_HEAD + wire.chunk(0) * (chunks - 1) + wire.stream_end(0, chunks)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def events_in(framed: bytes) -> list[bytes]:
    """Undo the transfer framing and split the events, by the book rather than by scanning."""
    payload = b""
    while framed:
        size, _, framed = framed.partition(b"\r\n")
        length = int(size, 16)
        payload, framed = payload + framed[:length], framed[length + 2 :]
    return [event.removeprefix(b"data: ") for event in payload.split(b"\n\n") if event]


class PercentileTests(SynchronousTestCase):
    @given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
    def test_it_is_the_least_value_that_covers_the_share(
        self, values: list[float], share: float
    ) -> None:
        """At least the share of the values does not exceed it, and less than that lies below it."""
        found = percentile(values, share)
        covered = sum(value <= found for value in values) / len(values)
        below = sum(value < found for value in values) / len(values)
        self.assertIn(found, values)
        self.assertGreaterEqual(covered + 1e-9, share)
        self.assertLess(below, share)

    def test_no_values_never_came(self) -> None:
        """What was never seen took infinitely long."""
        self.assertEqual(inf, percentile([], 0.5))


class ComparisonTests(SynchronousTestCase):
    def test_times_are_told_over_direct_and_cpu_over_nginx(self) -> None:
        """A time to the first token is a difference, CPU per chunk a ratio."""
        target = {"s.ttft_p50_ms": 3.0, "s.cpu_us_per_chunk": 30.0, "s.chunks_per_second": 9.0}
        added = compared(target, {"s.ttft_p50_ms": 1.0}, {"s.cpu_us_per_chunk": 10.0})
        expected = {"s.ttft_p50_ms_added": 2.0, "s.cpu_us_per_chunk_over_nginx": 3.0}
        self.assertEqual(expected, added)

    def test_without_peers_nothing_is_told(self) -> None:
        """A run without direct and nginx has no comparisons, and no failure."""
        target = {"s.ttft_p50_ms": 3.0, "s.cpu_us_per_chunk": 30.0}
        self.assertEqual({}, compared(target, {}, {}))

    def test_costs_are_held_against_an_earlier_state(self) -> None:
        """Costs get a ratio to those of an earlier state; times to the first token do not."""
        target = {"streams_50.cpu_us_per_chunk": 51.0, "streams_50.ttft_p50_ms": 3.0}
        before = {"streams_50.cpu_us_per_chunk": 50.0, "streams_50.ttft_p50_ms": 2.0}

        assert {"streams_50.cpu_us_per_chunk_over_before": 1.02} == over_before(target, before)

    def test_the_median_is_taken_over_the_rounds_that_have_the_figure(self) -> None:
        """A figure measured once stands, one of three rounds is the middle one."""
        rounds = [{"a": 1.0, "b": 5.0}, {"a": 9.0}, {"a": 2.0}]
        self.assertEqual({"a": 2.0, "b": 5.0}, medians(rounds))


class BarTests(SynchronousTestCase):
    bar = Bar("gone", ("first", "second"), 10, "ms")

    def test_the_greatest_figure_is_held_against_the_limit(self) -> None:
        """One figure over the limit is enough to miss, one at the limit passes."""
        within = {"cortexd": {"first": 1.0, "second": 10.0}}
        beyond = {"cortexd": {"first": 10.5, "second": 1.0}}
        self.assertEqual("pass", self.bar.verdict(within))
        self.assertEqual("miss", self.bar.verdict(beyond))

    def test_never_is_a_miss(self) -> None:
        """What did not happen in time misses the bar."""
        self.assertEqual("miss", self.bar.verdict({"cortexd": {"first": inf, "second": 1.0}}))

    def test_a_figure_that_is_missing_is_no_pass(self) -> None:
        """Without cortexd, or one of the figures, the bar says that nothing was measured."""
        self.assertEqual("not measured", self.bar.verdict({"nginx": {"first": 1, "second": 1}}))
        self.assertEqual("not measured", self.bar.verdict({"cortexd": {"first": 1.0}}))

    def test_every_bar_is_shown_in_the_table(self) -> None:
        """No bar rests on a figure that the table does not show."""
        in_table = {name for line in report.LINES for name in line.figures}
        self.assertEqual(set(), {name for bar in BARS for name in bar.figures} - in_table)

    def test_dearer_than_before_is_a_miss(self) -> None:
        """A run beside an earlier state has bars for each cost over that state's."""
        figures = dict.fromkeys((name for bar in BARS_OVER_BEFORE for name in bar.figures), 1.03)
        results = {"cortexd": figures | {"memory.idle_mib_over_before": 1.04}, "before": {}}
        verdicts = [bar.verdict(results) for bar in bars(results)]

        assert ["not measured"] * len(BARS) == verdicts[: len(BARS)]
        assert ["pass"] * 4 + ["miss", "pass"] == verdicts[len(BARS) :]


class ReportTests(SynchronousTestCase):
    def test_figures_are_shown_with_their_decimals(self) -> None:
        """A missing figure is a dash and one that never came is said to be so."""
        shown = [report.shown(value, 1) for value in (None, inf, 2.345)]
        self.assertEqual(["-", "never", "2.3"], shown)

    def test_plain_text_lines_up(self) -> None:
        """Labels stand to the left, figures end in the same column."""
        rows = [["", "nginx"], ["a label", "1"], ["b", "22.5"]]
        self.assertEqual("         nginx\na label      1\nb         22.5", report.plain(rows))

    def test_markdown_is_a_table(self) -> None:
        """The first row is the head; what was indented has a dash."""
        rows = [["bar", "x"], ["  part", "1"]]
        self.assertEqual("| bar | x |\n| --- | ---: |\n| - part | 1 |", report.markdown(rows))

    def test_a_target_without_figures_has_dashes(self) -> None:
        """A cell is one dash where none of its figures was measured."""
        rows = report.table_rows({"direct": {}})
        self.assertEqual({"-"}, {row[1] for row in rows[1:]})

    def test_other_programs_are_told_of(self) -> None:
        """The busiest moment of all targets decides; a quiet machine is not worth a word."""
        busy = {"streams_50.others_busy_percent": 93.4}
        self.assertIn("up to 93 % of a core", report.disturbance({"direct": {}, "nginx": busy}))
        self.assertEqual("", report.disturbance({"direct": {"streams_50.others_busy_percent": 3}}))


class ProcTests(SynchronousTestCase):
    def test_stat_survives_a_name_with_blanks_and_parentheses(self) -> None:
        """The parent and the ticks are found after the last parenthesis."""
        stat = "77 (a ) (b) S 42 77 77 0 -1 4194304 2850 6551 1 0 52 8 3 0 20 0 1 0 69078 16965632"
        self.assertEqual((42, 60), processes.parse_stat(stat))

    def test_schedstat_begins_with_the_time_on_a_cpu(self) -> None:
        """The first field is taken, not the time spent waiting."""
        self.assertEqual(533071450, processes.parse_run_nanoseconds("533071450 434079 39\n"))

    def test_resident_memory_is_in_bytes(self) -> None:
        """The kernel counts in kB of 1024; a process that has ended has no such line."""
        status = "Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    1740 kB\nRssAnon:\t     112 kB\n"
        self.assertEqual(1740 * 1024, processes.parse_resident_bytes(status))
        self.assertEqual(0, processes.parse_resident_bytes("Name:\tx\nState:\tZ (zombie)\n"))

    def test_the_machine_is_busy_with_all_but_idling_and_waiting(self) -> None:
        """Stolen time counts, time idle or waiting for a disk does not, guests are in user time."""
        stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 5 5 5 5 5 5 5 5 5 5\n"
        self.assertEqual(87600321, processes.parse_busy_ticks(stat))

    def test_the_cpu_model_is_read_or_unknown(self) -> None:
        """The name is that of the first CPU; some architectures give none."""
        cpuinfo = "processor\t: 0\nmodel\t\t: 167\nmodel name\t: A CPU: fast\n\nmodel name\t: B\n"
        self.assertEqual("A CPU: fast", processes.parse_cpu_model(cpuinfo))
        self.assertEqual("unknown", processes.parse_cpu_model("processor\t: 0\n"))

    def test_descendants_are_found_at_any_depth(self) -> None:
        """Workers of a master count, and so do their children; strangers do not."""
        parents = {1: 0, 10: 1, 11: 10, 12: 10, 13: 12, 20: 1}
        self.assertEqual([10, 11, 12, 13], processes.descendants(10, parents))


class ResponseScannerTests(SynchronousTestCase):
    @given(st.integers(1, 6), st.lists(st.integers(0, 3000), max_size=8))
    def test_tokens_are_counted_however_the_bytes_are_cut(
        self, chunks: int, cuts: list[int]
    ) -> None:
        """Each chunk is counted once, and the end is seen exactly with the last byte."""
        scanner = ResponseScanner(streaming=True)
        data = pieces(stream_bytes(chunks), cuts)
        tokens = 0
        for piece in filter(None, data):
            self.assertFalse(scanner.ended)
            tokens += scanner.feed(piece)
        self.assertEqual((chunks, True, ""), (tokens, scanner.ended, scanner.failure))

    @given(st.lists(st.integers(0, 1500), max_size=8))
    def test_an_answer_of_known_length_ends_with_its_last_byte(self, cuts: list[int]) -> None:
        """A Content-Length is honoured however the bytes are cut."""
        scanner = ResponseScanner(streaming=False)
        tokens = 0
        for piece in filter(None, pieces(wire.completion(0, 2), cuts)):
            self.assertFalse(scanner.ended)
            tokens += scanner.feed(piece)
        self.assertEqual((2, True, ""), (tokens, scanner.ended, scanner.failure))

    def test_an_error_answer_is_a_failure(self) -> None:
        """A status other than 200 ends the exchange, with its status line and body told."""
        scanner = ResponseScanner(streaming=True)
        scanner.feed(wire.response(b"no such model", status="503 Service Unavailable"))
        self.assertTrue(scanner.ended)
        self.assertEqual("HTTP/1.1 503 Service Unavailable: no such model", scanner.failure)

    def test_a_stream_that_is_cut_is_a_failure(self) -> None:
        """Neither a closed connection nor a clean end stands in for [DONE]."""
        cut, ended = ResponseScanner(streaming=True), ResponseScanner(streaming=True)
        cut.feed(wire.STREAM_HEAD + wire.chunk(0))
        cut.closed()
        ended.feed(wire.STREAM_HEAD + wire.chunk(0) + wire.LAST_CHUNK)
        self.assertEqual("connection closed before the end of the answer", cut.failure)
        self.assertEqual("the stream ended without [DONE]", ended.failure)


class WireTests(SynchronousTestCase):
    def test_a_stream_has_the_shape_of_a_node(self) -> None:
        """A role in every chunk, usage and finish_reason on the last one only, then [DONE]."""
        framed = stream_bytes(3).removeprefix(wire.STREAM_HEAD)
        *events, done = events_in(framed)
        chunks = [json.loads(event) for event in events]
        choices = [chunk["choices"][0] for chunk in chunks]
        self.assertEqual(b"[DONE]", done)
        self.assertEqual(["assistant"] * 3, [choice["delta"]["role"] for choice in choices])
        self.assertEqual([None, None, "length"], [choice["finish_reason"] for choice in choices])
        self.assertEqual([True, True, False], [chunk["usage"] is None for chunk in chunks])
        self.assertEqual(3, chunks[-1]["usage"]["completion_tokens"])

    def test_the_knobs_travel_in_the_body(self) -> None:
        """What a request is rendered with is what the upstream reads from it."""
        knobs = Knobs(id="a", chunks=7, gap_ms=2.5, chunk_bytes=4096)
        request = take_request(bytearray(wire.chat_request(knobs, stream=True)))
        assert request is not None
        self.assertEqual(knobs, Knobs.of_body(json.loads(request.body)))

    def test_the_text_of_a_chunk_has_the_length_asked_for(self) -> None:
        """A chunk of 4096 bytes of text holds that many, and still one word to count."""
        [event] = events_in(wire.chunk(4096))
        content = json.loads(event)["choices"][0]["delta"]["content"]
        self.assertEqual((4096, 1), (len(content), content.count(wire.WORD)))


class TargetTests(SynchronousTestCase):
    def test_without_nginx_the_bench_says_so_and_goes_on(self) -> None:
        """What is not installed is left out with a word of it; the other targets stay."""
        said = io.StringIO()
        self.patch(shutil, "which", lambda *_args, **_kwargs: None)
        self.patch(sys, "stderr", said)
        starters = chosen_starters(parse_arguments([]))
        self.assertEqual(["direct", "cortexd"], list(starters))
        self.assertIn("without nginx: nginx is not installed", said.getvalue())

    def test_a_router_that_is_not_there_is_an_error(self) -> None:
        """A path that was given and holds nothing is a mistake of the caller."""
        options = parse_arguments(["--vllm-router", "no/such/router"])
        self.assertRaises(TargetMissingError, chosen_starters, options)


class TakeRequestTests(SynchronousTestCase):
    def test_requests_are_cut_off_one_by_one(self) -> None:
        """Two requests in one read come out in order and leave nothing."""
        buffer = bytearray(
            b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"
        )
        taken = [take_request(buffer), take_request(buffer)]
        self.assertEqual([Request("GET", "/a", b""), Request("POST", "/b", b"hi")], taken)
        self.assertEqual(b"", buffer)

    def test_a_part_of_a_request_is_left_alone(self) -> None:
        """Until the last byte of the body is there, nothing is taken."""
        whole = wire.chat_request(Knobs(), stream=False)
        for length in range(len(whole)):
            buffer = bytearray(whole[:length])
            self.assertIsNone(take_request(buffer))
            self.assertEqual(whole[:length], buffer)

    def test_what_cannot_be_read_is_refused(self) -> None:
        """A body of unknown length, a broken request line and an endless head are errors."""
        for wrong in (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"x" * 70_000,
        ):
            self.assertRaises(BadRequestError, take_request, bytearray(wrong))


class UpstreamTests(SynchronousTestCase):
    """The upstream and a client over loopback, both on one loop of the test's own."""

    def setUp(self) -> None:
        """Bring up an upstream on a port of its own."""
        self.loop = Loop()
        self.upstream = Upstream(self.loop)
        self.addCleanup(self.loop.close)
        self.addCleanup(self.upstream.close)
        self.tally = Tally()

    def _client(self, knobs: Knobs, *, streaming: bool) -> Client:
        client = Client(
            self.loop,
            ("127.0.0.1", self.upstream.port),
            wire.chat_request(knobs, stream=streaming),
            self.tally,
            streaming=streaming,
        )
        self.addCleanup(client.close)
        client.open()
        return client

    def _comes_true(self, condition: Callable[[], bool]) -> bool:
        """Run the loop until the condition holds, for half a minute at most."""
        return self.loop.run(time.monotonic() + 30, condition)

    def test_answers_come_whole(self) -> None:
        """Streams with and without gaps and plain answers bring all that was asked for."""
        self._client(Knobs(chunks=5, gap_ms=1, first_ms=1, before_headers_ms=1), streaming=True)
        self._client(Knobs(chunks=100), streaming=True)
        self._client(Knobs(chunks=2), streaming=False)
        self.assertTrue(self._comes_true(lambda: self.tally.settled == 3))
        self.assertEqual([], self.tally.failures)
        self.assertEqual((3, 107), (self.tally.answers, self.tally.tokens))

    def test_a_client_that_leaves_is_remembered(self) -> None:
        """The id and the time are kept, and the answer is no longer under way."""
        client = self._client(Knobs(id="left", chunks=2, first_ms=60_000), streaming=True)
        self.assertTrue(self._comes_true(lambda: len(self.upstream.under_way) == 1))
        left_at = client.close()
        self.assertTrue(self._comes_true(lambda: not self.upstream.under_way))
        self.assertEqual(["left"], list(self.upstream.closed))
        self.assertGreaterEqual(self.upstream.closed["left"], left_at)
