"""Questions of our own: they get an idle node or nothing, and delay no request."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import Overloaded
from cortexd.fleet.states import NodeHealth
from cortexd.scheduling.decisions import PROBED
from tests.support.scheduling import LOADING, UNLOADED, World, setup


def idle() -> World:
    """Return a node that has loaded two of three models, with one slot each."""
    models = dict.fromkeys(("a", "b", "c"), 10)
    return World(setup({"ada": 25, "bob": 25}, models, {"ada": ["a", "b"]}, capacity=1))


class ProbeTests(SynchronousTestCase):
    def test_idle_node(self) -> None:
        """On an idle node a question gets a lease, which is neither demand nor use nor a record."""
        world = idle()
        replica = world.fleet.nodes["ada"].replicas["a"]
        used_at = replica.last_used_at
        world.wait(50)
        name = world.probe("a", "ada")

        assert PROBED == world.grants[name].decision
        assert world.leases[name].is_probe
        world.end(name)
        assert (used_at, 0.0) == (replica.last_used_at, world.fleet.nodes["ada"].last_used_at)
        assert 0.0 == replica.demand.per_second(world.now)
        assert world.scheduler.decisions.request(name) is None

    def test_request_beside_it(self) -> None:
        """A question takes no slot: a request for the same replica waits for nothing."""
        world = idle()
        world.probe("a", "ada")

        assert "ada" == world.leases[world.submit("a")].node
        assert [] == world.waiting
        assert [] == world.started()

    def test_busy_node(self) -> None:
        """A question is rejected while its node runs, loads or awaits anything, and never waits."""
        world = idle()
        running = world.submit("b")
        assert isinstance(world.errors[world.probe("a", "ada")], Overloaded)
        world.end(running)

        world.drift("ada", c=LOADING)
        assert world.probe("a", "ada") in world.errors
        world.drift("ada", c=UNLOADED)
        world.cordon("ada")
        assert world.probe("a", "ada") in world.errors
        world.cordon("ada", cordoned=False)
        assert world.probe("a", "ada") in world.leases

    def test_no_load(self) -> None:
        """A question for a model that is not loaded there is rejected, and loads nothing."""
        world = idle()
        for model, node in (("c", "ada"), ("a", "bob"), ("nowhere", "ada")):
            assert world.probe(model, node) in world.errors, model

        assert [] == world.started()

    def test_eviction_waits_for_one_question(self) -> None:
        """A load that must evict the replica begins when the question ends, before the next."""
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}, {"ada": ["a"]}))
        name = world.probe("a", "ada")
        waiting = world.submit("b")
        assert world.probe("a", "ada") in world.errors
        world.end(name)
        assert world.probe("a", "ada") in world.errors
        world.finish_all()

        assert waiting in world.leases

    def test_lost_node(self) -> None:
        """A node that answers late polls only gets no question."""
        world = idle()
        world.poll_failed("ada")
        world.poll_failed("ada")

        assert NodeHealth.DOWN is world.fleet.nodes["ada"].health
        assert world.probe("a", "ada") in world.errors
