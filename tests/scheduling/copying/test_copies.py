"""When models are evicted for a further copy of a loaded one."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import Priority, Requester
from cortexd.fleet.footprints import LearnedLoad
from cortexd.scheduling.copying.spared import Spared, pays
from tests.support.scheduling import Setup, World, setup

FLOOD = Requester("flood", Priority.BULK)
PERSON = Requester("person", Priority.INTERACTIVE)


def world(seconds: float = 10.0) -> World:
    """Return full nodes ada with model a and bob with b; loads take so many seconds."""
    made = setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": "a", "bob": "b"}, capacity=1)
    learned = {
        (node, model): LearnedLoad(loads=1, mean_seconds=seconds)
        for node in ("ada", "bob")
        for model in "ab"
    }
    return World(Setup(made.nodes, made.listings, made.sizes, made.models, learned=learned))


def pass_seconds(found: World, seconds: int) -> None:
    for _ in range(seconds):
        found.wait(1.0)
        found.sweep()


class SparedTests(SynchronousTestCase):
    def test_constant_demand(self) -> None:
        """A copy spares as long as more requests come than the copies before it have slots for."""
        spared = Spared(0.0)
        for now in range(1, 6001):
            spared.note(5, 4, float(now))
        assert 590 < spared.by_copy(2) < 610
        assert 0.0 == spared.by_copy(3)
        assert pays(spared.by_copy(2), 199, is_loaded=False)
        assert not pays(spared.by_copy(2), 204, is_loaded=False)
        assert pays(spared.by_copy(2), 589, is_loaded=True)

    def test_bounded_steps(self) -> None:
        """A look after a long time does not stand for all of it, and time never goes back."""
        spared = Spared(0.0)
        spared.note(2, 1, 1000.0)
        spared.note(2, 1, 500.0)
        assert 5.0 == spared.by_copy(2)


class WorthTests(SynchronousTestCase):
    def test_once_it_pays(self) -> None:
        """An unused model makes room for a copy once waits are three times its load."""
        fleet = world()
        for _ in range(2):
            fleet.submit("a")
        pass_seconds(fleet, 28)
        assert [] == fleet.started()
        pass_seconds(fleet, 4)
        assert ["unload b on bob"] == fleet.started()
        fleet.finish("bob")
        fleet.finish("bob")
        assert not fleet.waiting

    def test_not_for_what_others_need(self) -> None:
        """A model that is requested all the time stays, however long one request waits."""
        fleet = world()
        for _ in range(2):
            fleet.submit("a")
        for _ in range(40):
            fleet.end(fleet.submit("b"))
            pass_seconds(fleet, 5)
        assert [] == fleet.started()

    def test_classes(self) -> None:
        """A flood of bulk requests gets no copy in place of what interactive requests use."""
        fleet = world()
        fleet.end(fleet.submit("b", by=PERSON))
        for _ in range(20):
            fleet.submit("a", by=FLOOD)
        pass_seconds(fleet, 200)
        assert [] == fleet.started()
