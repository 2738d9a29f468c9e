"""Tests of means that follow what is timed."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.timing import UNTIMED, WINDOW, Timings


class TimingTests(SynchronousTestCase):
    def test_few_times_count_alike(self) -> None:
        """The mean and the deviation of a few times are those of statistics."""
        timing = UNTIMED
        for taken in (2.0, 4.0, 6.0):
            timing = timing.with_time(taken)

        assert (3, 4.0, 2.0) == (timing.count, round(timing.mean, 9), round(timing.deviation, 9))

    def test_old_times_fade(self) -> None:
        """A node that has become slower is known as slow after some dozens of times."""
        timing = UNTIMED
        for taken in [1.0] * 100 + [9.0] * 4 * WINDOW:
            timing = timing.with_time(taken)

        assert timing.mean > 8.5

    @given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40))
    def test_a_mean_lies_among_the_times(self, taken: list[float]) -> None:
        """The mean is between the least and the largest time, and no deviation is negative."""
        timing = UNTIMED
        for each in taken:
            timing = timing.with_time(each)

        assert min(taken) - 1e-3 <= timing.mean <= max(taken) + 1e-3
        assert timing.deviation >= 0.0


class TimingsTests(SynchronousTestCase):
    def test_another_node_stands_in(self) -> None:
        """A node without a time takes as long as the others, and without any as is assumed."""
        timings = Timings()
        assert 7.0 == timings.expected("ada", 7.0)

        timings.learn("bob", 3.0)
        assert 3.0 == timings.expected("ada", 7.0)
