"""Tests of how long leases are expected to go on."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.lease_times import ASSUMED_SECONDS, MOST_MODELS, Lasting, LeaseTimes

DURATIONS = st.lists(st.floats(0.0, 5e3), max_size=60)


def lasting(*seconds: float) -> Lasting:
    """Return what leases of these durations have shown."""
    found = Lasting()
    for each in seconds:
        found.note(each)
    return found


class LastingTests(SynchronousTestCase):
    def test_nothing_is_known(self) -> None:
        """Without any lease, one is assumed to take some seconds."""
        assert ASSUMED_SECONDS == lasting().mean

    def test_a_mean_is_near(self) -> None:
        """The mean of leases that are all alike is within a bucket of it."""
        assert 8.0 <= lasting(*[10.0] * 50).mean <= 12.5

    def test_leases_of_two_kinds(self) -> None:
        """A lease that has outlived the short ones is expected to be a long one."""
        known = lasting(*[1.0] * 90, *[100.0] * 10)

        assert known.mean < 40.0
        assert known.rest(5.0) > 60.0

    def test_one_of_many_ends_soon(self) -> None:
        """The first of many leases ends sooner than any one of them is expected to."""
        known = lasting(*[float(each) for each in range(1, 60)])

        assert known.next_end([0.0] * 16, 1) < known.next_end([0.0] * 16, 8) < known.rest(0.0) * 1.3

    @settings(max_examples=60)
    @given(DURATIONS, st.lists(st.floats(0.0, 6e3), min_size=1, max_size=8), st.floats(0.0, 500.0))
    def test_an_end_never_comes_nearer_than_time(
        self, durations: list[float], ages: list[float], later: float
    ) -> None:
        """While nothing ends, the expected end stays or moves away, and is never over."""
        known = lasting(*durations)
        older = [age + later for age in ages]
        for age in ages:
            assert 0.0 <= known.rest(age) < math.inf
            assert known.rest(age) <= later + known.rest(age + later) + 1e-6 * (1 + age)
        for place in range(1, len(ages) + 1):
            assert 0.0 <= known.next_end(ages, place) < math.inf
            assert 0.0 <= known.next_end(older, place) < math.inf


class LeaseTimesTests(SynchronousTestCase):
    def test_a_new_model_is_like_the_others(self) -> None:
        """A model without leases lasts as long as others did at first."""
        times = LeaseTimes()
        for _ in range(10):
            times.note("a", 100.0)

        assert times.of("b").mean > 50.0

    def test_they_are_bounded(self) -> None:
        """More models than can be remembered take no more memory."""
        times = LeaseTimes()
        for number in range(MOST_MODELS + 5):
            times.note(str(number), 1.0)

        assert times.of("0") is times.of("unknown")
        assert times.of(str(MOST_MODELS)) is not times.of("unknown")
