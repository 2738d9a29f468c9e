import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.approximations import MAX_UNKNOWN, OTHERS, Approximations


def unknown(names: list[str], within: str = "") -> tuple[str, ...]:
    found = Approximations()
    found.note_unknown(dict.fromkeys(names, 1), frozenset({"known"}), within)
    return found.words()


class ApproximationsTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Words are told once each, in the order in which they were met."""
        found = Approximations()
        assert () == found.words()
        for word in ("effort", "is_error", "effort"):
            found.note(word)
        assert ("effort", "is_error") == found.words()

    def test_unknown_fields(self) -> None:
        """A field that is not known is named by where it is; one that is null says nothing."""
        assert ("novelty", "mood") == unknown(["novelty", "known", "mood"])
        assert ("thinking.mood",) == unknown(["known", "mood"], within="thinking")
        found = Approximations()
        found.note_unknown({"novelty": None, "mood": False}, frozenset())
        assert ("mood",) == found.words()

    def test_unfit_names(self) -> None:
        """A name that could not stand in a header is not told."""
        for name in ("a\r\nX-Evil: 1", "a,b", "", "ß", "x" * 65, "a b"):
            assert (OTHERS,) == unknown([name])

    def test_many_names(self) -> None:
        """Only so many names are told; the rest is one word."""
        names = [f"field_{number}" for number in range(MAX_UNKNOWN)]

        assert tuple(names) == unknown(names)
        assert (*names, OTHERS) == unknown([*names, "one", "two"])
        found = Approximations()
        for _ in range(2):
            found.note_unknown(dict.fromkeys(names, 1), frozenset())
        assert tuple(names) == found.words()

    @settings(max_examples=100)
    @given(st.lists(st.text(), max_size=30))
    def test_any_names(self, names: list[str]) -> None:
        """Whatever a client calls its fields, the words fit into a header."""
        words = ",".join(unknown(names))

        assert re.fullmatch(r"[A-Za-z0-9_.,-]*", words)
        assert len(words) <= 65 * (MAX_UNKNOWN + 1)
