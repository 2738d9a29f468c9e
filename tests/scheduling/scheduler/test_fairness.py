"""Several requesters of all classes under any sequence of events: the rules of the queue hold."""

from hypothesis import strategies as st
from hypothesis.stateful import rule
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import Priority, Requester
from cortexd.errors import QueueFull
from cortexd.scheduling.terms import SchedulingTerms
from tests.scheduling.scheduler.test_properties import (
    NUMBERS,
    SETTLED_WITHIN,
    Machine,
    WildMachine,
    run_machine,
)
from tests.support.scheduling import World, in_use, one_node, setup

ANN = Requester("ann", Priority.INTERACTIVE)
ALF = Requester("alf", Priority.INTERACTIVE)
BOB, BEA = Requester("bob"), Requester("bea", weight=3.0)
CYD, CAL = Requester("cyd", Priority.BULK), Requester("cal", Priority.BULK)
REQUESTERS = st.sampled_from([ANN, ALF, BOB, BEA, CYD, CAL])


def flood(world: World, model: str, requester: Requester, count: int) -> list[str]:
    return [world.submit(model, by=requester) for _ in range(count)]


class ShareTests(SynchronousTestCase):
    def test_least_used_first(self) -> None:
        """Of two requesters that wait, the one that has used less is served first."""
        world = one_node(20, "a", capacity=1, a=10)
        (running, *rest) = flood(world, "a", BOB, 3)
        late = world.submit("a", by=Requester("eve"))
        world.wait(5.0)
        world.end(running)

        assert {late} == set(world.leases)
        assert rest == world.waiting

    def test_a_new_flood_does_not_keep_off_who_worked_before(self) -> None:
        """A requester without any use starts just below the one that was served last."""
        world = one_node(20, "a", capacity=1, a=10)
        eve = Requester("eve")
        for _ in range(60):
            (done,) = flood(world, "a", BOB, 1)
            world.wait(10.0)
            world.end(done)
        flood(world, "a", eve, 50)
        waits = world.submit("a", by=BOB)
        served = 0
        while waits in world.waiting:
            world.wait(5.0)
            world.end(*list(world.leases))
            served += 1

        assert served <= 4

    def test_one_requester_is_served_in_order(self) -> None:
        """As without keys, whatever the requester has used."""
        world = one_node(20, "a", capacity=1, a=10)
        names = flood(world, "a", CYD, 6)
        order = []
        while world.leases:
            (done,) = world.leases
            order.append(done)
            world.wait(40.0)
            world.end(done)

        assert names == order


class ClassTests(SynchronousTestCase):
    def test_bulk_waits_behind_all_others(self) -> None:
        """The order of classes is interactive, default, bulk, whatever came first."""
        world = one_node(20, "a", capacity=1, a=10)
        (running,) = in_use(world, "a")
        waiting = [world.submit("a", by=requester) for requester in (CYD, BOB, ANN)]
        for expected in reversed(waiting):
            world.end(running)
            (running,) = world.leases
            assert expected == running

    def test_bulk_does_not_starve(self) -> None:
        """After three times max_wait it comes first, at most once for each interactive request."""
        terms = SchedulingTerms(max_wait=10.0)
        world = World(setup({"ada": 20}, {"a": 10}, {"ada": "a"}, capacity=1, terms=terms))
        flood(world, "a", ANN, 3)
        bulk = world.submit("a", by=CYD)
        began = world.now
        while bulk in world.waiting and world.now < began + 100.0:
            world.wait(2.0)
            world.end(*list(world.leases))
            flood(world, "a", ANN, 1)

        assert 30.0 <= world.now - began <= 32.0

    def test_interactive_requests_take_what_bulk_ones_use(self) -> None:
        """A model that only bulk requests use is drained at once, without max_wait."""
        world = one_node(15, "b", a=10, b=10)
        running = flood(world, "b", CYD, 9)
        world.submit("a", by=ANN)
        world.end(*[each for each in running if each in world.leases])

        assert ["unload b on ada"] == world.started()

    def test_bulk_requests_leave_what_interactive_ones_use(self) -> None:
        """Also while it is idle; after five minutes without use they take it."""
        world = one_node(15, "a", a=10, b=10)
        used = world.submit("a", by=ANN)
        flood(world, "b", CYD, 20)
        world.wait(60.0)
        world.end(used)
        for _ in range(29):
            world.wait(10.0)
            world.sweep()
        assert [] == world.started()
        world.wait(11.0)
        world.sweep()

        assert ["unload a on ada"] == world.started()

    def test_a_drain_for_bulk_requests_ends_for_an_interactive_one(self) -> None:
        """The model that was to go answers again."""
        world = one_node(15, "a", a=10, b=10)
        busy = world.submit("a", by=CAL)
        flood(world, "b", CYD, 3)
        world.pass_time(31)
        assert world.scheduler.swaps.on("ada") is not None
        asked = world.submit("a", by=ANN)

        assert {busy, asked} == set(world.leases)

    def test_a_drain_that_ended_for_a_higher_class_does_not_begin_again(self) -> None:
        """While the interactive request waits for a slot of the model, nobody drains it."""
        world = one_node(15, "a", capacity=1, a=10, b=10)
        busy = world.submit("a", by=CAL)
        flood(world, "b", CYD, 3)
        world.pass_time(31)
        assert world.scheduler.swaps.on("ada") is not None
        waits = world.submit("a", by=ANN)
        world.pass_time(31)
        assert world.scheduler.swaps.on("ada") is None
        world.end(busy)

        assert {waits} == set(world.leases)

    def test_one_node_at_a_time_drains_for_a_model(self) -> None:
        """Whatever lower classes use on the others, the first drain goes on to its end."""
        world = World(
            setup({"ada": 15, "bob": 15}, {"a": 10, "b": 10, "c": 10}, {"ada": "b", "bob": "c"})
        )
        running = [world.submit(model, by=CYD) for model in ("b", "c")]
        world.submit("a", by=ANN)
        world.pass_time(3)
        world.sweep()
        (swap,) = world.scheduler.swaps
        world.end(*running)

        assert [f"unload {swap.victims[0].model} on {swap.node.name}"] == world.started()


class FullQueueTests(SynchronousTestCase):
    def world(self) -> World:
        terms = SchedulingTerms(max_queue=3)
        return World(setup({"ada": 20}, {"a": 10}, {"ada": "a"}, capacity=1, terms=terms))

    def test_a_flood_does_not_fill_the_queue_for_others(self) -> None:
        """Its newest request is refused instead, until others have as many there."""
        world = self.world()
        requests = flood(world, "a", BOB, 4)
        other = [world.submit("a", by=Requester("eve")) for _ in range(2)]

        assert [requests[-1], other[-1]] == list(world.errors)
        assert all(isinstance(error, QueueFull) for error in world.errors.values())

    def test_a_higher_class(self) -> None:
        """It takes the place of bulk requests, and never the other way round."""
        world = self.world()
        flood(world, "a", CYD, 4)
        wanted = flood(world, "a", ANN, 3)
        refused = flood(world, "a", CYD, 1)

        assert [*wanted] == world.waiting
        assert refused[0] in world.errors


class FairMachine(Machine):
    """Requests of several requesters of all classes."""

    # Bulk requests wait until nobody has used what they evict for five minutes.
    settled_within = SETTLED_WITHIN + 1500.0

    @rule(number=NUMBERS, requester=REQUESTERS, count=st.integers(1, 4))
    def submit_by(self, number: int, requester: Requester, count: int) -> None:
        for _ in range(count):
            self.world.submit(self.model(number), by=requester)

    @rule(number=NUMBERS, node=NUMBERS, requester=REQUESTERS)
    def submit_there_by(self, number: int, node: int, requester: Requester) -> None:
        self.world.submit(self.model(number), only=[self.node(node)], by=requester)

    @rule(number=NUMBERS, others=st.lists(REQUESTERS, min_size=2, max_size=5))
    def submit_all(self, number: int, others: list[Requester]) -> None:
        for requester in others:
            self.world.submit(self.model(number), by=requester)


class WildFairMachine(FairMachine, WildMachine):
    """As well all that may go wrong, and an operator."""


class FairnessTests(SynchronousTestCase):
    def test_requests(self) -> None:
        """Whoever asks for what, the rules hold and everybody is answered."""
        run_machine(FairMachine, 120)

    def test_faults_and_wishes(self) -> None:
        """So they do whatever fails, and whatever an operator wants."""
        run_machine(WildFairMachine, 120)
