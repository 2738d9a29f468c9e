"""What ``cortexctl why`` says of a request that waits for a planned restart."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.answers import explain
from tests.scheduling.repairs.worlds import SIZES, TWO, Repaired


class WaitingRequestTests(SynchronousTestCase):
    def test_restart(self) -> None:
        """A request whose node is closed shows the decision to restart the engine, with why."""
        repaired = Repaired(TWO, SIZES, {"ada": ["a"], "bob": ["b"]})
        world = repaired.world
        world.cordon("bob")
        repaired.order("ada")
        waiting = [world.submit("a"), world.submit("a", only=["ada"])]

        for request in waiting:
            explained = explain(world.scheduler, request, world.now)
            assert explained is not None
            assert [("restart", "ada", "the operator requested it")] == [
                (each.action, each.node, each.reason) for each in explained.decisions
            ]
        assert None is world.scheduler.restarts.awaited_by("a", ["bob"])
