"""When a replica comes that does not answer yet."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import ModelTerms
from cortexd.scheduling.estimating.coming import ASSUMED_RESTART_SECONDS
from cortexd.scheduling.estimating.expectation import Expectation, Phase
from tests.scheduling.powering.test_powers import IDLE, WAKE, Sleepers
from tests.scheduling.repairs.worlds import ONE, SIZES, Repaired
from tests.support.scheduling import World, in_use, one_node, setup


def expect(world: World, model: str, request_id: str | None = None) -> Expectation:
    return world.scheduler.expect(model, request_id, world.now)


class SleepingTests(SynchronousTestCase):
    def test_asleep(self) -> None:
        """A model of a node that sleeps takes as long as the node to wake."""
        sleepers = Sleepers()
        sleepers.fall_asleep()

        expected = expect(sleepers.world, "a")
        assert (Phase.WAKING, WAKE) == (expected.phase, expected.seconds(sleepers.world.now))

    def test_falling_asleep(self) -> None:
        """A node that is about to sleep is woken first."""
        sleepers = Sleepers()
        sleepers.pass_time(IDLE)
        assert "suspending" == sleepers.state

        assert Phase.WAKING is expect(sleepers.world, "a").phase

    def test_waking(self) -> None:
        """A request that wakes a node waits for the rest of what that usually takes."""
        sleepers = Sleepers()
        sleepers.fall_asleep()
        request = sleepers.world.submit("a")
        assert "waking" == sleepers.state
        sleepers.world.wait(10.0)

        expected = expect(sleepers.world, "a", request)
        assert (Phase.WAKING, WAKE - 10.0) == (expected.phase, expected.seconds(sleepers.world.now))


class RestartTests(SynchronousTestCase):
    def test_draining(self) -> None:
        """A restart that waits for a request comes after it, and takes its usual time."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        held = in_use(repaired.world, "a")
        repaired.order("ada")
        assert "draining" == repaired.phase("ada")
        request = repaired.world.submit("a")

        expected = expect(repaired.world, "a", request)
        assert Phase.RESTARTING is expected.phase
        assert expected.seconds(repaired.world.now) >= ASSUMED_RESTART_SECONDS
        repaired.world.end(*held)
        assert Phase.RESTARTING is expect(repaired.world, "a", request).phase

    def test_under_way(self) -> None:
        """A restart that is under way takes the rest of it, and what it unloads after that."""
        repaired = Repaired(ONE, SIZES, {"ada": ["a"]})
        repaired.order("ada")
        request = repaired.world.submit("a")
        repaired.world.wait(ASSUMED_RESTART_SECONDS / 2)
        expected = expect(repaired.world, "a", request)
        assert (Phase.RESTARTING, ASSUMED_RESTART_SECONDS / 2) == (
            expected.phase,
            expected.seconds(repaired.world.now),
        )
        repaired.come_back("ada")

        assert Phase.RESTARTING is expect(repaired.world, "a", request).phase


class RoomTests(SynchronousTestCase):
    def test_one_that_is_in_use(self) -> None:
        """A model whose room is in use comes after the requests there, and its own load."""
        world = one_node(10, "a", a=10, b=10)
        for seconds in (30.0, 30.0):
            held = in_use(world, "a")
            world.wait(seconds)
            world.end(*held)
        in_use(world, "a")
        request = world.submit("b")

        expected = expect(world, "b", request)
        assert Phase.QUEUED is expected.phase
        assert 30.0 < expected.seconds(world.now) < 300.0

    def test_a_swap_that_drains(self) -> None:
        """A swap that waits for a victim takes the rest of its requests, an unload and a load."""
        world = one_node(10, "a", a=10, b=10)
        in_use(world, "a")
        request = world.submit("b")
        world.pass_time(30)
        assert world.scheduler.swaps.on("ada") is not None

        assert Phase.EVICTING is expect(world, "b", request).phase

    def test_others_ahead(self) -> None:
        """A model whose node is busy comes after the others that wait longer for it."""
        world = one_node(10, "a", a=10, b=10, c=10)
        in_use(world, "a")
        first, second = world.submit("b"), world.submit("c")
        world.pass_time(30)

        assert expect(world, "c", second).ends_at > expect(world, "b", first).ends_at

    def test_slots_in_use(self) -> None:
        """A request for a loaded model without a free slot waits for its turn there."""
        models = {"a": ModelTerms(1, max_copies=1)}
        world = World(setup({"ada": 10}, {"a": 10}, {"ada": "a"}, models=models))
        held = in_use(world, "a")
        world.wait(20.0)
        world.end(*held)
        in_use(world, "a")
        first, second = world.submit("a"), world.submit("a")

        expected = [expect(world, "a", request) for request in (first, second)]
        assert [(Phase.QUEUED, 1), (Phase.QUEUED, 2)] == [
            (each.phase, each.place) for each in expected
        ]
        assert world.now < expected[0].ends_at < expected[1].ends_at
