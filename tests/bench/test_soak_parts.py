"""The parts of the soak that decide what it puts a daemon through, and what it says of it."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bench.soak.clients import (
    ANSWERED,
    CUT_SHORT,
    ENDLESS,
    FAVOURED_SECONDS,
    LEFT,
    WITHOUT_A_WORD,
    Ending,
    Popularity,
    ending_of,
)
from bench.soak.fleet import (
    AWAY_SECONDS,
    MEMORY,
    TROUBLES,
    Troubles,
    config_text,
    given_footprints,
    simulated_models,
    simulated_nodes,
)
from bench.soak.outcome import Log, Outcome, read_log, sum_of
from cortexd.config import reading
from cortexd.testing import Entry, Report
from tests.support.network import Network

CONTENT = {"choices": [{"delta": {"content": "one"}}]}
ERROR = {"error": {"message": "no", "type": "server_error", "code": "bad_gateway"}}


def stream(*events: object) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


def line(event: str, level: str = "info", **fields: object) -> str:
    return json.dumps({"event": event, "level": level, **fields})


class FleetTests(SynchronousTestCase):
    def test_a_third_of_the_models_fits(self) -> None:
        """The nodes differ, and all models together take three times what all nodes have."""
        models = simulated_models()
        self.assertEqual(3 * sum(MEMORY.values()), sum(model.size_mb for model in models))
        self.assertEqual(len(MEMORY), len(set(MEMORY.values())))
        self.assertEqual([], [m.id for m in models if not 1 <= m.load_seconds <= 4])

    def test_the_daemon_takes_the_configuration(self) -> None:
        """It names every node, and the footprints of half of the models."""
        ports = {name: 2000 + number for number, name in enumerate(MEMORY)}
        read = reading.parse(config_text(Path("/run/soak"), 8000, 9100, ports), "soak")
        self.assertEqual(MEMORY, {node.name: node.budget_mb for node in read.nodes})
        self.assertEqual(given_footprints(), {model.id: model.vram_mb for model in read.models})
        self.assertEqual(len(simulated_models()), 2 * len(read.models))


class TroublesTests(SynchronousTestCase):
    def test_every_kind_strikes_before_any_strikes_again(self) -> None:
        """The order differs from round to round, and who is away comes back."""
        clock = Clock()
        network, nodes = Network(clock), simulated_nodes(clock)
        for number, node in enumerate(nodes.values()):
            self.successResultOf(Deferred.fromCoroutine(node.listen(network, 9000 + number)))
        troubles = Troubles(network, nodes, random.Random(1))  # noqa: S311 - to be reproducible
        for rounds in (1, 2, 3):
            for _ in TROUBLES:
                troubles.strike()
                clock.advance(1)
            self.assertEqual(dict.fromkeys(TROUBLES, rounds), troubles.counts)
        over = troubles.over()
        clock.advance(max(AWAY_SECONDS))
        self.successResultOf(over)
        self.assertEqual([], [name for name, node in nodes.items() if node.process is None])
        self.assertEqual(6, sum(node.journal.report().restarts for node in nodes.values()))


class PopularityTests(SynchronousTestCase):
    def test_favourites_last_a_while(self) -> None:
        """Who is asked for most stays so for a period, and is another in some later one."""
        popularity = Popularity([f"model-{number}" for number in range(10)], 1)
        firsts = [popularity.choose(period * FAVOURED_SECONDS, 0.0) for period in range(10)]
        lasts = [popularity.choose((period + 0.99) * FAVOURED_SECONDS, 0) for period in range(10)]
        self.assertEqual(firsts, lasts)
        self.assertGreater(len(set(firsts)), 1)

    @given(st.floats(0, 1000), st.floats(0, 1, exclude_max=True))
    def test_any_chance_chooses_a_model(self, at: float, chance: float) -> None:
        """At any time, the first chance and the last one included."""
        self.assertIn(Popularity(["a", "b", "c"], 1).choose(at, chance), ["a", "b", "c"])

    def test_favourites_are_asked_for_most(self) -> None:
        """The second is asked for 1 / 2**1.2 as often as the first, the third 1 / 3**1.2."""
        popularity = Popularity(["a", "b", "c"], 1)
        asked = Counter(popularity.choose(0.0, number / 1000) for number in range(1000))
        first, second, third = (count for _, count in asked.most_common())
        self.assertEqual((0.4, 0.3), (round(second / first, 1), round(third / first, 1)))


class EndingTests(SynchronousTestCase):
    def test_whole_answers(self) -> None:
        """A 200 that ends in good order is an answer, a stream only with its last word."""
        done = stream(CONTENT) + b"data: [DONE]\n\n"
        self.assertEqual(ANSWERED, ending_of(200, b"{}", streams=False, is_whole=True))
        self.assertEqual(ANSWERED, ending_of(200, done, streams=True, is_whole=True))
        self.assertEqual(CUT_SHORT, ending_of(200, b"{}", streams=False, is_whole=False))
        self.assertEqual(CUT_SHORT, ending_of(200, done, streams=True, is_whole=False))

    def test_errors(self) -> None:
        """An error refuses before any content, signs of life are none, and breaks after it."""
        refused, broken = Ending("refused", "bad_gateway"), Ending("broken", "bad_gateway")
        body = json.dumps(ERROR).encode()
        self.assertEqual(refused, ending_of(502, body, streams=False, is_whole=True))
        for is_whole in (True, False):
            waited, began = b": waiting\n\n" + stream(ERROR), stream(CONTENT, ERROR)
            self.assertEqual(refused, ending_of(200, waited, streams=True, is_whole=is_whole))
            self.assertEqual(broken, ending_of(200, began, streams=True, is_whole=is_whole))
        html = ending_of(500, b"<html>", streams=False, is_whole=True)
        self.assertEqual(Ending("refused", "status 500"), html)

    def test_a_stream_that_only_stops(self) -> None:
        """It is broken without a word, however much of it came and however it was closed."""
        for body in (b"", stream(CONTENT), stream(CONTENT) + b"data: [DO"):
            for is_whole in (True, False):
                ending = ending_of(200, body, streams=True, is_whole=is_whole)
                self.assertEqual(WITHOUT_A_WORD, ending)

    @given(st.integers(200, 599), st.binary(), st.booleans(), st.booleans())
    def test_any_answer_has_an_ending(
        self, status: int, body: bytes, streams: bool, is_whole: bool
    ) -> None:
        """Whatever comes is counted as something, and an error never as an answer."""
        ending = ending_of(status, body, streams=streams, is_whole=is_whole)
        self.assertIn(ending.kind, ("answered", "refused", "broken"))
        if status != 200:
            self.assertEqual("refused", ending.kind)


class LogTests(SynchronousTestCase):
    def test_faults(self) -> None:
        """Errors, tracebacks and what the interpreter says are faults; warnings are counted."""
        fine = [line("listening"), line("node_down", "warning"), line("node_down", "warning")]
        wrong = [
            line("poll_crashed", "error"),
            line("Unhandled error in Deferred", "critical"),
            line("reload", traceback="Traceback (most recent call last): ..."),
            "Traceback (most recent call last):",
        ]
        log = read_log([*fine, *wrong], [])
        self.assertEqual(wrong, log.faults)
        self.assertEqual({"node_down": 2}, log.warnings)

    def test_waits_of_the_answered(self) -> None:
        """Who found a replica has waited no time; who was never answered and probes count not."""
        chat = {"route": "/v1/chat/completions"}
        lines = [
            line("request", outcome="200", queued=2.5, **chat),
            line("request", outcome="200", queued=None, **chat),
            line("request", outcome="503", queued=None, **chat),
            line("request", outcome="client_gone", queued=1.0, **chat),
            line("request", outcome="200", queued=None, route="/ready"),
        ]
        self.assertEqual([2.5, 0.0], read_log(lines, []).waits)

    def test_loads_without_memory(self) -> None:
        """Those count of whose models the footprint was configured, or learned by then."""
        reason = 'failed to load model: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")'
        lines = [
            line("load_failed", "warning", model="given", reason=reason),
            line("load_failed", "warning", model="given", reason="damaged"),
            line("load_failed", "warning", model="unread", reason=reason),
            line("loaded", model="unread", footprint_mb=None),
            line("loaded", model="unread", reason="another client of the node has loaded it"),
            line("load_failed", "warning", model="unread", reason=reason),
            line("loaded", model="learned", footprint_mb=4000),
            line("load_failed", "warning", model="learned", reason=reason),
        ]
        self.assertEqual(2, read_log(lines, ["given"]).known_out_of_memory)

    def test_sums_of_metrics(self) -> None:
        """All samples of the metric count, and none of another whose name begins alike."""
        text = '# HELP a_b\na_b{c="1"} 2.0\na_b{c="x y"} 3.0\na_b_created{c="1"} 1.7e+09\n'
        self.assertEqual(5, sum_of(text, "a_b"))


class OutcomeTests(SynchronousTestCase):
    good = Outcome(
        Counter({ANSWERED: 7, LEFT: 1, Ending("refused", "queue_full"): 2}),
        Counter(restart=1),
        Report(requests=9, restarts=1, broken_answers=1, out_of_memory=1),
        leases=0,
        queued=0,
        log=Log(waits=[0.0, 1.0], warnings=Counter(node_down=1)),
        faults=[],
    )

    def test_what_may_happen(self) -> None:
        """Clients that leave, refusals, restarts and what they break are no failure."""
        self.assertEqual([0], list(set(self.good.musts().values())))

    def test_what_must_not_happen(self) -> None:
        """Each of these alone is one, wherever it is seen."""
        good, report = self.good, self.good.report
        entry = Entry(at=0, kind="request")
        unended = "requests without an end"
        for name, bad in (
            ("answers cut by an unload", replace(good, report=replace(report, cut_answers=1))),
            ("overfilled nodes", replace(good, report=replace(report, overfilled=1))),
            (
                "reloads of what was not unloaded",
                replace(good, report=replace(report, wrong_reloads=1)),
            ),
            (unended, replace(good, report=replace(report, unended_requests=(entry,)))),
            (unended, replace(good, leases=1)),
            (unended, replace(good, queued=1)),
            (unended, replace(good, endings=Counter({ENDLESS: 1}))),
            (
                "answers broken without a word",
                replace(good, endings=Counter({WITHOUT_A_WORD: 1})),
            ),
            ("faults in the log", replace(good, faults=["Traceback"])),
            ("faults in the log", replace(good, log=Log(faults=["Traceback"]))),
        ):
            self.assertEqual({name: 1}, {key: n for key, n in bad.musts().items() if n})

    def test_table(self) -> None:
        """It counts endings by kind and reason, and ends with what must be zero."""
        rows = {row[0]: row[1] for row in self.good.rows()}
        self.assertEqual(("10", "7"), (rows["requests"], rows["  answered"]))
        self.assertEqual(("2", "2"), (rows["  refused"], rows["  refused: queue_full"]))
        self.assertEqual("0.00 / 1.00 / 1.00", rows["wait for a replica, s: p50 / p95 / p99"])
        musts = list(self.good.musts())
        self.assertEqual(musts, [row[0] for row in self.good.rows()][-len(musts) :])
