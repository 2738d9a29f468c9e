"""Unloads as they are carried out at nodes, and what has become of the memory."""

from typing import Any

from twisted.internet.defer import Deferred

from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import UnloadDone, UnloadFailed
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.lifecycle import FOREIGN_REQUESTS_SECONDS
from cortexd.upstream.verifying import (
    LATE_SECONDS,
    LEVEL_LOOKS_UNMEASURED,
    MEMORY_SECONDS,
    TOLERATED_LEAK_MB,
    WATCH_SECONDS,
)
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import (
    MEMORY_MB,
    METRICS,
    STATUS,
    SYSTEM,
    UNLOAD,
    LifecycleTestCase,
    reload_behind_our_back,
    says,
)


class UnloadTestCase(LifecycleTestCase):
    def measured(self, *nodes: SimulatedNode, mb: int = 1_000, **settings: Any) -> InMemoryFleet:
        """Give a fleet that has learned what MODEL takes of each node."""
        fleet = self.fleet_of(*nodes, **settings)
        for node in nodes:
            fleet.fleet.footprints.learn(node.name, MODEL, 1.0, mb)
        return fleet

    def assert_gone(self, fleet: InMemoryFleet, leaked_mb: int = 0) -> None:
        assert [UnloadDone("a", MODEL, leaked_mb)] == self.ends
        assert ReplicaState.UNLOADED is self.state(fleet, MODEL)
        assert leaked_mb == fleet.fleet.nodes["a"].leaked_mb
        self.assert_at_rest(fleet)

    def assert_kept(self, fleet: InMemoryFleet, reason: str) -> None:
        """See that the unload failed for this reason, and the model is as good as before."""
        assert [UnloadFailed("a", MODEL, reason)] == self.ends
        assert ReplicaState.LOADED is self.state(fleet, MODEL)
        self.assert_at_rest(fleet)


class UnloadTests(UnloadTestCase):
    def test_an_unload_is_asked_for_and_verified(self) -> None:
        """Nothing runs there, it is loaded; then it is not, and its memory is back."""
        node = self.node("a")
        fleet = self.measured(node)
        node.journal.clear()
        self.unload(fleet)

        assert [METRICS, SYSTEM, METRICS, STATUS, UNLOAD, STATUS, SYSTEM] == [
            entry.detail["path"] for entry in node.journal.requests()
        ]
        self.assert_gone(fleet)
        assert [says(MEMORY_MB)] == self.systems
        assert () == node.loaded_models
        assert 1.0 == fleet.sample("cortex_model_unload_seconds_count", model=MODEL, node="a")
        (line,) = fleet.events("unloaded")
        assert ("a", MODEL, 0) == tuple(line[field] for field in ("node", "model", "leaked_mb"))

    def test_what_somebody_else_has_unloaded_is_gone(self) -> None:
        """It is not asked for again."""
        node = self.node("a")
        fleet = self.measured(node)
        node.running_process.unload(MODEL)
        node.journal.clear()
        self.unload(fleet)
        self.assert_gone(fleet)
        assert [] == node.journal.requests(UNLOAD)

    def test_a_bricked_id_is_not_unloaded(self) -> None:
        """It could never come back before a restart; it is stuck from now on, and answers."""
        node = self.node("a")
        fleet = self.measured(node)
        reload_behind_our_back(node, MODEL)
        self.unload(fleet)

        (end,) = self.ends
        assert isinstance(end, UnloadFailed)
        assert ReplicaState.STUCK is end.listed is self.state(fleet, MODEL)
        assert [] == node.journal.requests(UNLOAD)
        assert 200 == fleet.chat().status
        self.assert_at_rest(fleet)

    def test_what_somebody_else_is_reloading_is_not_unloaded(self) -> None:
        """Nor is it given requests, which the node would refuse."""
        node = self.node("a", SimulatedModel(id=MODEL, load_seconds=60.0))
        fleet = self.measured(node)
        node.running_process.unload(MODEL)
        reload_behind_our_back(node, MODEL)
        self.unload(fleet)

        (end,) = self.ends
        assert isinstance(end, UnloadFailed)
        assert ReplicaState.LOADING is end.listed is self.state(fleet, MODEL)
        assert [] == node.journal.requests(UNLOAD)

    def test_a_node_too_old_would_lose_the_model(self) -> None:
        """Before 0.9.1, with several models; the reason says what to do."""
        node = self.node("a", MODEL, "acme/other", version="0.9.0")
        fleet = self.measured(node)
        self.unload(fleet)
        self.assert_kept(
            fleet,
            "mistral.rs 0.9.0 loses a model that it unloads, and does not free its memory: update "
            "the node to 0.9.2 or later",
        )
        assert [] == node.journal.requests(UNLOAD)

    def test_an_old_node_of_one_model_can_unload_it(self) -> None:
        """That model has its loader configuration since 0.7.0."""
        node = self.node("a", version="0.8.2")
        fleet = self.measured(node)
        self.unload(fleet)
        self.assert_gone(fleet)


class ForeignRequestTests(UnloadTestCase):
    def test_requests_past_us_are_waited_for(self) -> None:
        """None is cut off; the log says what is waited for."""
        node = self.node("a", token_seconds=10.0)
        fleet = self.measured(node)
        foreign = fleet.chat_past_us("a", stream=True)
        self.unload(fleet)
        fleet.advance(15)
        assert [] == self.ends
        assert [1] == [event["requests"] for event in fleet.events("unload_waits")]
        fleet.advance(6)
        assert ("clean", "You said: hi") == (foreign.ended, foreign.content())
        self.assert_gone(fleet)
        assert 0 == node.journal.report().cut_answers

    def test_they_are_not_waited_for_without_end(self) -> None:
        """After a minute the model stays, answers again, and nothing was cut."""
        node = self.node("a", token_seconds=100.0)
        fleet = self.measured(node)
        fleet.chat_past_us("a", stream=True)
        self.unload(fleet)
        fleet.advance(FOREIGN_REQUESTS_SECONDS - 1)
        assert [] == self.ends
        fleet.advance(1 + WATCH_SECONDS)
        self.assert_kept(fleet, "1 requests from other clients of the node still run on it")
        assert [] == node.journal.requests(UNLOAD)
        assert 1 == node.open_streams
        assert 1.0 == fleet.sample("cortex_model_unload_failures_total", model=MODEL, node="a")

    def test_those_of_another_model_are_nothing_to_it(self) -> None:
        """The node counts by model."""
        node = self.node("a", MODEL, "acme/other", token_seconds=100.0)
        fleet = self.measured(node)
        fleet.chat_past_us("a", model="acme/other", stream=True)
        self.unload(fleet)
        self.assert_gone(fleet)

    def test_those_that_come_while_the_machine_is_asked_count_too(self) -> None:
        """A node takes a while to describe itself."""
        node = self.node("a", token_seconds=1.0)
        fleet = self.measured(node)
        node.faults.slow_seconds = 1.0
        self.unload(fleet)
        fleet.advance(1.5)
        foreign = fleet.chat_past_us("a", stream=True)
        fleet.advance(20)
        assert ("clean", 0) == (foreign.ended, node.journal.report().cut_answers)
        self.assert_gone(fleet)

    def test_at_once_means_without_waiting(self) -> None:
        """The operator has said so: what runs is cut, and our own client hears of it."""
        node = self.node("a", token_seconds=100.0)
        fleet = self.measured(node)
        foreign, ours = fleet.chat_past_us("a", stream=True), fleet.stream()
        self.unload(fleet, now=True)
        fleet.flush()
        self.assert_gone(fleet)
        assert 2 == node.journal.report().cut_answers
        assert ("clean", "broken") == (foreign.ended, ours.ended)


class MemoryTests(UnloadTestCase):
    def test_memory_that_comes_back_late_is_waited_for(self) -> None:
        """Until then the model counts as there."""
        node = self.node("a")
        node.faults.free_delay_seconds = 4.0
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(3.9)
        assert ([], ReplicaState.UNLOADING) == (self.ends, self.state(fleet, MODEL))
        assert 1_000 == fleet.fleet.nodes["a"].committed_mb
        fleet.advance(0.6)
        self.assert_gone(fleet)
        assert 0 == fleet.fleet.nodes["a"].committed_mb

    def test_memory_that_comes_back_in_pieces_is_waited_for(self) -> None:
        """As long as it rises."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 20.0, 20
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(15)
        assert [] == self.ends
        fleet.advance(6)
        self.assert_gone(fleet)

    def assert_leaked(self, leaked_mb: int) -> None:
        """See that a leak is not booked as free, is counted, and makes a restart due."""
        node = self.node("a")
        node.faults.leak_mb_per_unload = leaked_mb
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(LATE_SECONDS + WATCH_SECONDS)
        self.assert_gone(fleet, leaked_mb)
        assert leaked_mb == fleet.fleet.nodes["a"].committed_mb
        assert leaked_mb * 2**20 == fleet.sample("cortex_unload_leak_bytes_total", node="a")
        fleet.advance(10)
        (due,) = fleet.events("node_restart_due")
        assert f"unloads did not free {leaked_mb} MiB" == due["reason"]

    def test_memory_of_which_some_does_not_come_back_has_leaked(self) -> None:
        """As much as is missing."""
        self.assert_leaked(300)

    def test_memory_that_does_not_come_back_has_leaked(self) -> None:
        """All of it."""
        self.assert_leaked(1_000)

    def test_memory_that_trickles_has_its_time(self) -> None:
        """Half a minute; what is missing then has leaked."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 100.0, 100
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(MEMORY_SECONDS - 1)
        assert [] == self.ends
        fleet.advance(1 + WATCH_SECONDS)
        self.assert_gone(fleet, 700)

    def test_a_little_may_be_missing(self) -> None:
        """Other processes take and free memory too."""
        node = self.node("a")
        node.faults.leak_mb_per_unload = TOLERATED_LEAK_MB
        fleet = self.measured(node)
        self.unload(fleet)
        self.assert_gone(fleet)

    def test_without_a_measure_it_is_watched_until_it_rises_no_more(self) -> None:
        """What should come back is not known then, so nothing has leaked."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 6.0, 6
        fleet = self.fleet_of(node)
        self.unload(fleet)
        fleet.advance(6)
        assert [] == self.ends
        fleet.advance(LEVEL_LOOKS_UNMEASURED * WATCH_SECONDS)
        self.assert_gone(fleet)

    def test_without_a_measure_a_pause_is_taken_for_the_end(self) -> None:
        """A second of it; a load that needs the rest looks for itself."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 6.0, 2
        fleet = self.fleet_of(node)
        self.unload(fleet)
        fleet.advance(3 + LEVEL_LOOKS_UNMEASURED * WATCH_SECONDS)
        self.assert_gone(fleet)

    def test_with_a_measure_a_pause_is_waited_for(self) -> None:
        """Twice as long, for it is known that something is to come."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 6.0, 4
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(5)
        assert [] == self.ends
        fleet.advance(1 + WATCH_SECONDS)
        self.assert_gone(fleet)

    def test_memory_that_cannot_be_read_is_taken_for_free(self) -> None:
        """What is not known is no leak."""
        node = self.node("a")
        node.faults.leak_mb_per_unload = 1_000
        fleet = self.measured(node)
        node.faults.hang_routes = {SYSTEM}
        self.unload(fleet)
        fleet.advance(16)
        self.assert_gone(fleet)

    def test_memory_that_cannot_be_read_any_more_is_taken_for_free(self) -> None:
        """Likewise, if it could be before."""
        node = self.node("a")
        node.faults.leak_mb_per_unload = 1_000
        fleet = self.measured(node)
        self.unload(fleet)
        node.faults.hang_routes = {SYSTEM}
        fleet.advance(16)
        self.assert_gone(fleet)

    def test_a_leak_that_was_none_is_taken_back(self) -> None:
        """By what the node says at rest: memory that came after all is free."""
        node = self.node("a")
        node.faults.free_delay_seconds = 10.0
        fleet = self.measured(node, system_info_interval=20.0)
        self.unload(fleet)
        fleet.advance(LATE_SECONDS + WATCH_SECONDS)
        assert 1_000 == fleet.fleet.nodes["a"].leaked_mb
        fleet.advance(20)
        fleet.poll()
        assert 0 == fleet.fleet.nodes["a"].leaked_mb


class AbandonedUnloadTests(UnloadTestCase):
    def unloading(self, **settings: Any) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a fleet whose node is giving memory back."""
        node = self.node("a")
        node.faults.free_delay_seconds = 30.0
        fleet = self.measured(node, **settings)
        self.unload(fleet)
        fleet.advance(1)
        assert ReplicaState.UNLOADING is self.state(fleet, MODEL)
        return fleet, node

    def test_a_node_that_goes_down_ends_its_unload_once(self) -> None:
        """It is not down for long before the scheduler knows."""
        fleet, node = self.unloading(down_after=1)
        Deferred.fromCoroutine(node.close())
        fleet.poll()
        words = "node a went down or restarted in the meantime"
        assert [UnloadFailed("a", MODEL, words, is_unknown=True)] == self.ends
        self.assert_at_rest(fleet)
        fleet.advance(100)
        assert 1 == len(self.ends)

    def test_after_a_restart_what_is_listed_counts(self) -> None:
        """A model that is not there is given no request: the node would load it by itself."""
        fleet, node = self.unloading()
        node.starts_loaded = []
        node.restart()
        fleet.flush()
        fleet.poll()
        (end,) = self.ends
        assert isinstance(end, UnloadFailed)
        assert ReplicaState.UNLOADED is end.listed is self.state(fleet, MODEL)

    def test_stopping_ends_everything_in_silence(self) -> None:
        """At whatever point an unload is: no event, no question, no timer, no error."""
        for hang in (METRICS, SYSTEM, STATUS, UNLOAD, ""):
            node = self.node("a", token_seconds=100)
            node.faults.hang_routes = {hang}
            node.faults.free_delay_seconds = 30.0
            fleet = self.measured(node)
            self.unload(fleet)
            fleet.advance(1)
            fleet.lifecycle.stopService()
            fleet.flush()
            asked = len(node.journal.requests())
            fleet.advance(30)
            assert [] == self.ends
            assert asked == len(node.journal.requests())
            assert [] == self.flushLoggedErrors()
            self.assert_never_bricked(node)


class ClosingTests(UnloadTestCase):
    """The process hands over to its successor."""

    def closing(self, hang: str) -> tuple[InMemoryFleet, SimulatedNode, Deferred[bool]]:
        """Close while the node does not answer a route that an unload asks."""
        node = self.node("a")
        node.faults.hang_routes = {hang}
        node.faults.free_delay_seconds = 30.0
        fleet = self.measured(node)
        self.unload(fleet)
        fleet.advance(1)
        closing = Deferred.fromCoroutine(fleet.lifecycle.close(10.0))
        fleet.flush()
        return fleet, node, closing

    def test_an_unload_that_no_node_has_begun_is_given_up(self) -> None:
        """The model stays loaded, and the scheduler hears nothing: it decides no more."""
        fleet, node, closing = self.closing(STATUS)
        assert self.successResultOf(closing)
        fleet.advance(60)
        assert ([], (MODEL,)) == (self.ends, node.loaded_models)

    def test_an_unload_that_a_node_has_begun_is_waited_for(self) -> None:
        """Else the successor could send a request to a model that is going."""
        fleet, node, closing = self.closing(UNLOAD)
        self.assertNoResult(closing)
        Deferred.fromCoroutine(node.close())
        fleet.flush()
        for _ in range(60):
            fleet.advance(0.1)
        assert self.successResultOf(closing)
        assert [] == self.ends

    def test_if_an_unload_does_not_end_everything_goes_on(self) -> None:
        """The handover is refused, and what was given up for it has failed for the scheduler."""
        fleet, _node, closing = self.closing(UNLOAD)
        fleet.advance(11)
        assert not self.successResultOf(closing)
        fleet.advance(60)
        assert 1 == len(self.ends)

    def test_memory_that_comes_back_is_not_waited_for(self) -> None:
        """The successor reads itself how much is free."""
        _fleet, node, closing = self.closing("")
        assert self.successResultOf(closing)
        assert () == node.loaded_models
