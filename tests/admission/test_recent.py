"""Which peers had a line in the log lately."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.recent import MOST_PEERS, QUIET_SECONDS, Recent


class RecentTests(SynchronousTestCase):
    def test_one_line_a_minute_for_each_peer(self) -> None:
        """A peer has its next line after the quiet time, and another peer at once."""
        recent = Recent()
        times = (0.0, 1.0, QUIET_SECONDS - 0.1, QUIET_SECONDS, QUIET_SECONDS + 1)
        assert [True, False, False, True, False] == [recent.note("a", now) for now in times]
        assert recent.note("b", 1.0)

    def test_the_memory_is_bounded(self) -> None:
        """Of more peers than MOST_PEERS, the oldest is forgotten."""
        recent = Recent()
        for number in range(MOST_PEERS + 1):
            assert recent.note(str(number), 0.0)
        assert recent.note("0", 1.0)
        assert not recent.note(str(MOST_PEERS), 1.0)
