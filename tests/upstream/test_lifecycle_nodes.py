"""What becomes of loads and unloads when their node, or the daemon, goes away."""

from typing import Any

from twisted.internet.defer import Deferred

from cortexd.fleet.states import NodeHealth, ReplicaState
from cortexd.scheduling.events import Event, LoadDone, LoadFailed, Sweep, Tick
from cortexd.scheduling.handlers.polls import LOST_LOAD
from cortexd.upstream import lifecycle
from tests.support.fleets import MODEL
from tests.support.lifecycles import (
    COLD,
    COLD_MB,
    STATUS,
    SYSTEM,
    LifecycleTestCase,
    break_newest_connection,
    cold,
)


class LookTests(LifecycleTestCase):
    def test_the_scheduler_looks_around(self) -> None:
        """At who waits in every second, at everything at each interval, until the stop."""
        fleet = self.fleet_of(self.node("a"))
        looks: list[Event] = []
        handle = fleet.scheduler.handle

        def looking(event: Event, now: float) -> Any:
            looks.append(event)
            return handle(event, now)

        self.patch(fleet.scheduler, "handle", looking)
        for _ in range(25):
            fleet.advance(1)
        assert (25, 2) == (looks.count(Tick()), looks.count(Sweep()))
        fleet.lifecycle.stopService()
        fleet.advance(20)
        assert 27 == len(looks)
        fleet.lifecycle.startService()
        fleet.advance(10)
        assert Sweep() == looks[-1] or Sweep() == looks[-2]

    def test_a_large_fleet_is_looked_at_in_parts(self) -> None:
        """First at the queues, then at some nodes at a time, each part in a turn of its own."""
        self.patch(lifecycle, "NODES_AT_ONCE", 1)
        fleet = self.fleet_of(self.node("a"), self.node("b"))
        looks: list[Event] = []
        handle = fleet.scheduler.handle

        def looking(event: Event, now: float) -> Any:
            if isinstance(event, Sweep):
                looks.append(event)
            return handle(event, now)

        self.patch(fleet.scheduler, "handle", looking)
        fleet.advance(10)
        assert [Sweep(()), Sweep(("a",)), Sweep(("b",))] == looks
        fleet.advance(10)
        assert 6 == len(looks)

    def test_a_mistake_of_ours_ends_no_looking(self) -> None:
        """The log has its traceback, and the next look is as good as any."""
        fleet = self.fleet_of(self.node("a"))
        failing = True
        looks: list[Event] = []

        def crash(event: Event, now: float) -> Any:
            looks.append(event)
            if failing:
                raise RuntimeError("a mistake of ours")
            return ()

        self.patch(fleet.scheduler, "handle", crash)
        fleet.advance(1)
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        failing = False
        fleet.advance(1)
        assert [Tick(), Tick()] == looks
        assert ["Tick"] == [event["look"] for event in fleet.events("look_crashed")]


class NodeTests(LifecycleTestCase):
    def test_a_node_that_is_deaf_while_it_loads_is_busy(self) -> None:
        """Not down: its load goes on, and what is loaded there may be asked for."""
        node = self.node("a", MODEL, cold())
        node.faults.deaf_while_loading = True
        fleet = self.fleet_of(node)
        fleet.poller.startService()
        self.load(fleet)
        fleet.advance(30)
        assert NodeHealth.BUSY_LOADING is self.health(fleet)
        fleet.advance(31)
        assert [LoadDone] == [type(end) for end in self.ends]
        fleet.advance(5)
        assert NodeHealth.UP is self.health(fleet)
        assert [] == fleet.events("node_down")

    def test_a_node_that_goes_down_ends_its_load_once(self) -> None:
        """The scheduler gives it up as soon as the poller knows."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node, down_after=1)
        self.load(fleet)
        fleet.advance(20)
        Deferred.fromCoroutine(node.close())
        fleet.poll()

        assert NodeHealth.DOWN is self.health(fleet)
        words = "node a went down or restarted in the meantime"
        assert [LoadFailed("a", COLD, words, unreachable=True, begun=True)] == self.ends
        self.assert_at_rest(fleet)
        fleet.advance(100)
        assert 1 == len(self.ends)

    def test_a_restart_ends_a_load_and_what_is_listed_then_counts(self) -> None:
        """The new process may have loaded the model by itself."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(20)
        node.starts_loaded = [COLD]
        node.faults.hang_routes = {STATUS}
        node.restart()
        fleet.poll()
        fleet.flush()

        words = "node a went down or restarted in the meantime"
        assert [LoadFailed("a", COLD, words, listed=ReplicaState.LOADED)] == self.ends
        assert ReplicaState.LOADED is self.state(fleet)
        self.assert_at_rest(fleet)
        fleet.advance(100)
        assert 1 == len(self.ends)

    def test_stopping_ends_everything_in_silence(self) -> None:
        """At whatever point a load is: no event, no question, no timer, no error."""
        for hang, seconds in ((SYSTEM, 1), (STATUS, 1), ("", 20), ("", 21)):
            node = self.node("a", MODEL, cold())
            fleet = self.fleet_of(node)
            node.faults.hang_routes = {hang}
            self.load(fleet)
            fleet.advance(seconds)
            if seconds == 21:
                break_newest_connection(fleet)
            fleet.lifecycle.stopService()
            fleet.flush()
            asked = len(node.journal.requests())
            fleet.pool.closeCachedConnections()
            fleet.flush()
            fleet.advance(10)
            assert [] == self.ends
            assert asked == len(node.journal.requests())
            assert [] == self.flushLoggedErrors()
            assert {} == fleet.lifecycle._operations

    def test_what_is_decided_after_the_stop_is_not_begun(self) -> None:
        """Nobody would end it."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        fleet.lifecycle.stopService()
        asked = len(node.journal.requests())
        self.load(fleet)
        fleet.advance(1)
        assert asked == len(node.journal.requests())

    def test_a_node_that_is_gone_is_blamed_and_not_the_model(self) -> None:
        """Its load is begun again as soon as the node answers a poll, and not sooner."""
        node = self.node("a", MODEL, cold(load_seconds=1.0))
        fleet = self.fleet_of(node, models={MODEL: {"vram_mb": 1_000}, COLD: {"vram_mb": COLD_MB}})
        fleet.close_idle()
        Deferred.fromCoroutine(node.close())
        fleet.flush()
        client = fleet.stream(model=COLD)
        fleet.advance(5)
        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        assert end.unreachable
        replica = fleet.fleet.replica("a", COLD)
        assert replica is not None
        assert (0, "") == (replica.failures, replica.failure)
        assert not fleet.fleet.nodes["a"].takes_work

        Deferred.fromCoroutine(node.listen(fleet.network, fleet.ports["a"]))
        fleet.poll()
        fleet.advance(2)
        assert [LoadFailed, LoadDone] == [type(end) for end in self.ends]
        fleet.advance(5)
        assert ("clean", "You said: hi") == (client.ended, client.content())

    def test_a_load_that_ends_its_process_backs_off(self) -> None:
        """Else it would end the answers of all other models there, as soon as the node is back."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        fleet.poller.startService()
        for times in (1, 2, 3):
            fleet.stream(model=COLD)
            fleet.advance(2)
            # As where the system kills it for its memory, and starts it again.
            Deferred.fromCoroutine(node.vanish(fleet.network, 8))
            fleet.advance(14)
            replica = fleet.fleet.replica("a", COLD)
            assert replica is not None
            assert (times, LOST_LOAD) == (replica.failures, replica.failure)
            fleet.advance(replica.retry_at - self.clock.seconds())

        assert {COLD: 3} == node.journal.report().loads

    def test_a_machine_that_dies_in_a_load_is_not_waited_for(self) -> None:
        """Nobody ends its connections: it is silent like one that loads, but for too long."""
        dead = self.node("a", MODEL, cold(load_seconds=10_000.0))
        fleet = self.fleet_of(dead, self.node("b", MODEL, cold(load_seconds=10.0)))
        for name in ("a", "b"):
            fleet.fleet.footprints.learn(name, COLD, 1.0, COLD_MB)
        fleet.poller.startService()
        client = fleet.stream(model=COLD)
        fleet.advance(5)
        assert {COLD: 1} == dead.journal.report().loads
        dead.faults.hang = True
        for _ in range(10):
            fleet.advance(5)
        assert NodeHealth.BUSY_LOADING is self.health(fleet)
        for _ in range(12):
            fleet.advance(5)

        assert NodeHealth.DOWN is self.health(fleet)
        assert ("clean", "You said: hi") == (client.ended, client.content())

    def test_a_node_that_answers_something_is_not_gone(self) -> None:
        """A status that hangs while the listing is answered is a failure of the load."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        node.faults.hang_routes = {STATUS}
        self.load(fleet)
        fleet.advance(11)
        assert [LoadFailed("a", COLD, "no answer within 10 s")] == self.ends
        assert fleet.fleet.nodes["a"].takes_work

    def test_a_mistake_of_ours_ends_an_operation_too(self) -> None:
        """The scheduler hears of it, else it would wait for ever; the log has the traceback."""
        fleet = self.fleet_of(self.node("a", MODEL, cold()))

        async def crash(model: str, timeout: float) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.clients["a"], "status", crash)
        self.load(fleet)
        assert [LoadFailed("a", COLD, "internal error; see the log")] == self.ends
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        self.assert_at_rest(fleet)

    def test_an_end_that_cannot_be_told_ends_all_the_same(self) -> None:
        """What is recorded of it is not worth a node that changes models for ever."""
        fleet = self.fleet_of(self.node("a", MODEL, cold(load_seconds=1.0)))

        def crash(*end: object) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.parts.recorder, "tell_end", crash)
        self.load(fleet)
        fleet.advance(1)
        assert [LoadDone("a", COLD, 1.0, COLD_MB)] == self.ends
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        self.assert_at_rest(fleet)
