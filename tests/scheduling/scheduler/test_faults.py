"""What may go wrong with loads, unloads and nodes, and what the scheduler makes of it."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import ModelNotLoaded
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import LoadDone, UnloadDone
from tests.support.scheduling import (
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    STUCK,
    UNLOADED,
    World,
    in_use,
    one_node,
    setup,
)

DRAINING, UNLOADING = ReplicaState.DRAINING, ReplicaState.UNLOADING


class FailureTests(SynchronousTestCase):
    def test_another_node(self) -> None:
        """A load that failed is tried on another node; then all who wait get the nodes' words."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}))
        requests = [world.submit("a"), world.submit("a")]
        world.load_failed("ada", "no such file")
        assert ["load a on ada", "load a on bob"] == world.started()
        assert requests == world.waiting
        world.load_failed("bob", "out of fuel")

        for request in requests:
            error = world.errors[request]
            assert ModelNotLoaded is type(error)
            assert "node ada: no such file; node bob: out of fuel" in error.message
            assert 5 == error.retry_after

    def test_backs_off(self) -> None:
        """After each failure in a row a node is left alone for twice as long, up to a limit."""
        world = one_node(10, "", a=10)
        for pause in (5, 10, 20, 40, 80, 160, 300, 300):
            world.submit("a")
            world.load_failed("ada")
            error = world.errors[world.submit("a")]
            assert pause == error.retry_after
            world.wait(pause)
        world.submit("a")
        world.load_done("ada")
        world.end(*world.leases)
        world.unload("a")
        world.finish_all()
        world.submit("a")
        world.load_failed("ada")

        assert 5 == world.errors[world.submit("a")].retry_after

    def test_backs_off_for_days(self) -> None:
        """However often a load has failed, the next is tried after the longest pause."""
        world = one_node(10, "", a=10)
        world.pin("a", "ada")
        for _ in range(1_100):
            world.load_failed("ada")
            world.wait(301)
            world.sweep()

        assert {"ada"} == world.running.keys()

    def test_out_of_memory(self) -> None:
        """A load that ran out of memory is tried once more, after all that is idle has gone.

        After that it waits for more to become idle, and fails where nothing is left to go.
        """
        world = World(
            setup(
                {"ada": 40},
                {"a": 10, "b": 10, "c": 10, "d": 5, "p": 5},
                {"ada": "abdp"},
                pinned={"ada": "p"},
            )
        )
        held = in_use(world, "d")
        world.submit("c")
        world.load_failed("ada", "CUDA_ERROR_OUT_OF_MEMORY", out_of_memory=True)
        world.unload_done("ada")
        world.unload_done("ada")
        expected = ["load c on ada", "unload a on ada", "unload b on ada", "load c on ada"]
        assert expected == world.started()
        decision = world.scheduler.decisions.about("c")[0]
        assert ("a", "b") == decision.victims
        assert "ran out of memory: CUDA_ERROR" in decision.reason
        assert "evicts a (10 MiB" in decision.cost

        world.load_failed("ada", "CUDA_ERROR_OUT_OF_MEMORY", out_of_memory=True)
        assert expected == world.started()
        assert not world.errors
        world.end(*held)
        world.unload_done("ada")
        expected += ["unload d on ada", "load c on ada"]
        assert expected == world.started()

        world.load_failed("ada", "CUDA_ERROR_OUT_OF_MEMORY", out_of_memory=True)
        assert expected == world.started()
        assert "CUDA_ERROR" in world.errors["c-0"].message

    def test_out_of_memory_beside_what_is_in_use(self) -> None:
        """A load that ran out of memory waits for what is in use, whatever its footprint says."""
        world = one_node(20, "a", a=10, b=10)
        held = in_use(world, "a")
        world.submit("b")
        world.load_failed("ada", "out of memory", out_of_memory=True)

        assert not world.errors
        world.end(*held)
        assert ["load b on ada", "unload a on ada"] == world.started()

    def test_out_of_memory_with_nothing_to_give(self) -> None:
        """A load that ran out of memory on an empty node has failed."""
        world = one_node(20, "", b=10)
        world.submit("b")
        world.load_failed("ada", "out of memory", out_of_memory=True)

        assert ModelNotLoaded is type(world.errors["b-0"])

    def test_leak(self) -> None:
        """Where an unload did not give back enough, more is given up, and told."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        world.submit("c")
        world.unload_done("ada", leaked_mb=4)
        assert ["unload a on ada", "unload b on ada"] == world.started()
        decision = world.scheduler.decisions.about("c")[0]
        assert ("b",) == decision.victims
        assert "not enough" in decision.reason
        world.finish_all()

        assert "c-0" in world.leases
        assert 4 == world.fleet.nodes["ada"].leaked_mb

    def test_leak_of_all(self) -> None:
        """Where so much leaks that only a restart makes room again, those who wait are told so."""
        world = one_node(20, "a", a=10, b=12)
        world.submit("b")
        world.unload_done("ada", leaked_mb=9)

        self.assert_before_a_restart(world, "b-0")
        assert world.scheduler.swaps.on("ada") is None

    def assert_before_a_restart(self, world: World, request: str) -> None:
        """Assert that a client is told to come again, and the operator what to do."""
        error = world.errors[request]
        assert ModelNotLoaded is type(error)
        assert "cannot be loaded until node ada is restarted" in error.message
        assert error.retry_after

    def test_leak_beside_one_in_use(self) -> None:
        """Where what is in use would make up for a leak, it is waited for."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        held = in_use(world, "b")
        world.submit("c")
        world.unload_done("ada", leaked_mb=4)
        assert ["c-0"] == world.waiting
        world.end(*held)

        assert ["unload a on ada", "unload b on ada"] == world.started()

    def test_leak_that_others_suffer_from(self) -> None:
        """All who wait for a model that does not fit beside a leak are told so at once."""
        world = World(setup({"ada": 20}, {"a": 10, "b": 5, "c": 18, "d": 10}, {"ada": "ad"}))
        held = in_use(world, "d")
        world.submit("b")
        world.submit("c")
        world.unload_done("ada", leaked_mb=3)

        self.assert_before_a_restart(world, "c-0")
        assert ["b-0"] == world.waiting
        world.end(*held)

    def test_unload_that_leaves_a_stuck_model(self) -> None:
        """All who wait for a model that does not fit beside a stuck one are told so at once."""
        world = World(setup({"ada": 20}, {"a": 10, "b": 5, "c": 18, "d": 10}, {"ada": "ad"}))
        held = in_use(world, "d")
        world.submit("b")
        world.submit("c")
        world.unload_failed("ada", listed=STUCK)

        self.assert_before_a_restart(world, "c-0")
        assert ["b-0"] == world.waiting
        world.end(*held)

    def test_load_that_hangs_on_the_only_node(self) -> None:
        """Those who wait for somebody else's load that never ends are told so in the end."""
        world = one_node(10, "", a=10)
        world.drift("ada", a=LOADING)
        request = world.submit("a")
        world.wait(101)
        assert [request] == world.waiting
        world.sweep()

        assert ModelNotLoaded is type(world.errors[request])

    def test_load_that_hangs_after_a_long_wait(self) -> None:
        """So are those who had waited long already when that load began."""
        world = one_node(20, "c", a=10, c=20)
        in_use(world, "c")
        request = world.submit("a")
        world.pass_time(30)
        world.drift("ada", a=LOADING)
        world.pass_time(101)
        world.sweep()

        assert ModelNotLoaded is type(world.errors[request])

    def test_unload_that_failed(self) -> None:
        """A model that could not be unloaded answers on, is left alone, and another makes room."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        world.submit("c")
        world.unload_failed("ada")
        assert ["unload a on ada", "unload b on ada"] == world.started()
        assert in_use(world, "a")
        world.finish_all()

        assert "c-0" in world.leases

    def test_unload_that_failed_and_nothing_else(self) -> None:
        """Where nothing else can make room, an unload that failed is tried again after a while."""
        world = one_node(10, "a", a=10, b=10)
        world.submit("b")
        world.unload_failed("ada")
        world.wait(59)
        world.sweep()
        assert ["unload a on ada"] == world.started()
        world.wait(1)
        world.sweep()

        assert ["unload a on ada"] * 2 == world.started()

    def test_one_who_waits_for_the_one_that_stays(self) -> None:
        """Requests that wait for a model whose unload failed are served by it."""
        world = one_node(10, "a", a=10, b=10)
        world.submit("b")
        late = world.submit("a")
        world.unload_failed("ada")

        assert late in world.leases

    def test_answers_that_nobody_asked_for(self) -> None:
        """The end of a load or unload that is not under way changes nothing."""
        world = one_node(10, "a", a=10, b=10)

        assert () == world.tell(LoadDone("ada", "b", 5.0, 10))
        assert () == world.tell(UnloadDone("ada", "a", 10))
        assert LOADED is world.state("ada", "a")


class DriftTests(SynchronousTestCase):
    def swap(self) -> World:
        """Return a node where ``a`` is in use and drains for ``b``."""
        world = one_node(10, "a", a=10, b=10)
        in_use(world, "a")
        world.submit("b")
        world.pass_time(30)
        assert DRAINING is world.state("ada", "a")
        return world

    def test_victim_unloaded_by_a_human(self) -> None:
        """Where somebody unloads what drains, the load begins."""
        world = self.swap()
        world.drift("ada", a=UNLOADED)

        assert ["load b on ada"] == world.started()

    def test_target_loaded_by_somebody_else(self) -> None:
        """What somebody else has loaded is not loaded again, and nothing else goes for it."""
        world = self.swap()
        world.drift("ada", b=LOADED)
        assert [] == world.started()
        assert "b-0" in world.leases
        assert LOADED is world.state("ada", "a")

    def test_target_that_somebody_else_loads(self) -> None:
        """Where somebody else begins to load what is wanted, that load is waited for."""
        world = self.swap()
        world.drift("ada", b=LOADING)
        world.end(*world.leases)
        assert [] == world.started()
        world.drift("ada", b=LOADED)
        assert ["unload a on ada"] == world.started()  # The node cannot hold both.
        world.finish_all()

        assert "b-0" in world.leases

    def test_target_loaded_while_room_is_made(self) -> None:
        """A model that somebody loaded during an unload of ours is not loaded again."""
        world = one_node(10, "a", a=10, b=10)
        world.submit("b")
        world.drift("ada", b=LOADED)
        world.unload_done("ada")

        assert ["unload a on ada"] == world.started()
        assert "b-0" in world.leases

    def test_pinned_target_loaded_while_room_is_made(self) -> None:
        """What is wanted for ever is not loaded again either, though it would fit twice."""
        world = World(setup({"ada": 20}, {"p": 8, "a": 16}, {"ada": "a"}, pinned={"ada": "p"}))
        assert ["unload a on ada"] == world.started()
        world.drift("ada", p=LOADED)
        world.unload_done("ada")
        world.sweep()

        assert ["unload a on ada"] == world.started()

    def test_target_that_vanishes(self) -> None:
        """A model that its node lists no more is not loaded, and what drained for it answers."""
        world = self.swap()
        world.drift("ada", b=None)

        assert LOADED is world.state("ada", "a")
        assert "b-0" in world.errors

    def test_victim_that_is_stuck(self) -> None:
        """A model that is found stuck while it drains is not unloaded, and answers."""
        world = self.swap()
        world.drift("ada", a=STUCK)
        world.end(*world.leases)

        assert [] == world.started()
        assert world.submit("a") in world.leases

    def test_stuck_victim_and_another(self) -> None:
        """In place of one that is found stuck while it drains, another drains."""
        world = one_node(30, "ac", a=10, b=20, c=10)
        held = in_use(world, "a", "c")
        world.submit("b")
        world.pass_time(30)
        assert DRAINING is world.state("ada", "a")
        world.drift("ada", a=STUCK)
        world.end(held[0])
        assert [] == world.started()
        world.end(held[1])

        assert ["unload c on ada"] == world.started()

    def test_another_load_by_somebody_else(self) -> None:
        """While somebody loads something else on the node, nothing of ours begins there."""
        world = one_node(30, "a", a=10, b=20, x=5)
        in_use(world, "a")
        world.drift("ada", x=LOADING)
        world.submit("b")
        assert [] == world.started()
        world.drift("ada", x=UNLOADED)

        assert ["load b on ada"] == world.started()

    def test_another_load_by_somebody_else_during_ours(self) -> None:
        """A load of ours that waited for room does not begin beside one of somebody else's."""
        world = one_node(30, "a", a=25, b=20, x=5)
        world.submit("b")
        world.drift("ada", x=LOADING)
        world.unload_done("ada")
        assert ["unload a on ada"] == world.started()
        world.drift("ada", x=LOADED)
        assert ["unload a on ada", "load b on ada"] == world.started()

    def test_another_load_by_somebody_else_that_hangs(self) -> None:
        """A load of somebody else's that never ends is waited for only so long."""
        world = one_node(30, "a", a=25, b=20, x=5)
        world.submit("b")
        world.drift("ada", x=LOADING)
        world.unload_done("ada")
        world.wait(101)
        world.sweep()

        assert ["unload a on ada", "load b on ada"] == world.started()

    def test_load_by_somebody_else_that_hangs(self) -> None:
        """It is waited for as long as loads of the model may take, and then another node loads."""
        for usual, seconds in ((1.0, 61), (7.0, 71), (None, LOAD_TIMEOUT + 1)):
            seen = {} if usual is None else {("ada", "a"): LearnedLoad(1, 10.0, 0.0, 1, usual)}
            world = World(replace(setup({"ada": 20, "bob": 20}, {"a": 10}), learned=seen))
            world.drift("ada", a=LOADING)
            world.submit("a")
            world.wait(seconds - 2)
            world.sweep()
            assert [] == world.started()
            world.wait(2)
            world.sweep()

            assert ["load a on bob"] == world.started()

    def test_poll_from_before(self) -> None:
        """What a poll saw before a load or an unload of ours ended is not believed."""
        world = one_node(10, "", a=10)
        before, asked_at = world.observation("ada"), world.now
        world.submit("a")
        world.wait(5)
        world.load_done("ada")
        world.poll_from("ada", before, asked_at)

        assert LOADED is world.state("ada", "a")
