"""Nodes that restart or go away during loads and unloads, and what loads teach."""

from collections.abc import Mapping
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import Overloaded
from cortexd.fleet.footprints import LearnedLoad
from cortexd.scheduling.events import Abandon, Learned
from tests.support.scheduling import LOADED, SILENT, UNLOADED, World, in_use, one_node, setup


class RestartTests(SynchronousTestCase):
    def test_during_a_load(self) -> None:
        """A load whose node restarts is abandoned, once, and its end is waited for."""
        world = one_node(10, "", a=10)
        request = world.submit("a")
        world.restart("ada", UNLOADED)
        world.restart("ada", UNLOADED)
        assert [Abandon("ada", "a")] == world.of_kind(Abandon)
        assert ["load a on ada"] == world.started()
        assert [request] == world.waiting
        world.load_failed("ada", "node ada went down in the meantime")

        assert request in world.errors

    def test_during_a_load_and_comes_with_it(self) -> None:
        """A node that loads all its models as it starts serves those who waited for a load."""
        world = one_node(10, "", a=10)
        request = world.submit("a")
        world.restart("ada", LOADED)
        world.load_failed("ada", "node ada went down in the meantime", listed=LOADED)

        assert request in world.leases
        assert 0 == world.replica("ada", "a").failures
        assert "load" == world.scheduler.decisions.about("a")[0].action

    def test_again_and_again_during_a_load(self) -> None:
        """A model whose load ends its node's process is tried less and less often."""
        for is_quick in (False, True):
            world = one_node(10, "", a=10)
            for pause in (5, 10, 20, 40, 80, 160, 300, 300):
                world.submit("a")
                if is_quick:
                    world.restart("ada", UNLOADED)
                    world.load_failed("ada", "node ada went down in the meantime")
                else:
                    world.load_failed("ada", "connection refused", unreachable=True, begun=True)
                    world.restart("ada", UNLOADED)
                error = world.errors[world.submit("a")]
                assert pause == error.retry_after
                assert "node ada: " in error.message
                world.wait(pause)
            world.restart("ada", UNLOADED)

            assert world.submit("a") in world.waiting

    def test_away_before_or_during_a_load(self) -> None:
        """A process that is the same, or that ended before its load, is asked again at once."""
        for begun in (False, True):
            world = one_node(10, "", a=10)
            world.submit("a")
            world.load_failed("ada", "connection refused", unreachable=True, begun=begun)
            if begun:
                world.poll("ada")
            else:
                world.restart("ada", UNLOADED)

            assert ["load a on ada"] * 2 == world.started()
            assert 0 == world.replica("ada", "a").failures

    def test_down_during_a_load(self) -> None:
        """A load whose node goes down is abandoned, and another node loads the model."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}))
        request = world.submit("a")
        for _ in range(2):
            world.poll_failed("ada")
        assert [Abandon("ada", "a")] == world.of_kind(Abandon)
        world.load_failed("ada", "node ada went down in the meantime")
        world.load_done("bob")

        assert "bob" == world.leases[request].node

    def test_silent_during_a_load(self) -> None:
        """A node that is silent while it loads is busy, and its load is not abandoned."""
        world = one_node(10, "", a=10)
        request = world.submit("a")
        for _ in range(9):
            world.poll_failed("ada", SILENT)
        assert [] == world.of_kind(Abandon)
        world.load_done("ada")

        assert request in world.leases

    def test_during_an_unload(self) -> None:
        """After a restart in the middle of an unload the node is taken as it is."""
        world = one_node(20, "ab", a=10, b=10, c=20)
        world.submit("c")
        world.created["ada"] += 1
        world.drift("ada", b=LOADED)
        assert [Abandon("ada", "a")] == world.of_kind(Abandon)
        world.unload_failed("ada", "node ada went down in the meantime")
        world.finish_all()

        assert "c-0" in world.leases

    def test_an_unload_of_which_nothing_is_known(self) -> None:
        """The model may be gone: no request goes there, and no load, before the next poll."""
        world = one_node(20, "ab", a=10, b=10, c=20)
        world.submit("c")
        before = world.started()
        world.unload_failed("ada", "no answer", listed=UNLOADED, is_unknown=True)
        world.submit("a")
        assert "a-0" not in world.leases
        assert before == world.started()

        world.poll("ada")
        world.finish_all()
        assert "a-0" in world.leases

    def test_during_a_drain(self) -> None:
        """After a restart in the middle of a drain, what is wanted may have come by itself."""
        world = one_node(10, "a", a=10, b=10)
        held = in_use(world, "a")
        world.submit("b")
        world.pass_time(30)
        world.created["ada"] += 1
        world.drift("ada", a=UNLOADED, b=LOADED)
        assert [] == world.started()
        assert "b-0" in world.leases
        world.end(*held)

    def test_down_during_a_drain(self) -> None:
        """A drain on a node that goes down ends, and those who waited are answered."""
        world = one_node(10, "a", a=10, b=10)
        in_use(world, "a")
        world.submit("b")
        world.pass_time(30)
        for _ in range(2):
            world.poll_failed("ada")

        assert Overloaded is type(world.errors["b-0"])
        assert LOADED is world.state("ada", "a")
        assert [] == world.of_kind(Abandon)


class LearningTests(SynchronousTestCase):
    def test_larger_than_thought(self) -> None:
        """What a load elsewhere has shown of a resident model counts before the next load."""
        sizes: Mapping[str, int | None] = {"a": None, "b": 10}
        world = World(setup({"ada": 20, "bob": 20}, sizes, {"ada": "a"}, capacity=1))
        world.read_system("ada", 20, 15)
        assert 5 == world.fleet.nodes["ada"].committed_mb
        world.cordon("ada")
        world.submit("a")
        world.load_done("bob", footprint_mb=12)
        assert 1 == len(world.of_kind(Learned))
        world.cordon("bob")
        world.cordon("ada", cordoned=False)
        world.submit("b")

        assert ["load a on bob", "unload a on ada"] == world.started()

    def test_another_size_elsewhere(self) -> None:
        """A model that another node holds larger than this node is can still be loaded here."""
        learned = {("big", "a"): LearnedLoad(1, 30.0, 0.0, 1, 5.0)}
        nodes = setup({"big": 40, "small": 16}, {"a": None, "b": 5}, {"small": "b"})
        world = World(replace(nodes, learned=learned))
        world.cordon("big")
        request = world.submit("a")
        world.load_done("small", footprint_mb=8)

        assert ["load a on small"] == world.started()
        assert request in world.leases
        assert 13 == world.fleet.nodes["small"].committed_mb

    def test_another_size_elsewhere_and_found_here(self) -> None:
        """Found loaded here, it is taken to fit here, and to come back once it was given up."""
        learned = {("big", "a"): LearnedLoad(1, 30.0, 0.0, 1, 5.0)}
        nodes = setup({"big": 40, "small": 16}, {"a": None, "b": 10}, {"small": "a"})
        world = World(replace(nodes, learned=learned))
        world.cordon("big")
        assert 0 == world.fleet.nodes["small"].free_mb
        other = world.submit("b")
        world.finish_all()
        world.end(other)
        world.submit("a")
        world.finish_all()

        assert LOADED is world.state("small", "a")
