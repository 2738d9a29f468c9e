"""Tests of the demand for a model, as texts of the state's file."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.demand import PastDemand
from cortexd.fleet.heat.heat import HeatRecord
from cortexd.store.demands import past_of, texts_of

HEAT = HeatRecord(1_790_000_000.5, 2.0, 3.0, 1.0, 1.5, 7)
TIMES = (1_789_999_999.0, 1_790_000_000.5)
damaged = st.one_of(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=7),
        max_leaves=8,
    ).map(lambda value: repr(value).replace("nan", "NaN").replace("inf", "Infinity")),
)


class DemandsTests(SynchronousTestCase):
    def test_both_texts(self) -> None:
        """What was stored is read again, with and without the heat."""
        for past in (PastDemand(TIMES, HEAT), PastDemand(TIMES)):
            assert past == past_of(*texts_of(past))

    def test_damaged_heat(self) -> None:
        """A heat that cannot be is none: the times make one."""
        _, sound = texts_of(PastDemand(TIMES, HEAT))
        assert sound is not None
        for text in (
            "",
            "{}",
            sound[:-5],
            sound.replace("2.0", "-2.0"),
            sound.replace("2.0", "1e300"),
            sound.replace("2.0", "NaN"),
            sound.replace(" 7", " 7.5"),
            sound.replace(" 7", " -1"),
            sound.replace(" 7", " true"),
            sound.replace("3.0, ", ""),
        ):
            assert PastDemand(TIMES) == past_of("[1789999999.0, 1790000000.5]", text), text

    def test_damaged_times(self) -> None:
        """Without the times of its requests a model starts cold."""
        _, heat = texts_of(PastDemand(TIMES, HEAT))
        for text in ("", "[", "7", '["never"]', "[Infinity]"):
            assert PastDemand() == past_of(text, heat), text

    @given(damaged, damaged)
    def test_any_texts(self, times: str, heat: str) -> None:
        """Whatever the texts are, what is read of them can be stored and read again."""
        past = past_of(times, heat)

        assert past == past_of(*texts_of(past))
