"""How models make room for one another, and what comes in between."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import ModelTerms
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import (
    LOADED,
    UNLOADED,
    World,
    in_use,
    one_node,
    setup,
)

DRAINING, UNLOADING = ReplicaState.DRAINING, ReplicaState.UNLOADING


class SwapTests(SynchronousTestCase):
    def test_longest_unused(self) -> None:
        """The model that was unused for longest makes room."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        for model in "ba":
            world.wait(1)
            world.end(*in_use(world, model))
        world.submit("c")

        assert ["unload b on ada"] == world.started()
        assert LOADED is world.state("ada", "a")

    def test_priority(self) -> None:
        """By the other strategy the model of lowest priority makes room first."""
        terms = SchedulingTerms(eviction=EvictionTerms("priority"))
        models = {"a": ModelTerms(2, priority=1), "b": ModelTerms(2)}
        world = World(
            setup({"ada": 20}, dict.fromkeys("abc", 10), {"ada": "ab"}, models=models, terms=terms)
        )
        world.wait(20)
        world.end(*in_use(world, "b"))
        world.submit("c")

        assert ["unload b on ada"] == world.started()

    def test_one_after_the_other(self) -> None:
        """Models that make room are unloaded one at a time, each verified, then comes the load."""
        world = one_node(20, "ab", a=10, b=10, c=20)
        request = world.submit("c")
        assert ["unload a on ada"] == world.started()
        assert DRAINING is world.state("ada", "b")
        world.unload_done("ada")
        assert ["unload a on ada", "unload b on ada"] == world.started()
        world.unload_done("ada")
        assert ["unload a on ada", "unload b on ada", "load c on ada"] == world.started()
        world.load_done("ada")

        assert request in world.leases

    def test_full_by_number(self) -> None:
        """Where only so many may be resident one makes room, though memory would be free."""
        world = World(setup({"ada": 20}, {"a": 5, "b": 5}, {"ada": "a"}, max_resident=1))
        world.submit("b")

        assert ["unload a on ada"] == world.started()

    def test_models_in_turn(self) -> None:
        """Of requests for three models in turn, those for one model are served by one load."""
        world = one_node(10, "", capacity=4, a=10, b=10, c=10)
        for model in "abcabc":
            world.submit(model)
        for _ in range(100):
            world.finish_all()
            world.pass_time(1)
            world.end(*list(world.leases))

        assert ["load a on ada", "load b on ada", "load c on ada"] == [
            line for line in world.started() if line.startswith("load")
        ]
        assert [] == world.waiting

    def test_held_for_those_who_wait(self) -> None:
        """A fresh model serves those who wait for it before it can make room for another."""
        world = one_node(10, "", a=10, b=10)
        world.submit("a")
        world.submit("b")
        world.load_done("ada")

        assert ["a-0"] == list(world.leases)
        assert ["load a on ada"] == world.started()
        world.end("a-0")
        assert ["load a on ada", "unload a on ada"] == world.started()


class PatienceTests(SynchronousTestCase):
    def test_in_use(self) -> None:
        """Models in use are waited for; after ``max_wait`` the cheapest gets no new requests."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        world.wait(1)
        held_a = in_use(world, "a")
        world.wait(1)
        world.end(*in_use(world, "b"))
        held_b = in_use(world, "b")
        world.submit("c")
        world.pass_time(29)
        assert [] == world.started()
        assert LOADED is world.state("ada", "a")

        world.pass_time(1)
        assert DRAINING is world.state("ada", "a")
        late = world.submit("a")
        assert late in world.waiting
        world.end(*held_a)
        assert ["unload a on ada"] == world.started()
        world.finish_all()
        assert "c-0" in world.leases
        assert late in world.waiting

        world.end("c-0", *held_b)
        world.finish_all()
        assert late in world.leases

    def test_one_that_falls_idle_meanwhile(self) -> None:
        """While models are in use, the first that falls idle makes room."""
        world = one_node(20, "ab", a=10, b=10, c=10)
        _, held_b = in_use(world, "a", "b")
        world.submit("c")
        world.pass_time(3)
        world.end(held_b)

        assert ["unload b on ada"] == world.started()

    def test_two_that_must_both_go(self) -> None:
        """A drain of several waits for the last of them before it takes the first."""
        world = one_node(20, "ab", a=10, b=10, c=20)
        held_a, held_b = in_use(world, "a", "b")
        world.submit("c")
        world.pass_time(30)
        world.end(held_a)
        assert [] == world.started()

        world.end(held_b)
        assert ["unload a on ada"] == world.started()

    def test_last_one_leaves(self) -> None:
        """When nobody waits any more, what drains for them answers again."""
        world = one_node(10, "a", a=10, b=10)
        in_use(world, "a")
        requests = [world.submit("b"), world.submit("b")]
        world.pass_time(30)
        late = world.submit("a")
        world.cancel(requests[0])
        assert DRAINING is world.state("ada", "a")
        world.cancel(requests[1])

        assert LOADED is world.state("ada", "a")
        assert late in world.leases
        assert world.scheduler.swaps.on("ada") is None

    def test_waited_in_vain(self) -> None:
        """When the last one is rejected for waiting too long, what drains answers again."""
        terms = SchedulingTerms(queue_timeout=40)
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}, {"ada": "a"}, terms=terms))
        in_use(world, "a")
        request = world.submit("b")
        world.pass_time(40)

        assert request in world.errors
        assert LOADED is world.state("ada", "a")

    def test_another_node_sooner(self) -> None:
        """A drain is given up when another node can load the model at once."""
        world = World(
            setup({"ada": 10, "bob": 10}, dict.fromkeys("abc", 10), {"ada": "a", "bob": "b"})
        )
        held_a, held_b = in_use(world, "a", "b")
        world.submit("c")
        world.pass_time(30)
        drained = "a" if DRAINING is world.state("ada", "a") else "b"
        late = world.submit(drained)
        assert late in world.waiting
        world.end(held_b if drained == "a" else held_a)

        assert late in world.leases
        assert 1 == len(world.started())
        assert not any(swap.draining for swap in world.scheduler.swaps)

    def test_an_order_is_not_given_up(self) -> None:
        """A drain for an operator's load goes on, though those who wait get one elsewhere."""
        world = World(
            setup({"ada": 10, "bob": 10}, dict.fromkeys("abc", 10), {"ada": "a", "bob": "b"})
        )
        held_a, held_b = in_use(world, "a", "b")
        world.load("c", "ada")
        request = world.submit("c")
        world.end(held_b)
        world.finish("bob")
        world.finish("bob")
        assert request in world.leases
        assert DRAINING is world.state("ada", "a")

        world.end(held_a)
        world.finish_all()
        assert [LOADED, LOADED] == [world.state(node, "c") for node in ("ada", "bob")]

    def test_fits_sooner(self) -> None:
        """What is given up is spared when the model fits before."""
        world = one_node(30, "abd", a=10, b=10, c=20, d=10)
        held = in_use(world, "a", "b", "d")
        world.submit("c")
        world.pass_time(30)
        draining = [model for model in "abd" if DRAINING is world.state("ada", model)]
        assert 2 == len(draining)
        late = [world.submit(model) for model in draining]
        (spare,) = set("abd") - set(draining)
        world.drift("ada", **{spare: UNLOADED, draining[0]: UNLOADED})

        assert ["load c on ada"] == world.started()
        assert LOADED is world.state("ada", draining[1])
        assert late[1] in world.leases
        world.end(*held)

    def test_in_the_order_of_their_waits(self) -> None:
        """Of models that wait for one node, the one that has waited longest is next."""
        world = one_node(10, "a", a=10, b=10, c=10)
        held = in_use(world, "a")
        world.submit("c")
        world.wait(1)
        world.submit("b")
        world.end(*held)
        world.finish_all()

        assert "c-0" in world.leases
        world.end("c-0")
        world.finish_all()
        assert "b-0" in world.leases

    def test_young_ones_last(self) -> None:
        """A model that has just been loaded is the last to make room."""
        world = one_node(20, "a", a=10, b=10, c=10)
        world.submit("b")
        world.load_done("ada")
        world.end("b-0")
        world.wait(1)
        world.end(*in_use(world, "a"))
        world.submit("c")

        assert ["load b on ada", "unload a on ada"] == world.started()

    def test_worth_it(self) -> None:
        """A model that is asked for all the time makes no room for one request, but for many."""
        for asked, expected in ((1, 30), (20, 0)):
            world = one_node(10, "a", capacity=30, a=10, b=10)
            world.scheduler.fleet.footprints.learn("ada", "b", 30.0, None)
            for _ in range(40):
                world.wait(10)
                world.end(*in_use(world, "a"))
            for _ in range(asked):
                world.submit("b")
            began = world.now
            while not world.started():
                world.pass_time(1)

            assert expected == world.now - began


class CopyTests(SynchronousTestCase):
    def test_copy_elsewhere_while_it_drains(self) -> None:
        """Once somebody else has loaded a copy, nothing is given up for another one."""
        world = World(
            setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": "a", "bob": "a"}, capacity=1)
        )
        held = in_use(world, "a", "a")
        world.submit("b")
        world.submit("b")
        world.pass_time(30)
        (swap,) = world.scheduler.swaps
        other = ({"ada", "bob"} - {swap.node.name}).pop()
        world.drift(other, a=UNLOADED, b=LOADED)
        world.end(*held)

        assert [] == world.started()
        assert LOADED is world.state(swap.node.name, "a")
        assert ["b-1"] == world.waiting

    def test_copy_that_drains(self) -> None:
        """For requests that wait for a copy that begins to drain, another is sought at once."""
        world = World(
            setup(
                {"ada": 10, "bob": 12},
                {"a": 10, "b": 12, "x": 5},
                {"ada": "x", "bob": "a"},
                capacity=1,
            )
        )
        in_use(world, "a")
        world.submit("a")
        world.submit("b")
        world.pass_time(30)

        assert DRAINING is world.state("bob", "a")
        assert ["unload x on ada"] == world.started()

    def test_one_drain_for_one_model(self) -> None:
        """For one model one node drains, however long that takes."""
        world = World(
            setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10, "c": 10}, {"ada": "a", "bob": "b"})
        )
        in_use(world, "a", "b")
        world.submit("c")
        world.pass_time(100)
        world.sweep()

        assert 1 == len(list(world.scheduler.swaps))

    def test_one_swap_on_one_node(self) -> None:
        """While a node drains for one model, others wait for it."""
        world = one_node(10, "a", a=10, b=10, c=10)
        held = in_use(world, "a")
        world.submit("b")
        world.submit("c")
        world.pass_time(40)
        world.sweep()
        (swap,) = world.scheduler.swaps
        assert "b" == (swap.target.model if swap.target is not None else None)
        world.end(*held)
        world.finish_all()
        world.end("b-0")
        world.finish_all()

        assert "c-0" in world.leases


class BoundTests(SynchronousTestCase):
    def two_nodes(self) -> World:
        return World(
            setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": "a", "bob": "b"}, capacity=1)
        )

    def test_drain_for_the_others(self) -> None:
        """A drain that only those wanted who need not wait for it ends with their last one."""
        world = self.two_nodes()
        in_use(world, "b")
        world.submit("a", only=["ada"])
        world.submit("a", only=["ada"])
        bound = world.submit("a", only=["bob"])
        world.pass_time(30)
        assert DRAINING is world.state("bob", "b")
        world.cancel(bound)

        assert LOADED is world.state("bob", "b")
        assert 1 == len(world.waiting)


class AdapterTests(SynchronousTestCase):
    def world(self) -> World:
        """Return a node with an adapter of ``a``, and another model that needs its room."""
        made = setup({"ada": 10}, {"a": 10, "b": 10}, {"ada": "a"}, capacity=1)
        return World(replace(made, adapters={"a::x": "a"}))

    def test_adapter_holds_its_base(self) -> None:
        """A model stays as long as a request runs on an adapter of it, even one that vanishes."""
        for gone in (False, True):
            world = self.world()
            held = in_use(world, "a::x")
            world.submit("b")
            world.pass_time(30)
            assert DRAINING is world.state("ada", "a")
            if gone:
                world.setup = replace(world.setup, adapters={})
                world.poll("ada")
            assert [] == world.started()
            world.end(*held)

            assert ["unload a on ada"] == world.started()

    def test_adapter_drains_with_its_base(self) -> None:
        """While a model drains, its adapters get no requests either; once spared, they do."""
        world = self.world()
        in_use(world, "a::x")
        waits = world.submit("b")
        world.pass_time(30)
        late = world.submit("a::x", "late")
        assert late in world.waiting
        world.end("a::x-0")
        world.unload_failed("ada")

        assert late in world.leases
        assert waits in world.waiting
        assert ["unload a on ada"] == world.started()
