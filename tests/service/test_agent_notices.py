from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.site import REASONS
from cortexd.service.agent_notices import MISTAKES, agent_notices

NOBODY = dict.fromkeys(REASONS, 0)


class NoticesTests(SynchronousTestCase):
    def test_nodes_without_an_agent(self) -> None:
        """Those that are enrolled should have one; where none is, all nodes should."""
        [notice] = agent_notices(["a", "b", "c"], {"a", "b", "gone"}, {"a"}, NOBODY)
        assert notice.startswith("no agent is connected on b: only polls show")
        assert notice.endswith("nothing restarts an engine there")
        [notice] = agent_notices(["a", "b", "c"], (), {"a"}, NOBODY)
        assert notice.startswith("no agent is connected on b, c: ")

    def test_all_is_well(self) -> None:
        """Nothing is said."""
        assert [] == agent_notices(["a", "b"], {"a"}, {"a"}, NOBODY)
        assert [] == agent_notices([], (), (), NOBODY)

    def test_many_nodes(self) -> None:
        """A few are named, and the others counted."""
        [notice] = agent_notices([f"n{number}" for number in range(15)], (), (), NOBODY)
        assert "n9 and 5 more: " in notice

    def test_agents_that_were_refused(self) -> None:
        """Mistakes are counted by their kind; garbage and slow peers are nobody's mistake."""
        assert MISTAKES.keys() <= set(REASONS)
        refused = {**NOBODY, "certificate": 3, "version": 1, "garbage": 1000, "slow": 5}
        assert [
            "agents were refused in the last hour: for a certificate that is not valid (3 times "
            "since the start), for another version (1 time since the start); the log says from "
            "where"
        ] == agent_notices(["a"], (), {"a"}, refused)
