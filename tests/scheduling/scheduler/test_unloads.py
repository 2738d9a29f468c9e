"""What an operator has unloaded."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.scheduling.events import StartLoad, StartUnload
from tests.support.scheduling import UNLOADED, World, in_use, setup


class UnloadTests(SynchronousTestCase):
    def test_unload(self) -> None:
        """A model is unloaded where it is loaded, once it is idle."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a", "bob": "a"}))
        held = world.submit("a")
        (idle,) = {"ada", "bob"} - {world.leases[held].node}
        world.unload("a")
        assert [f"unload a on {idle}"] == world.started()
        world.end(held)
        assert 2 == len(world.started())
        world.finish_all()

        assert ["unload", "unload"] == [
            each.action for each in world.scheduler.decisions.about("a")
        ]
        assert [] == world.of_kind(StartLoad)

    def test_unload_now(self) -> None:
        """An operator who cannot wait has a model unloaded though requests run on it."""
        world = World(setup({"ada": 10}, {"a": 10}, {"ada": "a"}))
        held = world.submit("a")
        world.unload("a", "ada", now=True)
        (effect,) = world.of_kind(StartUnload)
        assert isinstance(effect, StartUnload)
        assert effect.now
        world.unload_done("ada")
        world.end(held)

        assert UNLOADED is world.state("ada", "a")
        assert 0 == world.replica("ada", "a").leases

    def test_unload_now_after_all(self) -> None:
        """One whose patience with a drain is over may cut it short."""
        world = World(setup({"ada": 10}, {"a": 10}, {"ada": "a"}))
        (held,) = in_use(world, "a")
        world.unload("a")
        assert [] == world.started()
        world.unload("a", now=True)
        (effect,) = world.of_kind(StartUnload)
        assert isinstance(effect, StartUnload)
        assert effect.now
        world.unload_done("ada")
        world.end(held)

        assert UNLOADED is world.state("ada", "a")

    def test_unload_now_of_two(self) -> None:
        """Two models may be unloaded so, one after the other."""
        world = World(setup({"ada": 20}, {"a": 10, "b": 10}, {"ada": "ab"}))
        held = in_use(world, "a", "b")
        world.unload("a", now=True)
        world.unload("b", now=True)
        world.finish_all()
        world.end(*held)

        assert ["unload a on ada", "unload b on ada"] == world.started()

    def test_unload_now_beside_another(self) -> None:
        """Requests on another model that is drained beside it are not cut for that."""
        world = World(setup({"ada": 20}, {"a": 10, "b": 10}, {"ada": "ab"}))
        held = in_use(world, "a", "b")
        world.unload("a")
        world.unload("b")
        error = self.assertRaises(OperationRefused, world.unload, "a", now=True)
        assert "a model is being loaded or unloaded on ada" in str(error)
        assert [] == world.started()
        world.end(*held)
        world.finish_all()

        assert ["unload a on ada", "unload b on ada"] == world.started()

    def test_unload_of_what_is_waited_for(self) -> None:
        """Requests that wait for a model that an operator unloads have it loaded again."""
        world = World(setup({"ada": 10}, {"a": 10}, {"ada": "a"}, capacity=1))
        held, waits = world.submit("a"), world.submit("a")
        world.unload("a")
        world.end(held)
        assert waits in world.waiting
        world.finish_all()

        assert waits in world.leases
