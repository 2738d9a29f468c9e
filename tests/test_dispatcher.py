from collections.abc import Collection
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dispatcher import Dispatcher
from cortexd.errors import (
    ModelNotLoaded,
    OperationRefused,
    Overloaded,
    QueueFull,
    QueueTimeout,
)
from cortexd.fleet.nodes import Lease
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling import allocator
from cortexd.scheduling.events import (
    Charged,
    CordonWanted,
    Effect,
    Grant,
    LoadDone,
    Observed,
    Reject,
    StartLoad,
    Submit,
    Sweep,
)
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.telemetry.metrics import Metrics
from tests.support.nodes import LOADED, UNLOADED, make_fleet

MODEL = "acme/chat"
OTHER = "acme/other"


class DispatcherTestCase(SynchronousTestCase):
    """Two nodes that list MODEL as loaded and OTHER as unloaded, with two slots each."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.fleet = make_fleet("a", "b", capacity=2, sizes={MODEL: 1_000, OTHER: 1_000})
        terms = SchedulingTerms(max_queue=2, queue_timeout=60.0, max_wait=10.0)
        self.scheduler = Scheduler(self.fleet, terms)
        self.dispatcher = Dispatcher(self.scheduler, self.clock, self.metrics)
        self.effects: list[Effect] = []
        self.dispatcher.listen(self.effects.append)
        for name in "ab":
            self.list_as(name, LOADED)
        self.effects.clear()

    def list_as(self, name: str, state: ReplicaState) -> None:
        self.clock.advance(1)
        listing = Observation(1, {MODEL: state, OTHER: UNLOADED})
        self.dispatcher.dispatch(Observed(name, listing, self.clock.seconds()))

    def acquiring(
        self, tried: Collection[str] = (), *, request_id: str = "req_1", model: str = MODEL
    ) -> Deferred[Grant]:
        return self.dispatcher.acquire(model, request_id, tried)

    def lease(self, *tried: str) -> Lease:
        return self.successResultOf(self.acquiring(tried)).lease

    def fill(self) -> list[Lease]:
        return [self.lease() for _ in range(4)]

    def in_flight(self, node: str) -> float | None:
        labels = {"model": MODEL, "node": node}
        return self.metrics.registry.get_sample_value("cortex_requests_in_flight", labels)

    def kinds(self) -> list[str]:
        return [type(effect).__name__ for effect in self.effects]


class BorrowingTests(DispatcherTestCase):
    def test_idle_node(self) -> None:
        """A question of ours gets a lease on an idle node at once, and shows in no metric."""
        lease = self.successResultOf(self.dispatcher.borrow(MODEL, "b", "probe-1")).lease

        assert ("b", True, (lease,)) == (lease.node, lease.is_probe, self.fleet.leases)
        assert self.in_flight("b") is None
        self.dispatcher.release(lease)
        assert ((), None) == (self.fleet.leases, self.in_flight("b"))

    def test_busy_node(self) -> None:
        """It never waits: a node with anything else to do rejects it."""
        self.lease()
        node = self.fleet.leases[0].node
        self.failureResultOf(self.dispatcher.borrow(MODEL, node, "probe-1"), Overloaded)
        self.failureResultOf(self.dispatcher.borrow(OTHER, "b", "probe-2"), Overloaded)

        assert 1 == len(self.fleet.leases)


class LeaseTests(DispatcherTestCase):
    def test_a_lease_says_who_holds_what_since_when(self) -> None:
        """It is granted at the clock's time, and the fleet knows of it."""
        self.clock.advance(7.5)
        grant = self.successResultOf(self.acquiring())

        lease = grant.lease
        assert ("a", MODEL, "req_1", 9.5) == (
            lease.node,
            lease.model,
            lease.request_id,
            lease.granted_at,
        )
        assert (0.0, 0.0, "resident") == (grant.queued_seconds, grant.load_seconds, grant.decision)
        assert (lease,) == self.fleet.leases
        assert [] == self.clock.getDelayedCalls()

    def test_requests_spread_over_the_nodes(self) -> None:
        """Each goes where the fewest are; the gauge shows where."""
        leases = self.fill()

        assert ["a", "b", "a", "b"] == [lease.node for lease in leases]
        assert (2.0, 2.0) == (self.in_flight("a"), self.in_flight("b"))
        for lease in leases:
            self.dispatcher.release(lease)
        assert (0.0, 0.0) == (self.in_flight("a"), self.in_flight("b"))
        assert () == self.fleet.leases

    def test_no_node_is_tried_twice(self) -> None:
        """One that was tried gets no lease, though it has fewer, and nobody waits for another."""
        assert ["b", "b"] == [self.lease("a").node for _ in range(2)]
        self.failureResultOf(self.acquiring(["a"]), Overloaded)
        self.failureResultOf(self.acquiring(["a", "b"]), Overloaded, ModelNotLoaded)
        assert 2 == len(self.fleet.leases)
        assert [] == self.clock.getDelayedCalls()

    def test_a_slot_is_free_again_at_once(self) -> None:
        """The next request gets what was released."""
        leases = self.fill()
        self.dispatcher.release(leases[1])
        assert "b" == self.lease().node

    def test_a_lease_outlives_its_replica(self) -> None:
        """It is released all the same when the node lists the model no more."""
        lease = self.lease()
        self.dispatcher.dispatch(Observed("a", Observation(1, {}), self.clock.seconds()))
        self.dispatcher.release(lease)
        assert ((), 0.0) == (self.fleet.leases, self.in_flight("a"))

    def test_a_lease_ends_once(self) -> None:
        """A second end is a mistake, and is told to who makes it."""
        lease = self.lease()
        self.dispatcher.release(lease)
        self.assertRaises(KeyError, self.dispatcher.release, lease)


class WaitTests(DispatcherTestCase):
    def waiting(self, **fields: Any) -> Deferred[Grant]:
        acquiring = self.acquiring(**fields)
        self.assertNoResult(acquiring)
        return acquiring

    def test_a_request_waits_for_a_slot(self) -> None:
        """It gets the first that is free, and its grant says how long that took."""
        first, *_ = self.fill()
        waiting = self.waiting()
        self.clock.advance(2.5)
        self.dispatcher.release(first)

        grant = self.successResultOf(waiting)
        assert ("a", 2.5, "queued") == (grant.lease.node, grant.queued_seconds, grant.decision)
        name = "cortex_queue_wait_seconds"
        labels = {"model": MODEL, "node": "a"}
        value = self.metrics.registry.get_sample_value
        assert (3.0, 2.5) == (value(f"{name}_count", labels), value(f"{name}_sum", labels))
        assert [] == self.clock.getDelayedCalls()

    def test_the_first_to_come_is_the_first_served(self) -> None:
        """Whoever ends."""
        leases = self.fill()
        waiting = [self.waiting() for _ in range(2)]
        self.dispatcher.release(leases[3])
        self.successResultOf(waiting[0])
        self.assertNoResult(waiting[1])
        self.dispatcher.release(leases[0])
        self.successResultOf(waiting[1])

    def test_a_full_queue_is_an_error_at_once(self) -> None:
        """With a time to come back; nothing is left of the request."""
        leases = self.fill()
        waiting = [self.waiting() for _ in range(2)]
        error = self.failureResultOf(self.acquiring(), QueueFull).value
        assert 503 == error.status
        assert error.retry_after is not None
        for lease in leases:
            self.dispatcher.release(lease)
        for each in waiting:
            self.successResultOf(each)
        assert [] == self.clock.getDelayedCalls()

    def test_the_wait_has_an_end(self) -> None:
        """After queue_timeout, to the second, without any other event."""
        self.fill()
        waiting = self.waiting()
        for _ in range(599):
            self.clock.advance(0.1)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        self.failureResultOf(waiting, QueueTimeout)
        assert [] == self.clock.getDelayedCalls()
        assert 0 == len(self.scheduler.waiting)

    def test_after_max_wait_the_scheduler_looks_again(self) -> None:
        """It then drains what is in use, so that the request's model can come."""
        sizes = {MODEL: 24_000, OTHER: 24_000}
        self.fleet = make_fleet("a", capacity=2, sizes=sizes)
        self.scheduler = Scheduler(self.fleet, self.scheduler.terms)
        self.dispatcher = Dispatcher(self.scheduler, self.clock, self.metrics)
        self.list_as("a", LOADED)
        self.lease()
        self.waiting(model=OTHER)
        self.clock.advance(9.9)
        assert self.scheduler.swaps.on("a") is None
        self.clock.advance(0.2)
        swap = self.scheduler.swaps.on("a")
        assert swap is not None
        assert "draining" == swap.phase

    def test_leaving_leaves_the_queue(self) -> None:
        """Nobody is granted what nobody wants, and no timer is left."""
        first, *_ = self.fill()
        gone, stays = self.waiting(), self.waiting()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.dispatcher.release(first)
        self.successResultOf(stays)
        assert [] == self.clock.getDelayedCalls()
        assert 0 == len(self.scheduler.waiting)
        assert (2.0, 2.0) == (self.in_flight("a"), self.in_flight("b"))

    def test_leaving_after_the_answer_changes_nothing(self) -> None:
        """The lease is held by who got it."""
        acquiring = self.acquiring()
        acquiring.cancel()
        self.successResultOf(acquiring)
        assert 1 == len(self.fleet.leases)

    def test_a_request_id_may_come_twice(self) -> None:
        """Clients choose their ids themselves; each of the two gets its own answer."""
        first, second, *_ = self.fill()
        one, two = (self.waiting(request_id="same") for _ in range(2))
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertNoResult(two)
        self.dispatcher.release(first)
        self.successResultOf(two)
        again = self.waiting(request_id="same")
        self.dispatcher.release(second)
        self.successResultOf(again)

    def test_a_load_is_waited_for(self) -> None:
        """A request for a model that nobody has gets it once it is loaded, and knows why."""
        waiting = self.waiting(model=OTHER)
        assert [StartLoad("a", OTHER, 1_000)] == self.effects[-1:]
        self.clock.advance(5)
        self.dispatcher.dispatch(LoadDone("a", OTHER, 5.0, 900))
        grant = self.successResultOf(waiting)
        assert ("a", OTHER, 5.0, 5.0, "loaded") == (
            grant.lease.node,
            grant.lease.model,
            grant.queued_seconds,
            grant.load_seconds,
            grant.decision,
        )


class HandOutTests(DispatcherTestCase):
    def two_waiting_for_a_reload(self) -> tuple[Deferred[Grant], Deferred[Grant]]:
        """Give two requests that one observation will grant; nobody has the model until then."""
        for name in "ab":
            self.list_as(name, ReplicaState.LOADING)
        first, second = (self.acquiring(request_id=name) for name in ("first", "second"))
        self.effects.clear()
        return first, second

    def test_effects_are_handed_out_in_their_order(self) -> None:
        """What an answer leads to comes after everything that was decided before it."""
        first, second = self.two_waiting_for_a_reload()
        first.addCallback(lambda grant: self.dispatcher.release(grant.lease))
        second.addCallback(lambda _: self.acquiring(model=OTHER))
        self.list_as("a", LOADED)

        came = ["ReplicaChanged", "Grant", "Grant", "Charged", "ReplicaChanged", "StartLoad"]
        assert came == self.kinds()
        assert ["first", "second"] == [
            effect.lease.request_id for effect in self.effects if isinstance(effect, Grant)
        ]

    def test_a_listener_that_dispatches_does_not_jump_the_queue(self) -> None:
        """Every listener hears every effect in the same order."""

        def cordon(effect: Effect) -> None:
            if isinstance(effect, Grant) and not self.fleet.nodes["b"].cordoned:
                self.dispatcher.dispatch(CordonWanted("b", cordoned=True))

        later: list[Effect] = []
        self.dispatcher.listen(cordon)
        self.dispatcher.listen(later.append)
        self.two_waiting_for_a_reload()
        later.clear()
        self.list_as("a", LOADED)

        assert ["ReplicaChanged", "Grant", "Grant", "CordonChanged"] == self.kinds()
        assert self.effects == later

    def test_who_leaves_before_its_grant_is_handed_out_gets_none(self) -> None:
        """The scheduler has decided already: the lease is given back at once."""
        first, second = self.two_waiting_for_a_reload()
        first.addCallback(lambda _: second.cancel())
        self.list_as("a", LOADED)

        self.failureResultOf(second, CancelledError)
        assert ["first"] == [lease.request_id for lease in self.fleet.leases]
        assert 1.0 == self.in_flight("a")
        assert [] == self.clock.getDelayedCalls()

    def test_a_grant_goes_to_nobody_else(self) -> None:
        """A request by the same id that comes meanwhile, for another model, waits for its own."""
        first, second = self.two_waiting_for_a_reload()
        late: list[Deferred[Grant]] = []

        def leave_and_come_again(_: Grant) -> None:
            second.cancel()
            late.append(self.acquiring(request_id="second", model=OTHER))

        first.addCallback(leave_and_come_again)
        self.list_as("a", LOADED)

        self.failureResultOf(second, CancelledError)
        self.assertNoResult(late[0])
        assert ["first"] == [lease.request_id for lease in self.fleet.leases]
        late[0].cancel()
        self.failureResultOf(late[0], CancelledError)

    def test_who_comes_during_a_hand_out_is_answered_in_its_turn(self) -> None:
        """With no timer left over."""
        first, second = self.two_waiting_for_a_reload()
        late: list[Deferred[Grant]] = []

        def release_and_come_again(grant: Grant) -> None:
            self.dispatcher.release(grant.lease)
            late.append(self.acquiring())

        first.addCallback(release_and_come_again)
        self.list_as("a", LOADED)
        self.successResultOf(second)
        self.successResultOf(late[0])
        assert [] == self.clock.getDelayedCalls()

    def test_a_listener_that_fails_stops_nobody(self) -> None:
        """Its mistake is logged; others hear all, the answer is given, and the next works too."""

        def fail(effect: Effect) -> None:
            raise RuntimeError("a mistake of ours")

        self.dispatcher.listen(fail)
        heard: list[Effect] = []
        self.dispatcher.listen(heard.append)
        leases = [self.lease() for _ in range(3)]
        assert leases == [effect.lease for effect in heard if isinstance(effect, Grant)]
        assert 3 == len(self.flushLoggedErrors(RuntimeError))

    def test_a_wish_that_is_refused_is_the_callers(self) -> None:
        """It is raised there, and nothing is handed out."""
        self.assertRaises(
            OperationRefused, self.dispatcher.dispatch, CordonWanted("nobody", cordoned=True)
        )
        assert [] == self.effects
        self.lease()

    def test_a_mistake_of_the_scheduler_leaves_no_request_behind(self) -> None:
        """Who asked hears of it, and the next request is served."""

        def crash(event: object, now: float) -> Any:
            raise RuntimeError("a mistake of ours")

        patched = self.patch(self.scheduler, "handle", crash)
        self.assertRaises(RuntimeError, self.acquiring)
        patched.restore()
        self.lease()
        assert [] == self.clock.getDelayedCalls()

    def test_an_answer_to_nobody_is_no_lease(self) -> None:
        """What is granted to a request that never asked here is given back."""
        self.dispatcher.dispatch(Submit("stranger", MODEL))
        self.dispatcher.dispatch(Submit("stranger", MODEL, ("a", "b")))
        assert [Grant, Charged, Reject] == [type(effect) for effect in self.effects]
        assert ((), 0.0) == (self.fleet.leases, self.in_flight("a"))


class UnsettledTests(DispatcherTestCase):
    def test_it_is_counted(self) -> None:
        """What is cut short because it does not end is counted."""
        self.patch(allocator, "LEAST_STEPS", 0)
        self.patch(allocator, "STEPS_EACH", 0)

        self.dispatcher.dispatch(Sweep())

        assert self.metrics.registry.get_sample_value("cortex_scheduler_unsettled_total")
