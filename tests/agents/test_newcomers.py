"""Which connection makes room for a new one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.newcomers import Newcomers


class NewcomersTests(SynchronousTestCase):
    def test_the_oldest_of_a_peer(self) -> None:
        """A peer with a fourth of all connections loses its own oldest one."""
        newcomers: Newcomers[int] = Newcomers(8)

        assert [None, None, 1, 2] == [newcomers.enter(number, "x") for number in (1, 2, 3, 4)]
        assert newcomers.enter(5, "y") is None
        assert [3, 4, 5] == list(newcomers)

    def test_the_oldest_of_all(self) -> None:
        """Where many peers fill the listener, the oldest connection makes room."""
        newcomers: Newcomers[int] = Newcomers(8)
        made = [newcomers.enter(number, str(number)) for number in range(10)]

        assert [None] * 8 + [0, 1] == made

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 9), st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
    def test_the_limits_hold(self, most: int, course: list[tuple[bool, int]]) -> None:
        """There are never more connections than may be, and a new one always gets in."""
        newcomers: Newcomers[int] = Newcomers(most)
        waiting: dict[int, int] = {}
        for number, (comes, peer) in enumerate(course):
            if comes:
                leaving = newcomers.enter(number, str(peer))
                waiting[number] = peer
                if leaving is not None:
                    del waiting[leaving]
            elif waiting:
                gone = next(iter(waiting))
                assert newcomers.leave(gone)
                assert not newcomers.leave(gone)
                del waiting[gone]
            assert list(waiting) == list(newcomers)
            assert len(newcomers) <= max(1, most)
            for each in set(waiting.values()):
                assert list(waiting.values()).count(each) <= max(1, most // 4)
