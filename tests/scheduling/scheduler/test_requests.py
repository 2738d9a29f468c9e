"""What the scheduler does for requests; the models that come and go are in the files beside it."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import (
    ModelDoesNotFit,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    QueueFull,
    QueueTimeout,
)
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.decisions import LOADED as LOADED_FOR_IT
from cortexd.scheduling.decisions import QUEUED, RESIDENT, SWAPPED
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import LOADING, UNLOADED, World, setup


def one_slot(*models: str, loaded: str = "", capacity: int = 1) -> World:
    """Return a node that holds one of these models at a time."""
    return World(
        setup({"ada": 10}, dict.fromkeys(models, 10), {"ada": [loaded]}, capacity=capacity)
    )


class GrantTests(SynchronousTestCase):
    def test_free_slot(self) -> None:
        """A request for a loaded model with a free slot is granted it at once."""
        world = one_slot("a", loaded="a")
        grant = world.grants[world.submit("a")]

        assert ("ada", "a") == (grant.lease.node, grant.lease.model)
        assert (0, 0, RESIDENT) == (grant.queued_seconds, grant.load_seconds, grant.decision)
        assert [] == world.started()

    def test_first_come_first_served(self) -> None:
        """Requests for a model whose slots are all in use are served in the order they came."""
        world = one_slot("a", loaded="a")
        names = [world.submit("a") for _ in range(3)]
        assert names[1:] == world.waiting
        world.wait(2)
        for served, waiting in ((names[0], names[2:]), (names[1], [])):
            world.end(served)
            assert waiting == world.waiting

        grant = world.grants[names[1]]
        assert (2, 0, QUEUED) == (grant.queued_seconds, grant.load_seconds, grant.decision)

    def test_place_that_comes_free_goes_to_who_waits(self) -> None:
        """Who comes later does not overtake those who wait."""
        world = World(setup({"ada": 10}, {"a": 10}, {"ada": "a"}, capacity=2))
        first, second, third = (world.submit("a") for _ in range(3))
        world.cordon("ada")
        assert third in world.errors

        world.cordon("ada", cordoned=False)
        fourth = world.submit("a")
        world.end(first)
        assert [] == world.waiting
        assert {second, fourth} == set(world.leases)

    def test_not_behind_a_swap(self) -> None:
        """A request for a loaded model does not wait behind a swap for another."""
        world = World(
            setup({"ada": 20}, {"a": 10, "b": 10, "c": 10}, {"ada": ["a", "b"]}, capacity=1)
        )
        first = world.submit("a")
        world.submit("c")
        assert ["unload b on ada"] == world.started()

        world.end(first)
        assert world.submit("a") in world.leases
        world.finish("ada")
        world.end("a-1")
        assert world.submit("a") in world.leases

    def test_tried(self) -> None:
        """A request that failed on a node is granted another at once, or does not wait."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a", "bob": "a"}))
        lease = world.leases[world.submit("a")]
        world.end(lease.request_id)
        world.submit("a", lease.request_id, lease.node)
        assert {lease.node} != {world.leases[lease.request_id].node}

        world.end(lease.request_id)
        world.submit("a", lease.request_id, "ada", "bob")
        assert ModelNotLoaded is type(world.errors[lease.request_id])
        assert [] == world.waiting

    def test_tried_and_all_others_full(self) -> None:
        """A request that failed on a node learns that all slots of the others are in use."""
        world = World(
            setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a", "bob": "a"}, capacity=1)
        )
        busy, failed = world.submit("a"), world.submit("a")
        node = world.leases[failed].node
        world.end(failed)
        world.submit("a", failed, node)

        error = world.errors[failed]
        assert Overloaded is type(error)
        assert "all 1 slots of model 'a' are in use" in error.message
        assert busy in world.leases

    def test_gone_while_waiting(self) -> None:
        """A request that is no longer wanted is left out; one that waits no more is none."""
        world = one_slot("a", loaded="a")
        first, second, third = (world.submit("a") for _ in range(3))
        world.cancel(second)
        world.cancel(first)
        assert [third] == world.waiting
        world.end(first)

        assert third in world.leases


class LoadTests(SynchronousTestCase):
    def test_load(self) -> None:
        """A model nobody has is loaded, and then given to who asked for it."""
        world = one_slot("a")
        request = world.submit("a")
        assert ["load a on ada"] == world.started()
        assert ReplicaState.LOADING is world.state("ada", "a")
        world.wait(7)
        world.load_done("ada")

        grant = world.grants[request]
        assert (7, 7, LOADED_FOR_IT) == (
            grant.queued_seconds,
            grant.load_seconds,
            grant.decision,
        )

    def test_one_load_for_all(self) -> None:
        """Twenty first requests for a model cause one load."""
        world = one_slot("a", capacity=20)
        requests = [world.submit("a") for _ in range(20)]
        world.wait(3)
        world.load_done("ada")

        assert ["load a on ada"] == world.started()
        assert requests == list(world.leases)

    def test_late_to_a_load(self) -> None:
        """Who came in the middle of a load has waited for its second half only."""
        world = one_slot("a", capacity=2)
        world.submit("a")
        world.wait(4)
        late = world.submit("a")
        world.wait(2)
        world.load_done("ada")

        assert (2, 2) == (world.grants[late].queued_seconds, world.grants[late].load_seconds)

    def test_second_copy(self) -> None:
        """A model whose slots are all in use gets a second copy where free memory holds it."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": ["a"]}, capacity=1))
        world.submit("a")
        second = world.submit("a")
        assert ["load a on bob"] == world.started()
        world.load_done("bob")

        assert "bob" == world.leases[second].node

    def test_no_second_copy_at_the_cost_of_another(self) -> None:
        """Nothing is given up for a second copy before it pays for its load three times."""
        world = World(
            setup(
                {"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": ["a"], "bob": ["b"]}, capacity=1
            )
        )
        world.submit("a")
        world.submit("a")
        world.pass_time(80)
        world.sweep()

        assert [] == world.started()
        assert 1 == len(world.waiting)

    def test_somebody_elses_load(self) -> None:
        """A load that somebody else began is waited for, and not begun again elsewhere."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}))
        world.drift("ada", a=LOADING)
        request = world.submit("a")
        world.pass_time(5)
        assert [] == world.started()

        world.drift("ada", a=ReplicaState.LOADED)
        assert "ada" == world.leases[request].node

    def test_somebody_elses_load_that_never_ends(self) -> None:
        """A load past its time is waited for no longer."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}))
        world.drift("ada", a=LOADING)
        world.submit("a")
        world.wait(101)
        world.sweep()

        assert ["load a on bob"] == world.started()

    def test_nobody_waits_any_more(self) -> None:
        """A load nobody waits for does not begin, though what it needed has been given up."""
        world = one_slot("a", "b", loaded="a")
        request = world.submit("b")
        assert ["unload a on ada"] == world.started()
        world.cancel(request)
        world.unload_done("ada")

        assert ["unload a on ada"] == world.started()
        assert world.scheduler.swaps.on("ada") is None

    def test_where_it_was_not_known_before(self) -> None:
        """A model of unknown size is first loaded where most room is."""
        world = World(setup({"ada": 20, "bob": 30, "cyd": 10}, {"a": None}))
        world.submit("a")

        assert ["load a on bob"] == world.started()

    def test_learned(self) -> None:
        """What a load has shown is kept, unless something else moved on the node meanwhile."""
        world = World(setup({"ada": 20}, {"a": None, "b": 1}))
        world.submit("a")
        world.load_done("ada", footprint_mb=7, seconds=4.0)
        assert 7 == world.fleet.footprints.known_mb("ada", "a")

        world.end("a-0")
        world.unload("a")
        world.unload_done("ada")
        world.submit("a")
        world.drift("ada", b=ReplicaState.LOADED)
        world.load_done("ada", footprint_mb=8, seconds=6.0)
        assert 7 == world.fleet.footprints.known_mb("ada", "a")
        assert 5 == world.fleet.footprints.load_seconds("ada", "a")


class RefusalTests(SynchronousTestCase):
    def test_unheard_of(self) -> None:
        """A model that no node lists is refused at once."""
        world = one_slot("a")

        assert ModelNotFound is type(world.errors[world.submit("unheard")])

    def test_queue_full(self) -> None:
        """Only so many requests may wait for a model, but each model has its own queue."""
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}, terms=SchedulingTerms(max_queue=3)))
        for _ in range(3):
            world.submit("a")
        error = world.errors[world.submit("a")]

        assert QueueFull is type(error)
        assert error.retry_after
        assert world.submit("b") in world.waiting

    def test_queue_timeout(self) -> None:
        """A request waits no longer than it may."""
        world = World(
            setup(
                {"ada": 10},
                {"a": 10},
                {"ada": "a"},
                capacity=1,
                terms=SchedulingTerms(queue_timeout=60),
            )
        )
        world.submit("a")
        first = world.submit("a")
        world.pass_time(10)
        second = world.submit("a")
        world.pass_time(49)
        assert [first, second] == world.waiting
        world.pass_time(1)

        assert [second] == world.waiting
        assert QueueTimeout is type(world.errors[first])
        assert world.errors[first].retry_after

    def test_too_large(self) -> None:
        """A model that no node can ever hold is refused at once, with the sizes."""
        world = World(setup({"ada": 10, "bob": 20}, {"a": 30}))
        error = world.errors[world.submit("a")]

        assert ModelDoesNotFit is type(error)
        for words in ("30 MiB", "ada has 10 MiB", "bob has 20 MiB"):
            assert words in error.message

    def test_too_large_beside_what_is_pinned(self) -> None:
        """What is pinned never makes room, so a model that needs its room is refused."""
        world = World(setup({"ada": 20}, {"a": 12, "b": 10}, {"ada": "b"}, pinned={"ada": "b"}))

        assert ModelDoesNotFit is type(world.errors[world.submit("a")])

    def test_more_pins_than_room(self) -> None:
        """A pinned model with no room beside the other pins is refused, not kept waiting."""
        world = World(
            setup({"ada": 20}, {"a": 5, "b": 5}, {"ada": "a"}, pinned={"ada": "ab"}, max_resident=1)
        )

        assert ModelDoesNotFit is type(world.errors[world.submit("b")])

    def test_all_nodes_down(self) -> None:
        """Where no node answers nobody is kept waiting, not even those who waited before."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a"}, capacity=1))
        world.cordon("bob")
        world.submit("a")
        request = world.submit("a")
        world.poll_failed("ada")
        assert [request] == world.waiting
        world.poll_failed("ada")

        assert Overloaded is type(world.errors[request])
        error = world.errors[world.submit("a")]
        assert Overloaded is type(error)
        assert error.retry_after

    def test_all_nodes_cordoned(self) -> None:
        """A cordoned node gets no new work, and answers what it has."""
        world = one_slot("a", loaded="a")
        first = world.submit("a")
        world.cordon("ada")

        assert Overloaded is type(world.errors[world.submit("a")])
        assert first in world.leases
        world.cordon("ada", cordoned=False)
        world.end(first)
        assert world.submit("a") in world.leases

    def test_model_that_vanishes(self) -> None:
        """Those who wait for a model that no node lists any more are told so."""
        world = one_slot("a", "b", loaded="b")
        busy = world.submit("b")
        request = world.submit("a")
        world.drift("ada", a=None)

        assert ModelNotFound is type(world.errors[request])
        world.drift("ada", b=None)
        world.end(busy)
        assert 0 == world.fleet.nodes["ada"].leases


class TrailTests(SynchronousTestCase):
    def test_why(self) -> None:
        """What became of a request is remembered: how long it waited, and for which decision."""
        world = one_slot("a", "b", loaded="a")
        request = world.submit("b")
        world.wait(1)
        world.unload_done("ada")
        world.wait(4)
        world.load_done("ada")
        grant = world.grants[request]
        assert (5, 4, SWAPPED) == (grant.queued_seconds, grant.load_seconds, grant.decision)

        trail = world.scheduler.decisions.request(request)
        assert trail is not None
        assert (5, "ada", SWAPPED) == (trail.queued_seconds, trail.node, trail.outcome)
        assert trail.load is not None
        decision = world.scheduler.decisions.number(trail.load)
        assert decision is not None
        assert ("load", "b", ("a",)) == (decision.action, decision.model, decision.victims)

    def test_somebody_elses_load_is_no_decision_of_ours(self) -> None:
        """A request that was served by somebody else's load is not told of an older one of ours."""
        world = one_slot("a", "b", loaded="b")
        world.submit("a")
        world.finish_all()
        world.end("a-0")
        world.drift("ada", a=UNLOADED)
        world.drift("ada", a=LOADING)
        request = world.submit("a")
        world.wait(2)
        world.drift("ada", a=ReplicaState.LOADED)

        grant = world.grants[request]
        trail = world.scheduler.decisions.request(request)
        assert LOADED_FOR_IT == grant.decision
        assert trail is not None
        assert trail.load is None

    def test_the_last_swap(self) -> None:
        """The last decision about a model names what was given up for it, why, at which cost."""
        world = one_slot("a", "b", loaded="a")
        world.end(world.submit("a"))
        world.wait(50)
        world.submit("b")
        world.finish_all()

        for model in "ab":
            decision = world.scheduler.decisions.about(model)[0]
            assert ("load", "b", "ada", ("a",)) == (
                decision.action,
                decision.model,
                decision.node,
                decision.victims,
            )
            assert "requests wait for it" == decision.reason
            assert "evicts a (10 MiB, unused for 50 s)" == decision.cost
