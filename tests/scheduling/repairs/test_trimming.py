"""Nodes on which more is loaded than they may hold."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.fleet.nodes import NodeTerms
from cortexd.scheduling.events import StartUnload
from cortexd.scheduling.repairs.events import AgentReported, BudgetExceeded
from cortexd.scheduling.repairs.trimming import OVER_SECONDS
from tests.scheduling.repairs.worlds import ONE, SIZES, Repaired
from tests.support.scheduling import LOADED, in_use


def taken(others_mb: int) -> AgentReport:
    """Return a report of 16,000 MiB, of which other programs take some, and models the rest."""
    return AgentReport(
        life=EngineLife.ANSWERS, memory_total_mb=16_000, memory_free_mb=0, others_mb=others_mb
    )


class TrimmerTests(SynchronousTestCase):
    def test_boot(self) -> None:
        """A node that starts with too much loses it before it takes requests, with no agent too."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]}, pinned={"ada": ["b"]})
        repaired.leave("ada")
        in_use(repaired.world, "a")
        repaired.world.end("a-0")
        repaired.world.restart("ada")
        assert ["unload c on ada"] == repaired.world.started()
        early = repaired.world.submit("a")
        assert [early] == repaired.world.waiting
        repaired.world.finish_all()

        assert early in repaired.world.leases
        assert LOADED is repaired.world.state("ada", "b")
        assert "" == repaired.world.fleet.nodes["ada"].closed

    def test_failed_unload(self) -> None:
        """A node that cannot lose more takes requests, and is trimmed later."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.world.restart("ada")
        repaired.world.unload_failed("ada")
        repaired.world.unload_failed("ada")
        repaired.world.unload_failed("ada")
        assert "" == repaired.world.fleet.nodes["ada"].closed
        assert "a-0" in in_use(repaired.world, "a")
        repaired.idle()
        repaired.world.finish_all()

        assert 16 == repaired.world.fleet.nodes["ada"].committed_mb

    def test_pinned(self) -> None:
        """Pinned models stay, even if they are too much."""
        repaired = Repaired(ONE, {"a": 8, "b": 8}, {"ada": ["a"]}, pinned={"ada": "ab"})
        repaired.world.finish_all()
        repaired.world.reconfigure(
            [NodeTerms("ada", "http://ada:1234", 10, pinned=("a", "b"))],
        )
        repaired.world.restart("ada")

        assert "" == repaired.world.fleet.nodes["ada"].closed
        assert "a-0" in in_use(repaired.world, "a")

    def test_goes_down(self) -> None:
        """A node that goes down while it is trimmed is not closed any more."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.world.restart("ada")
        repaired.go_down("ada")
        repaired.world.unload_failed("ada", is_unknown=True)

        assert "" == repaired.world.fleet.nodes["ada"].closed

    def test_spike(self) -> None:
        """What other programs take for a moment costs no model; what they keep does."""
        repaired = Repaired({"ada": 16_000}, {"a": 8_000, "b": 8_000}, {"ada": ["a", "b"]})
        for others_mb, seconds in ((4_000, 1.0), (0, 60.0), (4_000, 1.0)):
            repaired.world.tell(AgentReported("ada", taken(others_mb)))
            repaired.idle(0.0)
            repaired.idle(seconds)
            assert [] == repaired.world.started()
        repaired.idle(OVER_SECONDS)

        assert 1 == len(repaired.world.started())

    def test_said_once(self) -> None:
        """That a node is over its budget is said once each time, before anything is unloaded."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        for _ in range(2):
            repaired.world.effects.clear()
            repaired.world.restart("ada")
            repaired.world.sweep()
            repaired.world.finish_all()
            told = [
                effect
                for effect in repaired.world.effects
                if isinstance(effect, BudgetExceeded | StartUnload)
            ]
            assert BudgetExceeded("ada", 4) == told[0]
            assert 1 == sum(isinstance(effect, BudgetExceeded) for effect in told)
            repaired.world.sweep()
