"""Tests of requests whose clients say how long they wait."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import Priority, Requester
from cortexd.errors import ModelLoading
from cortexd.scheduling.events import Grant, Reject, StartLoad, Submit, Tick
from cortexd.scheduling.hints import Hints
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import MOST_STAND_INS
from tests.support.nodes import UNLOADED
from tests.support.scheduling import World, in_use, one_node, setup

GIB = 1024
TERMS = SchedulingTerms()


def ask(world: World, model: str, wait: float, request_id: str = "asker") -> str:
    """Request a replica for a client that waits for so many seconds."""
    world.errors.pop(request_id, None)
    world.tell(Submit(request_id, model, hints=Hints(wait)))
    return request_id


def learn(world: World, model: str, seconds: float) -> None:
    """Let the only node load a model once, so that it is known how long that takes."""
    world.load(model)
    world.finish_all()
    world.unload(model)
    world.finish_all()
    world.fleet.lessons.loads.learn("ada", model, seconds, world.now, process=1)


class NotWaitingTests(SynchronousTestCase):
    def test_a_free_slot_is_granted(self) -> None:
        """A client that does not wait gets what is free at once."""
        world = one_node(24 * GIB, "a", a=8 * GIB)

        ask(world, "a", 0.0)

        assert "asker" in world.leases

    def test_a_load_is_begun_and_not_waited_for(self) -> None:
        """It is rejected at once, with the seconds until the model it has asked for is loaded."""
        world = one_node(24 * GIB, "", a=8 * GIB, b=8 * GIB)
        world.now = 100.0
        learn(world, "a", 12.5)

        ask(world, "a", 0.0)

        error = world.errors["asker"]
        assert isinstance(error, ModelLoading)
        assert (503, "model_loading", 9.0) == (error.status, error.code, error.retry_after)
        assert "load a on ada" == world.started()[-1]
        assert [] == world.waiting

    def test_the_load_goes_on_and_the_client_finds_it(self) -> None:
        """Nobody waits for the load, which ends all the same, and the next try is granted."""
        world = one_node(8 * GIB, "b", a=8 * GIB, b=8 * GIB)

        ask(world, "a", 0.0)
        world.sweep()
        world.finish_all()
        ask(world, "a", 0.0)

        assert ["unload b on ada", "load a on ada"] == world.started()
        assert "asker" in world.leases

    def test_a_load_that_was_never_measured(self) -> None:
        """Where nobody knows how long a load takes, a client waits for as long as it will."""
        world = one_node(24 * GIB, "", a=8 * GIB)

        ask(world, "a", 5.0)
        assert ["asker"] == world.waiting
        world.pass_time(4)
        world.finish_all()

        assert "asker" in world.leases

    def test_a_load_that_cannot_begin_yet_is_remembered(self) -> None:
        """Where all is in use, the model of a client that did not wait comes later."""
        world = one_node(8 * GIB, "b", a=8 * GIB, b=8 * GIB)
        busy = in_use(world, "b")

        ask(world, "a", 0.0)
        assert [] == world.started()
        world.end(*busy)
        world.sweep()

        assert ["unload b on ada"] == world.started()

    def test_many_clients_are_one_wish(self) -> None:
        """A thousand clients that do not wait leave one stand-in, which counts as no request."""
        world = one_node(8 * GIB, "b", a=8 * GIB, b=8 * GIB)
        in_use(world, "b")

        for number in range(1000):
            ask(world, "a", 0.0, f"asker-{number}")

        assert 1 == len(world.scheduler.waiting.of("a"))
        assert (0, 0) == (world.scheduler.waiting.count("a"), len(world.scheduler.waiting))

    def test_one_requester_wishes_for_everything(self) -> None:
        """It has only so many stand-ins, those of its first wishes; others have their own."""
        models = {f"m{number}": 8 * GIB for number in range(MOST_STAND_INS + 5)}
        world = one_node(8 * GIB, "b", b=8 * GIB, **models)
        in_use(world, "b")

        for name in ("mallory", "ann"):
            for model in models if name == "mallory" else [*models][-1:]:
                asked = Submit(f"{name}-{model}", model, requester=Requester(name), hints=Hints(0))
                world.tell(asked)

        assert [*models][:MOST_STAND_INS] == world.scheduler.waiting.models()[:MOST_STAND_INS]
        assert MOST_STAND_INS + 1 == len(world.scheduler.waiting.models())
        assert 0 == len(world.scheduler.waiting)
        assert isinstance(world.errors[f"mallory-{[*models][-2]}"], ModelLoading)

    def test_the_wish_of_a_higher_class_stands(self) -> None:
        """Of the clients of one line, the highest class is the one that the stand-in is for."""
        world = one_node(8 * GIB, "b", a=8 * GIB, b=8 * GIB)
        in_use(world, "b")
        for rank in (Priority.BULK, Priority.INTERACTIVE, Priority.DEFAULT):
            by = Requester(rank.name, rank)
            world.tell(Submit(rank.name, "a", requester=by, hints=Hints(0.0)))

        [waiter] = world.scheduler.waiting.of("a")
        assert Priority.INTERACTIVE is waiter.requester.priority

    def test_the_wish_does_not_live_for_ever(self) -> None:
        """After queue_timeout nothing is wished any more, and nobody gets an answer for it."""
        world = one_node(8 * GIB, "b", a=8 * GIB, b=8 * GIB)
        in_use(world, "b")
        ask(world, "a", 0.0)
        answers = len(world.of_kind(Reject)) + len(world.of_kind(Grant))

        world.wait(TERMS.queue_timeout)
        world.sweep()

        assert () == world.scheduler.waiting.of("a")
        assert answers == len(world.of_kind(Reject)) + len(world.of_kind(Grant))

    def test_a_hopeless_wish_ends(self) -> None:
        """Where the load fails for good, the wish for it is over."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        ask(world, "a", 0.0)

        world.load_failed("ada", listed=UNLOADED)

        assert () == world.scheduler.waiting.of("a")

    def test_a_loaded_model_leaves_no_wish(self) -> None:
        """Where only a slot is missing, there is nothing to load in the client's absence."""
        world = one_node(24 * GIB, "a", capacity=1, a=8 * GIB)
        in_use(world, "a")

        ask(world, "a", 0.0)

        assert isinstance(world.errors["asker"], ModelLoading)
        assert () == world.scheduler.waiting.of("a")


class ShortWaitTests(SynchronousTestCase):
    def test_what_comes_in_time_is_waited_for(self) -> None:
        """A client that waits longer than the load usually takes stays in the queue."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        learn(world, "a", 4.0)

        ask(world, "a", 20.0)
        assert ["asker"] == world.waiting
        world.finish_all()

        assert "asker" in world.leases

    def test_what_comes_too_late_is_not_waited_for(self) -> None:
        """A client that waits for less than the load usually takes is rejected at once."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        learn(world, "a", 40.0)

        ask(world, "a", 5.0)

        assert isinstance(world.errors["asker"], ModelLoading)
        assert [StartLoad("ada", "a", 8 * GIB, 5.0)] == world.of_kind(StartLoad)[-1:]

    def test_a_wait_ends(self) -> None:
        """A load that takes longer than expected is not waited for beyond the client's time."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        learn(world, "a", 4.0)
        ask(world, "a", 20.0)

        world.wait(19.9)
        world.tell(Tick())
        assert ["asker"] == world.waiting
        world.wait(0.1)
        world.tell(Tick())

        error = world.errors["asker"]
        assert isinstance(error, ModelLoading)
        assert 1.0 == error.retry_after
        world.finish_all()
        assert "a" in {replica.model for replica in world.fleet.nodes["ada"].residents}

    def test_a_long_wait_is_that_of_the_queue(self) -> None:
        """Nobody waits longer than queue_timeout, whatever the request says."""
        world = World(setup({"ada": 8 * GIB}, {"a": 8 * GIB, "b": 8 * GIB}, {"ada": "b"}))
        in_use(world, "b")

        ask(world, "a", 1e9)
        assert ["asker"] == world.waiting
        world.wait(TERMS.queue_timeout)
        world.tell(Tick())

        assert "queue_timeout" == world.errors["asker"].code

    def test_ends_of_requests_that_left_are_forgotten(self) -> None:
        """Requests that wait in turn, each with an end far away, take no memory for ever."""
        world = one_node(24 * GIB, "", a=8 * GIB)
        learn(world, "a", 4.0)

        for number in range(500):
            world.cancel(ask(world, "a", 500.0, f"asker-{number}"))

        assert len(world.scheduler.waiting._ends) < 100
