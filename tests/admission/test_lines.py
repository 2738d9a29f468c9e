"""How many lines the log gets of an event that strangers cause."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.lines import BURST, SECONDS_EACH, LineLimit


class LineLimitTests(SynchronousTestCase):
    def test_a_flood(self) -> None:
        """The first lines come, then one now and then, which says how many were left out."""
        limit = LineLimit()
        assert [0] * BURST + [None] * 80 == [limit.admit(1000.0) for _ in range(100)]
        assert 80 == limit.admit(1000.0 + SECONDS_EACH)
        assert limit.admit(1000.0 + SECONDS_EACH) is None

    def test_calm(self) -> None:
        """After a while all lines come again."""
        limit = LineLimit()
        for _ in range(100):
            limit.admit(0.0)
        later = BURST * SECONDS_EACH
        assert [80, *[0] * (BURST - 1), None] == [limit.admit(later) for _ in range(BURST + 1)]
