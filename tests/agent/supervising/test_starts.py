"""When an engine that has ended is started again."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.starts import (
    FIRST_SECONDS,
    LONGEST_SECONDS,
    SETTLED_SECONDS,
    Starts,
)


class StartsTests(SynchronousTestCase):
    def test_pauses_grow(self) -> None:
        """The first start after a failure comes at once, the further ones later and later."""
        starts = Starts(limit=100, interval=1.0)
        now, pauses = 0.0, []
        for _ in range(9):
            starts.began(now)
            pause = starts.ended(now + 1)
            assert pause is not None
            pauses.append(pause)
            now += 1 + pause

        assert [FIRST_SECONDS, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_SECONDS] == pauses[:8]

    def test_an_engine_that_had_settled_begins_anew(self) -> None:
        """A process that ran for a while did not fail at its start."""
        starts = Starts(limit=100, interval=1.0)
        for now in (0.0, 2.0, 4.0):
            starts.began(now)
            starts.ended(now + 1)
        starts.began(10.0)

        assert FIRST_SECONDS == starts.ended(10.0 + SETTLED_SECONDS)

    def test_too_many_starts_are_given_up(self) -> None:
        """The limit counts the starts within the interval, and an order forgets them."""
        starts = Starts(limit=2, interval=100.0)
        starts.began(0.0)
        assert starts.ended(1.0) is not None
        starts.began(2.0)
        assert starts.ended(3.0) is None

        starts.forget()
        starts.began(4.0)
        assert FIRST_SECONDS == starts.ended(5.0)

    @given(
        limit=st.integers(1, 5),
        interval=st.floats(1.0, 1000.0),
        runs=st.lists(st.floats(0.0, 200.0), min_size=1, max_size=30),
    )
    def test_never_more_starts_than_the_limit(
        self, limit: int, interval: float, runs: list[float]
    ) -> None:
        """In no interval there are more starts than the limit, and each pause is bounded."""
        starts, now, begun = Starts(limit, interval), 0.0, []
        for ran in runs:
            starts.began(now)
            begun.append(now)
            pause = starts.ended(now + ran)
            if pause is None:
                break
            assert 0.0 < pause <= LONGEST_SECONDS
            now += ran + pause
        for index in range(limit, len(begun)):
            assert begun[index] - begun[index - limit] >= interval
