"""What policies did on traces, and the bars that it is held to."""

from dataclasses import replace
from math import inf

from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.bars import Bar, bars_of_made, bars_of_recorded, table_rows
from bench.simulator.fleets import FleetSpec, ModelSpec, NodeSpec
from bench.simulator.outcomes import Outcome, outcome_of, rows_of, summed
from bench.simulator.world import Run

GOOD = Outcome(1, 100, 0, 13, 10, 4, (0.0,) * 90 + (20.0,) * 10, 5.0)


def names_of_missed(bars: list[Bar]) -> list[str]:
    """Return the figures of the bars that are missed."""
    return [bar.figure for bar in bars if not bar.passes]


class OutcomeTests(SynchronousTestCase):
    def test_a_run_is_set_in_relation_to_its_bounds(self) -> None:
        """Loads are counted beside MIN's for the same arrivals, and beside first loads."""
        models = {name: ModelSpec(name, 1, 20.0, ("n0",)) for name in "ABC"}
        fleet = FleetSpec({"n0": NodeSpec("n0", 2)}, models)
        run = Run(loads=5, answered=5, waits=[("A", 1.0), ("B", 3.0)])
        run.arrivals = [(float(at), model) for at, model in enumerate("ABCAB")]
        found = outcome_of(run, fleet)
        self.assertEqual((5, 4, 3), (found.loads, found.least, found.first))
        self.assertEqual((1.25, 2.0), (found.over_least, found.over_least_avoidable))
        self.assertEqual(1.0, found.unfair)

    def test_outcomes_add_up(self) -> None:
        """Several traces together have the sums, all waits, and the mean unfairness."""
        other = replace(GOOD, loads=7, least=7, first=7, waits=(50.0,), unfair=1.0)
        self.assertEqual(inf, other.over_least_avoidable)
        both = summed([GOOD, other])
        self.assertEqual(
            (2, 200, 20, 17, 11), (both.traces, both.answered, both.loads, both.least, both.first)
        )
        self.assertEqual((50.0, 3.0), (both.wait(1), both.unfair))

    def test_a_row_shows_the_ratios(self) -> None:
        """The loads over MIN and over LRU stand in the row, and "-" where LRU was not run."""
        rows = rows_of("t", {"mine": GOOD, "lru": replace(GOOD, loads=26)}, "lru")
        self.assertEqual(["0.130", "1.30", "0.50", "1.50"], rows[0][5:9])
        self.assertEqual("-", rows_of("t", {"mine": GOOD}, "lru")[0][7])


class BarTests(SynchronousTestCase):
    def test_a_recorded_trace_has_bars_of_loads_and_of_waits(self) -> None:
        """Each figure that is worse than its bar is missed, and no other."""
        plain = replace(GOOD, loads=20)
        missed = [
            names_of_missed(bars_of_recorded("t", limit, ours, GOOD, plain))
            for limit, ours in (
                (1.30, GOOD),
                (1.25, GOOD),
                (2.00, replace(GOOD, loads=18)),
                (1.30, replace(GOOD, waits=(*GOOD.waits, 21.0), unfair=6.0)),
                (1.30, replace(GOOD, unanswered=1)),
            )
        ]
        self.assertEqual([], missed[0])
        self.assertEqual(["loads over MIN"], missed[1])
        self.assertEqual(["loads over LRU"], missed[2])
        self.assertEqual(["longest wait s", "unfairness s"], missed[3])
        self.assertEqual(["unanswered"], missed[4])

    def test_a_made_trace_is_held_to_the_strategy_lru(self) -> None:
        """Loads per answer may not be more, however few answers there are."""
        self.assertEqual([], names_of_missed(bars_of_made("t", GOOD, GOOD)))
        fewer = replace(GOOD, answered=90)
        self.assertEqual(["loads per answer"], names_of_missed(bars_of_made("t", fewer, GOOD)))
        rows = table_rows(bars_of_made("t", fewer, GOOD))
        self.assertEqual(["t", "loads per answer", "0.144", "0.130", "MISS"], rows[1])
