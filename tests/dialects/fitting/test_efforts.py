from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.efforts import controlled_effort, fitted_effort
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.profile import MISTRALRS, Profile, ReasoningControl


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


class ControlledTests(SynchronousTestCase):
    def test_an_effort_that_an_upstream_lacks(self) -> None:
        """It becomes the nearest one that the upstream has, or goes; both are noted."""
        toggle, others, fixed = (Profile(reasoning_control=each) for each in ReasoningControl)
        cases = [
            (each, effort)
            for each in (toggle, others, fixed)
            for effort in ("minimal", "high", "max", "ultra")
        ]
        found = {}
        for profile, effort in cases:
            approximations = Approximations()
            taken = controlled_effort(effort, profile, approximations)
            found[profile.reasoning_control.value, effort] = (taken, *approximations.words())
        assert {
            ("none", "minimal"): (None, "effort"),
            ("none", "high"): (None, "effort"),
            ("none", "max"): (None, "effort"),
            ("none", "ultra"): (None, "effort"),
            ("toggle", "minimal"): ("low",),
            ("toggle", "high"): ("high",),
            ("toggle", "max"): ("xhigh",),
            ("toggle", "ultra"): (None, "effort"),
            ("effort", "minimal"): ("low", "effort"),
            ("effort", "high"): ("high",),
            ("effort", "max"): ("high", "effort"),
            ("effort", "ultra"): (None, "effort"),
        } == found
