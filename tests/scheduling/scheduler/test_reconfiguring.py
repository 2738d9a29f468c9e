"""Another configuration, while requests run and wait: nothing is cut, and the rules hold."""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import ModelNotFound
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import (
    NodeAdded,
    NodeHealth,
    NodeRemoved,
    ReplicaState,
)
from cortexd.scheduling.events import Abandon
from cortexd.scheduling.terms import SchedulingTerms
from tests.scheduling.scheduler.test_properties import GIB, NODES, WildMachine
from tests.support.scheduling import LOADED, UNLOADED, World, setup


def terms_of(world: World) -> dict[str, NodeTerms]:
    """Return the terms of a world's nodes, by name."""
    return {each.name: each for each in world.setup.nodes}


class RemovedTests(SynchronousTestCase):
    """A node that leaves the configuration gets no new work, and loses none that it has."""

    def setUp(self) -> None:
        self.world = World(setup({"ada": 20, "bob": 20}, {"a": 10}, {"ada": "a"}))
        self.ada, self.bob = terms_of(self.world).values()

    def test_its_requests_run_on(self) -> None:
        """Their leases end on the node as it was, and count on no other."""
        running = self.world.submit("a")

        self.world.reconfigure([self.bob])

        assert [running] == [lease.request_id for lease in self.world.fleet.leases]
        assert {"ada"} == self.world.fleet.departed
        self.world.end(running)
        assert () == self.world.fleet.leases
        assert frozenset() == self.world.fleet.departed

    def test_its_queue_moves(self) -> None:
        """What waits for its slots goes to the other nodes, which load the model for it."""
        self.world.submit("a")
        self.world.submit("a")
        waiting = self.world.submit("a")

        self.world.reconfigure([self.bob])
        self.world.finish_all()

        assert "bob" == self.world.leases[waiting].node

    def test_its_queue_moves_to_a_node_that_comes(self) -> None:
        """No request is refused between the two: the new node has been polled."""
        self.world = World(setup({"ada": 20}, {"a": 10}, {"ada": "a"}))
        for _ in range(2):
            self.world.submit("a")
        waiting = self.world.submit("a")

        self.world.reconfigure([self.bob], {"bob": {"a": LOADED}})

        assert "bob" == self.world.leases[waiting].node
        assert {} == self.world.errors

    def test_a_queue_that_no_node_can_serve_is_refused(self) -> None:
        """As for any model that no node lists any more."""
        self.world.drift("bob", a=None)
        for _ in range(2):
            self.world.submit("a")
        waiting = self.world.submit("a")

        self.world.reconfigure([self.bob])

        assert isinstance(self.world.errors[waiting], ModelNotFound)

    def test_a_load_there_is_waited_for_no_more(self) -> None:
        """The node goes on with it alone, and the model is loaded on another one."""
        self.world = World(setup({"ada": 20, "bob": 20}, {"a": 10}))
        waiting = self.world.submit("a")
        assert ["load a on ada"] == self.world.started()

        self.world.reconfigure([self.bob])

        assert [Abandon("ada", "a")] == self.world.of_kind(Abandon)
        assert ["load a on ada", "load a on bob"] == self.world.started()
        self.world.load_done("bob")
        assert "bob" == self.world.leases[waiting].node

    def test_what_is_loaded_there_is_forgotten(self) -> None:
        """It is not unloaded: the node is no longer ours."""
        self.world.reconfigure([self.bob])

        assert [] == self.world.started()
        assert ["bob"] == [each.node.name for each in self.world.fleet.replicas("a")]

    def test_another_node_under_its_name(self) -> None:
        """A new endpoint is a new node: nothing of the old one is known of it."""
        running = self.world.submit("a")
        moved = dataclasses.replace(self.ada, endpoint="http://elsewhere:1234")

        self.world.reconfigure([moved, self.bob], {"ada": {"a": LOADED}})

        assert ["removed ada", "added ada"] == [
            f"{'added' if isinstance(each, NodeAdded) else 'removed'} {each.node}"
            for each in self.world.effects
            if isinstance(each, NodeAdded | NodeRemoved)
        ]
        assert 0 == self.world.fleet.nodes["ada"].leases
        newer = [self.world.submit("a") for _ in range(2)]
        assert 2 == self.world.fleet.nodes["ada"].leases
        self.world.end(running, *newer)
        assert 0 == self.world.fleet.nodes["ada"].leases

    def test_a_poll_that_comes_late(self) -> None:
        """The answer of a node that has left changes nothing."""
        observation = self.world.observation("ada")
        self.world.reconfigure([self.bob])

        self.world.poll_from("ada", observation, 0.0)
        self.world.poll_failed("ada")
        self.world.read_system("ada", 20, 10)

        assert ["bob"] == list(self.world.fleet.nodes)


class ChangedTests(SynchronousTestCase):
    """The terms of a node that stays hold at once, and nothing in use goes for them."""

    def setUp(self) -> None:
        self.world = World(setup({"ada": 20}, {"a": 10, "b": 10}, {"ada": "ab"}))
        (self.ada,) = terms_of(self.world).values()

    def test_an_order_of_nodes(self) -> None:
        """It is that of the configuration, for replicas too."""
        bob = dataclasses.replace(self.ada, name="bob", endpoint="http://bob:1234")

        self.world.reconfigure([bob, self.ada], {"bob": {"a": UNLOADED}})

        assert ["bob", "ada"] == list(self.world.fleet.nodes)
        assert ["bob", "ada"] == [each.node.name for each in self.world.fleet.replicas("a")]

    def test_a_new_node_that_does_not_answer(self) -> None:
        """It is there, and unknown as before any first poll; the fleet is ready all the same."""
        bob = dataclasses.replace(self.ada, name="bob", endpoint="http://bob:1234")

        self.world.reconfigure([self.ada, bob])

        assert NodeHealth.UNKNOWN is self.world.fleet.nodes["bob"].health
        assert self.world.fleet.not_ready_reason() is None

    def test_a_smaller_budget(self) -> None:
        """Idle models go, the cheapest first, until the rest fits; the others stay."""
        running = self.world.submit("b")
        self.world.reconfigure([dataclasses.replace(self.ada, budget_mb=10)])
        assert [] == self.world.started()

        self.world.sweep()

        assert ["unload a on ada"] == self.world.started()
        self.world.finish_all()
        self.world.sweep()
        assert ["unload a on ada"] == self.world.started()
        self.world.end(running)

    def test_nothing_in_use_goes(self) -> None:
        """What a request uses is unloaded when it is idle, whatever the budget."""
        running = [self.world.submit("a"), self.world.submit("b")]
        self.world.reconfigure([dataclasses.replace(self.ada, max_resident=1)])

        self.world.sweep()
        assert [] == self.world.started()
        self.world.end(*running)
        self.world.sweep()

        assert ["unload a on ada"] == self.world.started()

    def test_pins(self) -> None:
        """Those of the configuration come and go; an operator's wish stays above them."""
        self.world.pin("b", "ada")
        self.world.reconfigure([dataclasses.replace(self.ada, pinned=("a",))])
        assert {"a": None, "b": None} == self.world.fleet.nodes["ada"].pins
        assert self.world.replica("ada", "a").pinned

        self.world.pin("a", "ada", pinned=False)
        self.world.reconfigure([dataclasses.replace(self.ada, pinned=("a",))])

        assert {"b": None} == self.world.fleet.nodes["ada"].pins

    def test_a_cordon_outlives_the_node(self) -> None:
        """An operator's cordon is for the name, and holds when the node comes back."""
        bob = dataclasses.replace(self.ada, name="bob", endpoint="http://bob:1234")
        self.world.cordon("ada")
        self.world.reconfigure([bob], {"bob": {}})

        self.world.reconfigure([bob, self.ada], {"ada": {"a": LOADED}})

        assert self.world.fleet.nodes["ada"].cordoned

    def test_terms_of_models_and_queues(self) -> None:
        """More slots are given at once to what waits."""
        for _ in range(2):
            self.world.submit("a")
        waiting = self.world.submit("a")

        self.world.reconfigure(
            [self.ada], models={"a": ModelTerms(capacity=3)}, terms=SchedulingTerms(max_queue=1)
        )

        assert waiting in self.world.leases
        assert 1 == self.world.scheduler.terms.max_queue

    def test_a_larger_footprint(self) -> None:
        """It is booked at once, and what no longer fits beside it goes when it is idle."""
        self.world.reconfigure([self.ada], sizes={"a": 15, "b": 10})

        assert 25 == self.world.fleet.nodes["ada"].resident_mb
        self.world.sweep()
        assert ["unload a on ada"] == self.world.started()


class ReloadingMachine(WildMachine):
    """All that may go wrong, and another configuration at any moment."""

    @rule(data=st.data(), count=st.integers(1, len(NODES)), turn=st.integers(0, 2))
    def reload(self, data: st.DataObject, count: int, turn: int) -> None:
        models = list(self.world.setup.models)
        names = [*NODES[turn:], *NODES[:turn]][:count]
        nodes = [
            NodeTerms(
                name,
                f"http://{name}:{data.draw(st.sampled_from([1234, 1234, 5678]))}",
                budget_mb=data.draw(st.sampled_from([10, 20, 40])) * GIB,
                max_resident=data.draw(st.sampled_from([0, 0, 1, 2])),
                pinned=data.draw(st.sampled_from([(), (), tuple(models[:1])])),
            )
            for name in names
        ]
        listing = st.dictionaries(st.sampled_from(models), st.sampled_from([UNLOADED, LOADED]))
        listings: dict[str, dict[str, ReplicaState]] = {
            name: data.draw(listing) for name in names if data.draw(st.integers(0, 3))
        }
        terms = {model: ModelTerms(data.draw(st.integers(1, 2))) for model in models}
        for name in self.world.reconfigure(nodes, listings, models=terms):
            self.asked.pop(name, None)


class PropertyTests(SynchronousTestCase):
    def test_reloads(self) -> None:
        """The rules hold, everybody is answered, and the same events give the same effects."""
        run_state_machine_as_test(
            ReloadingMachine,
            settings=settings(
                max_examples=100, stateful_step_count=40, derandomize=True, database=None
            ),
        )
