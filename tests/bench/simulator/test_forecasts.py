"""What a policy would load that knew how often each model is asked."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.bounds import least_loads
from bench.simulator.forecasts import goes_on, loads_with_known_rates
from bench.simulator.world import Call


def calls_for(models: str, seconds: float = 1000.0) -> list[Call]:
    """Make a call for each model in turn, each by a client of its own."""
    return [Call(at * seconds, f"c{at}", model, 50) for at, model in enumerate(models)]


class ForecastTests(SynchronousTestCase):
    def test_a_session_goes_on_less_likely_the_longer_it_is_silent(self) -> None:
        """Silence lowers the probability, and more requests before raise it."""
        self.assertGreater(goes_on(10, 1), goes_on(100, 1))
        self.assertGreater(goes_on(100, 3), goes_on(100, 1))
        self.assertTrue(0 < goes_on(10_000, 1) < goes_on(0, 9) < 1)

    def test_the_rarest_model_goes_first(self) -> None:
        """A model that is asked often stays, though another one was asked after it."""
        self.assertEqual(3 + 1, loads_with_known_rates(calls_for("AAABCABA"), 2))

    def test_an_open_session_keeps_its_model(self) -> None:
        """A rare model with requests a moment ago stays, instead of a commoner one that is idle."""
        common = [Call(at * 5000.0, f"c{at}", "A", 50) for at in range(4)]
        burst = [Call(15_100 + at * 30.0, "c", "B", 50) for at in range(4)]
        between = [Call(15_195.0, "d", "C", 50)]
        calls = sorted([*common, *burst, *between], key=lambda call: call.at)
        later = [*calls, Call(15_230.0, "c", "B", 50), Call(90_000.0, "e", "A", 50)]
        self.assertEqual(4, loads_with_known_rates(later, 2))

    @settings(max_examples=40)
    @given(st.text("ABCD", min_size=1, max_size=20), st.integers(1, 3), st.floats(1, 2000))
    def test_it_never_loads_less_than_min(self, models: str, slots: int, seconds: float) -> None:
        """Without foresight no policy needs fewer loads than MIN in the same order."""
        calls = calls_for(models, seconds)
        self.assertGreaterEqual(loads_with_known_rates(calls, slots), least_loads(models, slots))
