"""cortexd's scheduler when it is told the requests of a trace."""

from math import exp

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.cortex import SWEEP_SECONDS, CortexPolicy
from bench.simulator.hindsight import AROUND_SECONDS, NextUse, RateAround, loads_knowing
from bench.simulator.traces import TRACES, Size
from bench.simulator.world import play

SECONDS = st.floats(0, 10_000)


class HindsightTests(SynchronousTestCase):
    @settings(max_examples=40)
    @given(st.lists(SECONDS, max_size=12), SECONDS)
    def test_the_rate_counts_requests_on_both_sides(self, times: list[float], now: float) -> None:
        """Each request counts by how far it is from now, in the past or in the future."""
        expected = sum(exp(-abs(at - now) / AROUND_SECONDS) for at in times)
        self.assertAlmostEqual(expected, RateAround(sorted(times)).at(now))

    def test_the_sooner_the_next_request_the_hotter(self) -> None:
        """Past requests do not count, and a model without a next request is cold."""
        heat = NextUse([100.0, 500.0])
        self.assertGreater(heat.at(90.0), heat.at(10.0))
        self.assertGreater(heat.at(90.0), heat.at(110.0))
        self.assertEqual(0.0, heat.at(500.0))
        self.assertEqual(0.0, NextUse([]).at(0.0))

    def test_knowledge_saves_loads(self) -> None:
        """Who is told the next requests loads less than who guesses, and never less than once."""
        trace = TRACES["zipf"](Size(hours=1))
        guessed = play(trace, CortexPolicy(trace.fleet), idle_tick_seconds=SWEEP_SECONDS)
        told = loads_knowing(trace, NextUse)
        asked = len({model for _, model in guessed.arrivals})
        self.assertTrue(asked <= told < guessed.loads, f"{asked}, {told}, {guessed.loads}")
        self.assertLess(told, loads_knowing(trace, RateAround))
