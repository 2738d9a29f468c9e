"""Which copies stay loaded, and which go first."""

import pytest
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.nodes import ModelTerms
from cortexd.scheduling.copying.keeping import is_spare
from tests.scheduling.repairs.worlds import Repaired
from tests.support.scheduling import World, in_use, setup

BUDGETS = {"ada": 20, "bob": 20}
SIZES = {"a": 10, "b": 10, "c": 10}


def world(loaded: dict[str, str], least: int = 0, most: int = 0, ttl: float = 0.0) -> World:
    """Return two nodes for two models each, with these loaded, and terms for copies of ``a``."""
    models = {"a": ModelTerms(2, ttl=ttl, min_copies=least, max_copies=most)}
    return World(setup(BUDGETS, SIZES, loaded, models=models))


class MissingTests(SynchronousTestCase):
    def test_loaded_at_boot(self) -> None:
        """Copies that are missing are loaded, each on a node of its own, and no more of them."""
        fleet = world({}, least=2)
        for _ in range(3):
            fleet.sweep()
            fleet.finish_all()

        assert ["load a on ada", "load a on bob"] == sorted(fleet.started())

    def test_makes_room(self) -> None:
        """A copy that is missing makes room as a request does, and then nothing more happens."""
        fleet = world({"ada": "bc", "bob": "bc"}, least=1)
        fleet.sweep()
        fleet.finish_all()
        fleet.sweep()

        assert "load a on ada" in fleet.started()
        assert 2 == len(fleet.started())

    def test_a_node_that_is_lost(self) -> None:
        """A copy that goes with its node is loaded on another one."""
        fleet = world({"ada": "a"}, least=1)
        fleet.sweep()
        assert [] == fleet.started()
        for _ in range(3):
            fleet.poll_failed("ada")
        fleet.sweep()

        assert ["load a on bob"] == fleet.started()

    def test_a_node_that_is_restarted(self) -> None:
        """A copy that comes back with its node after a restart is not loaded elsewhere."""
        models = {"a": ModelTerms(2, min_copies=1)}
        repaired = Repaired({"ada": 20, "bob": 20}, SIZES, {"ada": "a"}, models=models)
        in_use(repaired.world, "a")
        repaired.order("ada")
        repaired.world.sweep()

        assert "draining" == repaired.phase("ada")
        assert [] == repaired.world.started()


class KeptTests(SynchronousTestCase):
    def test_makes_no_room(self) -> None:
        """A copy that is needed stays, though it is the one that nobody requests."""
        fleet = world({"ada": "ab", "bob": "bc"}, least=1)
        fleet.end(*in_use(fleet, "b", "c"))
        fleet.pin("c", "ada")
        fleet.finish_all()

        assert "unload b on ada" in fleet.started()
        assert "unload a on ada" not in fleet.started()

    def test_has_no_ttl(self) -> None:
        """A copy that is needed stays however long it is idle; one more than that goes."""
        fleet = world({"ada": "a", "bob": "a"}, least=1, ttl=60.0)
        for _ in range(3):
            fleet.wait(100)
            fleet.sweep()
            fleet.finish_all()

        assert 1 == len(fleet.started())

    def test_unload(self) -> None:
        """An operator's unload of a copy that is needed is refused in words."""
        fleet = world({"ada": "a", "bob": "a"}, least=1)
        with pytest.raises(OperationRefused, match="min_copies of model 'a' keeps 1"):
            fleet.unload("a")
        fleet.unload("a", "ada")

        assert ["unload a on ada"] == fleet.started()

    def test_load_beyond_the_most(self) -> None:
        """An operator's load of one copy too many is refused in words."""
        fleet = world({"ada": "a"}, most=1)
        with pytest.raises(OperationRefused, match="max_copies of model 'a' is 1"):
            fleet.load("a", "bob")


class SpareTests(SynchronousTestCase):
    def test_goes_first(self) -> None:
        """A copy that does not pay makes room before a model that is loaded once."""
        fleet = world({"ada": "ab", "bob": "a"})
        for _ in range(5):
            fleet.wait(1)
            fleet.end(*in_use(fleet, "a"))
        fleet.pin("c", "ada")

        assert ["unload a on ada"] == fleet.started()

    def test_only_one_of_two(self) -> None:
        """The last copy is never spare, nor one whose other is not there any more."""
        fleet = world({"ada": "a", "bob": "a"})
        both = list(fleet.fleet.replicas("a"))
        assert [True, True] == [is_spare(fleet.fleet, each) for each in both]
        for _ in range(3):
            fleet.poll_failed("bob")

        assert not is_spare(fleet.fleet, both[0])

    def test_wanted(self) -> None:
        """Copies that spare as much waiting as their loads take are not spare."""
        fleet = world({"ada": "a", "bob": "a"})
        held = [request for _ in range(2) for request in in_use(fleet, "a", "a")]
        for _ in range(60):
            fleet.wait(1)
            fleet.sweep()
        assert not any(is_spare(fleet.fleet, each) for each in fleet.fleet.replicas("a"))
        fleet.end(*held)
        for _ in range(300):
            fleet.wait(10)
            fleet.sweep()

        assert all(is_spare(fleet.fleet, each) for each in fleet.fleet.replicas("a"))

    def test_where_it_is_forbidden(self) -> None:
        """A copy on a node without the model's labels gets no requests, and goes first."""
        models = {"a": ModelTerms(2, min_copies=1, only_on=("quiet",))}
        fleet = World(setup(BUDGETS, SIZES, {"ada": "ab"}, models=models))
        fleet.sweep()
        assert [] == fleet.started()
        fleet.pin("c", "ada")

        assert ["unload a on ada"] == fleet.started()
