"""The text of /proc/PID/stat."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.kernel import Stat, read_stat


class StatTests(SynchronousTestCase):
    @given(
        name=st.binary(max_size=15),
        state=st.sampled_from("RSDTt"),
        session=st.integers(0, 2**22),
        ticks=st.integers(0, 2**40),
    )
    def test_any_name(self, name: bytes, state: str, session: int, ticks: int) -> None:
        """A program may have any name, with blanks and parentheses too."""
        middle = " ".join(["0"] * 15)
        fields = f"{state} 1 2 {session} {middle} {ticks} 0 0".encode()
        assert Stat(session, ticks) == read_stat(b"42 (" + name + b") " + fields)

    def test_a_process_that_has_ended(self) -> None:
        """It waits for its parent, and counts as gone."""
        assert read_stat(b"42 (a b) Z 1 42 42 0") is None

    @given(st.binary(max_size=60))
    def test_any_text(self, text: bytes) -> None:
        """Other texts are errors that a caller expects."""
        try:
            read_stat(text)
        except (ValueError, IndexError):
            return
