"""How processes end, in words."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.words import hint_of, how_ended, span


class WordsTests(SynchronousTestCase):
    def test_ends(self) -> None:
        """A signal has its name, and a status its number."""
        assert "was ended by SIGKILL" == how_ended(None, 9)
        assert "was ended by signal 99" == how_ended(None, 99)
        assert "ended with status 0" == how_ended(0, None)
        assert "ended" == how_ended(None, None)
        assert ("memory" in hint_of(9), hint_of(15)) == (True, "")

    def test_spans(self) -> None:
        """Only short times have a fraction."""
        assert ("0.2 s", "12 s") == (span(0.21), span(12.4))
