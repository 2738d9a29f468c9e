"""The cost of decisions: every event that a daemon has is counted, each kind has its verdict."""

from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.decision_cost import (
    KINDS,
    Budget,
    cost_rows,
    measure,
    misses,
    strict_verdict,
)
from bench.simulator.traces import TRACES, Size
from bench.simulator.world import Run

BUDGET = Budget("zipf", 3, 36, 50)


class DecisionCostTests(SynchronousTestCase):
    def test_what_the_timers_bring_is_counted(self) -> None:
        """Each node is polled at its interval, whether anybody waits or not."""
        run = measure(TRACES["zipf"](Size(nodes=2, models=8, hours=0.1)), runs=2)
        seconds = int(run.ended_at)
        counts = {kind: len(took) for kind, took in run.decision_ns.items()}
        self.assertEqual(set(KINDS.values()), set(counts))
        self.assertEqual(seconds, counts["tick"])
        self.assertEqual(seconds // 10, counts["sweep"])
        self.assertEqual(seconds // 5 + (seconds * 2 - 5) // 10, counts["poll"])
        self.assertEqual(len(run.arrivals), counts["arrive"])

    def test_each_kind_of_event_is_held_against_the_budget(self) -> None:
        """At its 99th percentile: a kind that is rare is not hidden by one that is frequent."""
        run = Run(decision_ns={"arrive": [40_000] * 1000, "sweep": [90_000], "tick": []})
        self.assertEqual({"sweep": 90.0}, misses(BUDGET, run))
        self.assertTrue(strict_verdict(BUDGET, run).endswith("miss: sweep takes 90"))
        run.decision_ns["sweep"] = [50_000]
        self.assertEqual({}, misses(BUDGET, run))
        self.assertTrue(strict_verdict(BUDGET, run).endswith("pass"))

    def test_what_comes_by_the_clock_has_rows_of_its_own(self) -> None:
        """The rows of requests come first with their sum, and the sum of all is last."""
        run = Run(decision_ns={"arrive": [1000], "tick": [3000], "sweep": []})
        rows = [(row[0], row[2]) for row in cost_rows(run)[1:]]
        expected = [("arrive", "1"), ("all of these", "1"), ("tick", "3"), ("all", "2")]
        self.assertEqual(expected, rows)
