from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.text import LONGEST_SHOWN, one_line, printable


class TextTests(SynchronousTestCase):
    @given(st.text())
    def test_one_line(self, text: str) -> None:
        """Any text becomes one printable line, and one that is that already stays as it is."""
        line = one_line(text)

        assert line.isprintable()
        assert line == one_line(line)
        assert not text.isprintable() or line == text

    def test_a_long_text_is_cut(self) -> None:
        """A long text is cut to the longest that a message shows, and ends in three dots."""
        assert "a" * LONGEST_SHOWN == printable("a" * LONGEST_SHOWN)
        assert "a" * (LONGEST_SHOWN - 3) + "..." == printable("a" * (LONGEST_SHOWN + 1))
