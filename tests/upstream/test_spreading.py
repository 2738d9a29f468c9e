"""When each node of a fleet is polled within one round."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.upstream.spreading import AT_ONCE, FIRST_GAP_SECONDS, spread


class SpreadTests(SynchronousTestCase):
    def test_a_small_fleet_is_polled_at_once(self) -> None:
        """In the first round and in every other."""
        for is_first in (True, False):
            assert [(0.0, list("abc"))] == spread("abc", 5.0, is_first=is_first)
        assert [] == spread([], 5.0, is_first=True)

    @given(st.integers(1, 3000), st.floats(0.5, 600), st.booleans())
    def test_every_node_has_one_poll_within_the_interval(
        self, count: int, interval: float, is_first: bool
    ) -> None:
        """Few at once and in order; evenly over the interval, or in the first round soon."""
        batches = spread(range(count), interval, is_first=is_first)
        delays = [delay for delay, _ in batches]

        assert list(range(count)) == [node for _, batch in batches for node in batch]
        assert all(len(batch) <= AT_ONCE for _, batch in batches)
        assert 0.0 == delays[0] <= delays[-1] < interval
        gaps = {round(after - before, 6) for before, after in pairwise(delays)}
        even = interval / len(batches)
        gap = min(even, FIRST_GAP_SECONDS) if is_first else even
        assert all(abs(each - gap) < 1e-5 for each in gaps)
