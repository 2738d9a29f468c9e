"""A sweep in parts: the nodes of a large fleet are looked at some at a time."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import ModelTerms
from cortexd.scheduling.events import Sweep
from cortexd.scheduling.handlers.sweeps import DUE_AT_ONCE, sweep_parts, tick_parts
from tests.support.scheduling import World, in_use, setup

NODES = tuple("abcde")


def world_of_idle_models() -> World:
    """Return five nodes, on each of which a model has been idle for too long."""
    loaded = dict.fromkeys(NODES, "xy")
    models = {"x": ModelTerms(2, ttl=5.0)}
    world = World(setup(dict.fromkeys(NODES, 20), {"x": 10, "y": 10}, loaded, models=models))
    world.pass_time(6.0)
    return world


class PartialSweepTests(SynchronousTestCase):
    @settings(max_examples=20)
    @given(st.permutations(NODES), st.integers(1, 5))
    def test_its_parts_do_what_a_whole_sweep_does(self, names: list[str], size: int) -> None:
        """However the nodes are divided; a node that has left the fleet is skipped."""
        whole, parts = world_of_idle_models(), world_of_idle_models()
        whole.tell(Sweep())
        parts.tell(Sweep(()))
        for start in range(0, len(names), size):
            parts.tell(Sweep((*names[start : start + size], "gone")))

        assert sorted(f"unload x on {name}" for name in NODES) == sorted(whole.started())
        assert sorted(whole.started()) == sorted(parts.started())

    def test_a_part_looks_at_no_other_node(self) -> None:
        """So that it takes the same time in a fleet of any size."""
        world = world_of_idle_models()
        world.tell(Sweep(()))
        assert [] == world.started()
        world.tell(Sweep(("c",)))
        assert ["unload x on c"] == world.started()

    def test_queues_are_looked_at_once_in_a_sweep(self) -> None:
        """By its first part, which times out the requests that have waited for too long."""
        world = World(setup({"a": 10}, {"x": 10, "y": 10}, {"a": "x"}))
        world.submit("x")
        world.submit("x")
        late = world.submit("x")
        world.wait(world.scheduler.terms.queue_timeout)
        world.tell(Sweep(("a",)))
        assert [late] == world.waiting
        world.tell(Sweep(()))
        assert [] == world.waiting


class SweepPartsTests(SynchronousTestCase):
    @settings(max_examples=20)
    @given(st.integers(0, 130), st.integers(1, 60))
    def test_no_event_looks_at_more_than_some_nodes(self, count: int, at_once: int) -> None:
        """However many there are; and each node is looked at once in a sweep."""
        names = [f"node-{number}" for number in range(count)]
        parts = list(sweep_parts(names, at_once))
        looked = [names if part.nodes is None else part.nodes for part in parts]
        assert max(map(len, looked)) <= at_once
        assert names == [name for each in looked for name in each]


class TickPartsTests(SynchronousTestCase):
    def test_many_queues_that_are_due_at_once(self) -> None:
        """A tick looks at so many queues, and the parts that go on with it look at the rest."""
        models = [f"m{number}" for number in range(2 * DUE_AT_ONCE + 1)]
        loaded = {"ada": models[:1]}
        world = World(setup({"ada": 10}, dict.fromkeys(models, 10), loaded))
        in_use(world, "m0")
        for model in models[1:]:
            world.submit(model)
        waiting = world.scheduler.waiting
        world.now += world.scheduler.terms.max_wait
        parts = 0
        for part in tick_parts(lambda: world.scheduler.is_ticking):
            world.tell(part)
            parts += 1
            pressed = sum(head.pressed for head in waiting.heads())
            assert pressed <= parts * DUE_AT_ONCE

        assert parts >= 2
        assert all(head.pressed for head in waiting.heads())
