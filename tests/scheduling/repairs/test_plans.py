from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from tests.scheduling.repairs.worlds import SIZES, Repaired
from tests.support.scheduling import in_use


class PlanTests(SynchronousTestCase):
    def test_plan(self) -> None:
        """The plan says what would happen now, and changes nothing."""
        budgets = {"ada": 30, "bob": 20}
        loaded = {"ada": ["a", "b"], "bob": ["b"]}
        repaired = Repaired(budgets, SIZES, loaded, pinned={"ada": ["c"]})
        world = repaired.world
        world.finish_all()
        in_use(world, "a")
        plan = world.scheduler.plan_restart("ada", world.now)
        assert ("ada", "", 1, 0, 4) == (
            plan.node,
            plan.reason,
            plan.leases,
            plan.begun,
            plan.budget,
        )
        assert ("c",) == plan.pins
        assert ("a", "c") == plan.alone
        assert {"a", "b", "c"} == set(plan.models)
        repaired.order("bob")
        assert ("bob",) == world.scheduler.plan_restart("ada", world.now).after
        assert "" == repaired.phase("ada")
        for node in ("bob", "nobody"):
            with self.assertRaises(OperationRefused):
                world.scheduler.plan_restart(node, world.now)
