from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import AbilitiesSummary
from cortexd.ctl.abilities import abilities_text, ability_notes
from cortexd.dialects.probing.learned import EFFORTS, Learned
from cortexd.dialects.wire.profile import MidSystem, ToolIdFormat

KIND = Learned(system_role=True, mid_system=MidSystem.PASS, alternate=False, efforts=EFFORTS)
STRICT = Learned(
    alternate=True, tool_id_format=ToolIdFormat.MISTRAL9, efforts=("low", "xhigh"), vision=False
)
UNKNOWN = AbilitiesSummary(node="a", state="unknown")


def known(node: str, learned: Learned) -> AbilitiesSummary:
    return AbilitiesSummary(node=node, state="known", words=learned.words())


class AbilitiesTests(SynchronousTestCase):
    def test_notes(self) -> None:
        """A few words say what a template cannot do; nodes that differ are shown one by one."""
        strict = "strict turns, ids of 9, no pictures, efforts low xhigh"

        assert "-" == ability_notes([known("a", KIND), AbilitiesSummary(node="b", state="unknown")])
        assert strict == ability_notes([known("a", STRICT), known("b", STRICT)])
        assert f"a: -; b: {strict}" == ability_notes([known("a", KIND), known("b", STRICT)])
        assert (
            "?" == ability_notes([]) == ability_notes([AbilitiesSummary(node="a", state="wanted")])
        )

    def test_whole(self) -> None:
        """Each ability has a line, and a failed probe its reason, whatever bytes a node sent."""
        text = abilities_text(known("a", STRICT))
        assert "a:\n" == text[:3]
        assert "  efforts            low xhigh\n" in text
        assert "  tools              unknown\n" in text

        failed = AbilitiesSummary(node="a", state="failed", reason="no\x1b answer")
        assert "\x1b" not in abilities_text(failed)
        assert "a:\n  nothing is known\n" == abilities_text(
            AbilitiesSummary(node="a", state="unknown")
        )
