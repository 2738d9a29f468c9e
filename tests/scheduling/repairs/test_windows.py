"""The rules that every planned restart keeps."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.agents import AgentAbilities
from cortexd.scheduling.events import RestartDue
from cortexd.scheduling.repairs.terms import RepairTerms
from tests.scheduling.repairs.worlds import ONE, SIZES, TWO, Repaired, leaking
from tests.support.scheduling import LOADED, in_use


class WindowTests(SynchronousTestCase):
    def test_without_an_agent(self) -> None:
        """A node that nobody can restart is only reported, once."""
        for abilities in (None, AgentAbilities(version="1")):
            repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]})
            if abilities is None:
                repaired.leave("ada")
            else:
                repaired.join("ada", abilities)
            repaired.leak("ada", "b", 4)
            for _ in range(3):
                repaired.idle()

            due = [RestartDue("ada", "unloads did not free 4 MiB")]
            assert due == repaired.world.of_kind(RestartDue)
            assert [] == repaired.planned
            with self.assertRaises(OperationRefused):
                repaired.order("ada")

    def test_not_automatic(self) -> None:
        """Nothing is restarted by itself where the configuration says so."""
        repaired = leaking(repair=RepairTerms(automatic=False))
        repaired.idle()
        assert [] == repaired.planned
        assert 1 == len(repaired.world.of_kind(RestartDue))
        repaired.order("ada")

        assert ["ada"] == repaired.begun

    def test_one_at_a_time(self) -> None:
        """Of two nodes that list the same model, one is restarted after the other."""
        repaired = Repaired(TWO, SIZES, {"ada": ["a", "b"], "bob": ["a", "b"]})
        for node in TWO:
            repaired.leak(node, "b", 4)
        repaired.idle()
        assert ["ada"] == repaired.begun
        repaired.order("bob")
        bob = repaired.on("bob")
        assert bob is not None
        assert "ada lists one of its models and restarts now" == bob.waits_for
        repaired.come_back("ada")
        repaired.world.finish_all()

        assert ["ada", "bob"] == repaired.begun

    def test_two_that_share_nothing(self) -> None:
        """Nodes of different models are restarted at the same time."""
        listings = {"ada": {"a": LOADED}, "bob": {"b": LOADED}}
        repaired = Repaired(TWO, SIZES, {}, listings=listings)
        for node in TWO:
            repaired.order(node)

        assert ["ada", "bob"] == repaired.begun

    def test_budget(self) -> None:
        """A node is restarted so often in an hour, and an operator's restarts count."""
        repaired = leaking(repair=RepairTerms(restart_budget=2))
        for _ in range(2):
            repaired.order("ada")
            repaired.come_back("ada")
            repaired.world.finish_all()
        repaired.leak("ada", "a", 4)
        for _ in range(40):
            repaired.idle()
        assert 2 == len(repaired.begun)
        repaired.order("ada")
        assert 3 == len(repaired.begun)

    def test_a_restart_that_leaks_again(self) -> None:
        """What unloads after a start have left behind is no reason to start once more."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        repaired.come_back("ada")
        while repaired.world.running:
            repaired.world.unload_done("ada", leaked_mb=2)
        assert 4 == repaired.world.fleet.nodes["ada"].leaked_mb
        repaired.idle(4000)

        assert ["ada"] == repaired.begun
        assert None is repaired.world.scheduler.restart_reason(
            repaired.world.fleet.nodes["ada"], repaired.world.now
        )

    def test_no_longer_needed(self) -> None:
        """A restart whose reason has gone is given up before it begins."""
        repaired = leaking()
        repaired.world.end(*in_use(repaired.world, "a"))
        repaired.world.sweep()
        assert "due" == repaired.phase("ada")
        repaired.world.read_system("ada", 20, 12)
        repaired.world.sweep()

        assert "" == repaired.phase("ada")
        assert ["it is no longer needed"] == [each.failure for each in repaired.ended]

    def test_its_agent_leaves(self) -> None:
        """A restart that waits is given up; without an agent, the need is reported once."""
        repaired = leaking()
        lease = in_use(repaired.world, "a")
        repaired.world.sweep()
        assert "due" == repaired.phase("ada")
        repaired.leave("ada")
        repaired.world.end(*lease)
        repaired.idle()

        assert "" == repaired.phase("ada")
        assert ["its agent is not connected any more"] == [each.failure for each in repaired.ended]
        assert [] == repaired.begun
        assert 1 == len(repaired.world.of_kind(RestartDue))

    def test_a_node_that_goes_silent(self) -> None:
        """A restart in an idle window waits while its node does not answer."""
        repaired = leaking()
        lease = in_use(repaired.world, "a")
        repaired.world.sweep()
        repaired.world.end(*lease)
        repaired.go_down("ada")
        repaired.idle(100)

        assert [] == repaired.begun
        restart = repaired.on("ada")
        assert restart is not None
        assert "the node does not answer" == restart.waits_for
