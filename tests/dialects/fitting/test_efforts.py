from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.efforts import fitted_effort
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.profile import MISTRALRS, Profile


def fitted(effort: str, *known: str) -> tuple[str | None, bool]:
    """Return the effort for a template that knows others, and whether the change is noted."""
    approximations = Approximations()
    found = fitted_effort(effort, Profile(efforts=known), approximations)
    return found, approximations.words() == ("effort",)


class EffortTests(SynchronousTestCase):
    def test_templates_of_which_nothing_is_known(self) -> None:
        """They get what the client asked for, by a word that nodes accept, without a note."""
        approximations = Approximations()
        for effort, expected in (
            ("minimal", "low"),
            ("high", "high"),
            ("max", "xhigh"),
            ("none", "none"),
        ):
            assert expected == fitted_effort(effort, MISTRALRS, approximations)
        assert () == approximations.words()

    def test_nearest(self) -> None:
        """A level that the template lacks is the nearest that it has, the higher one of two."""
        assert ("low", False) == fitted("low", "low", "medium")
        assert ("medium", True) == fitted("high", "low", "medium")
        assert ("xhigh", True) == fitted("high", "medium", "xhigh")
        assert ("max", True) == fitted("xhigh", "high", "max")
        assert ("high", True) == fitted("minimal", "high", "max")
        assert ("low", True) == fitted("none", "medium", "low")

    def test_words_for_the_same(self) -> None:
        """A level that nodes have by another name is no change."""
        assert ("low", False) == fitted("minimal", "low", "high")
        assert ("xhigh", False) == fitted("max", "low", "xhigh")

    def test_templates_without_efforts(self) -> None:
        """They get none."""
        assert (None, True) == fitted("high")
