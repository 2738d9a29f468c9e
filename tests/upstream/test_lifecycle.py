"""Loads as they are carried out at nodes; test_lifecycle_unload.py has the unloads."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cortexd.fleet.footprints import BROKEN_LOAD_TIMES, LEAST_LOAD_LIMIT
from cortexd.fleet.states import NodeHealth, ReplicaState
from cortexd.scheduling.events import (
    LoadDone,
    LoadFailed,
    UnloadDone,
)
from cortexd.upstream.lifecycle import MOST_REFUSALS
from cortexd.upstream.verifying import WATCH_SECONDS
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import (
    COLD,
    COLD_MB,
    LOAD_SECONDS,
    MEMORY_MB,
    RELOAD,
    STATUS,
    SYSTEM,
    LifecycleTestCase,
    break_newest_connection,
    cold,
    reload_behind_our_back,
    says,
)


class LoadTests(LifecycleTestCase):
    def test_a_load_is_asked_for_and_measured(self) -> None:
        """Status right before the reload, free memory before and after, one event at its end."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        node.journal.clear()
        self.load(fleet)

        asked = [entry.detail["path"] for entry in node.journal.requests()]
        assert [SYSTEM, STATUS, RELOAD] == asked
        assert ReplicaState.LOADING is self.state(fleet)
        fleet.advance(LOAD_SECONDS - 1)
        assert [] == self.ends
        fleet.advance(1)

        assert [LoadDone("a", COLD, LOAD_SECONDS, COLD_MB)] == self.ends
        assert [says(MEMORY_MB - 1_000 - COLD_MB)] == self.systems
        assert ReplicaState.LOADED is self.state(fleet)
        assert COLD_MB == fleet.fleet.footprints.measured_mb("a", COLD)
        assert LOAD_SECONDS == fleet.fleet.footprints.load_seconds("a", COLD)
        labels = {"model": COLD, "node": "a"}
        assert LOAD_SECONDS == fleet.sample("cortex_model_load_seconds_sum", **labels)
        told = fleet.events("load_started") + fleet.events("loaded")
        assert [("a", COLD)] * 2 == [(event["node"], event["model"]) for event in told]
        self.assert_at_rest(fleet)

    def test_what_a_node_says_of_its_memory_at_last_is_known(self) -> None:
        """Without waiting for the poller to ask again."""
        node = self.node("a", MODEL, cold(load_seconds=1.0))
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(1)
        system = fleet.fleet.nodes["a"].system
        assert system is not None
        assert MEMORY_MB - 1_000 - COLD_MB == system.memory_free_mb

    def test_each_load_adds_to_what_is_known(self) -> None:
        """Two operations on a model in a row, and again."""
        node = self.node("a", MODEL, cold(load_seconds=2.0))
        fleet = self.fleet_of(node)
        for _ in range(3):
            self.load(fleet)
            fleet.advance(2)
            self.unload(fleet, COLD)
            fleet.advance(1)
        assert [LoadDone, UnloadDone] * 3 == [type(end) for end in self.ends]
        assert UnloadDone("a", COLD, 0) == self.ends[-1]
        assert COLD_MB == fleet.fleet.footprints.measured_mb("a", COLD)
        self.assert_never_bricked(node)
        self.assert_at_rest(fleet)

    def test_a_machine_that_does_not_describe_itself_loads_all_the_same(self) -> None:
        """Nothing is learned of its memory then."""
        node = self.node("a", MODEL, cold(load_seconds=1.0))
        fleet = self.fleet_of(node)
        node.faults.hang_routes = {SYSTEM}
        self.load(fleet)
        fleet.advance(31)
        assert [LoadDone("a", COLD, 1.0, None)] == self.ends

    def test_too_little_memory_is_told_apart(self) -> None:
        """The HTTP status is 200 all the same: the node's words count."""
        node = self.node("a", MODEL, cold(), memory_mb=4_500)
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(LOAD_SECONDS)

        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        assert (True, ReplicaState.UNLOADED) == (end.out_of_memory, end.listed)
        assert "CUDA_ERROR_OUT_OF_MEMORY" in end.reason
        labels = {"model": COLD, "node": "a", "reason": "out_of_memory"}
        assert 1.0 == fleet.sample("cortex_model_load_failures_total", **labels)

    def test_a_failure_has_the_nodes_words(self) -> None:
        """In the event, in the log and in the fleet."""
        node = self.node("a", MODEL, cold())
        node.faults.fail_load = {COLD: "the weights are damaged"}
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(LOAD_SECONDS)

        words = "failed to load model: the weights are damaged"
        assert [LoadFailed("a", COLD, words)] == self.ends
        (line,) = fleet.events("load_failed")
        assert ("a", COLD, LOAD_SECONDS, words) == tuple(
            line[field] for field in ("node", "model", "seconds", "reason")
        )
        replica = fleet.fleet.replica("a", COLD)
        assert replica is not None
        assert words == replica.failure
        self.assert_at_rest(fleet)


class OthersTests(LifecycleTestCase):
    def test_what_somebody_else_has_loaded_is_not_reloaded(self) -> None:
        """That would brick the id; the model is there, and nobody failed."""
        node = self.node("a", MODEL, cold(load_seconds=0.0))
        fleet = self.fleet_of(node)
        reload_behind_our_back(node)
        self.load(fleet)

        assert [
            LoadFailed(
                "a", COLD, "another client of the node has loaded it", listed=ReplicaState.LOADED
            )
        ] == self.ends
        assert ReplicaState.LOADED is self.state(fleet)
        assert [] == fleet.events("load_failed")
        failures = [
            line
            for line in fleet.metrics_text().splitlines()
            if line.startswith("cortex_model_load_failures_total{")
        ]
        assert all(line.endswith(" 0.0") for line in failures)
        self.assert_never_bricked(node)
        self.assert_at_rest(fleet)

    def test_a_load_of_somebody_else_is_waited_for(self) -> None:
        """Looking again and again; there is no second load."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        reload_behind_our_back(node)
        fleet.advance(20)
        self.load(fleet)
        fleet.advance(LOAD_SECONDS - 20 - 0.1)
        assert ([], ReplicaState.LOADING) == (self.ends, self.state(fleet))
        fleet.advance(WATCH_SECONDS)

        assert ReplicaState.LOADED is self.state(fleet)
        assert {COLD: 1} == node.journal.report().loads
        self.assert_never_bricked(node)
        self.assert_at_rest(fleet)

    def test_a_load_of_somebody_else_that_fails_is_followed_by_ours(self) -> None:
        """The model is unloaded then, and still wanted."""
        node = self.node("a", MODEL, cold(load_seconds=10.0))
        fleet = self.fleet_of(node)
        node.faults.fail_load, node.faults.fail_load_times = {COLD: "no"}, {COLD: 1}
        reload_behind_our_back(node)
        self.load(fleet)
        fleet.advance(10 + WATCH_SECONDS + 10)
        assert [LoadDone("a", COLD, 10.0, COLD_MB)] == self.ends
        self.assert_never_bricked(node)

    def test_a_load_of_somebody_else_has_an_end_for_us(self) -> None:
        """After load_timeout we wait no longer, though the node may go on."""
        node = self.node("a", MODEL, cold(load_seconds=1_000.0))
        fleet = self.fleet_of(node, load_timeout=100.0)
        reload_behind_our_back(node)
        self.load(fleet)
        fleet.advance(99)
        assert [] == self.ends
        fleet.advance(2)
        words = "its load has not ended within 100 s, and counts as hanging"
        loading = ReplicaState.LOADING
        assert [LoadFailed("a", COLD, words, listed=loading, overdue=True)] == self.ends
        self.assert_at_rest(fleet)
        fleet.advance(1_000)
        fleet.poll()
        assert ReplicaState.LOADED is self.state(fleet)


class BrokenConnectionTests(LifecycleTestCase):
    def test_a_load_outlives_its_connection(self) -> None:
        """The node goes on loading; its status says when and how that ends."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(20)
        break_newest_connection(fleet)
        fleet.advance(30)
        assert ([], ReplicaState.LOADING) == (self.ends, self.state(fleet))
        fleet.advance(11)
        (end,) = self.ends
        assert isinstance(end, LoadDone)
        assert (True, COLD_MB) == (60 <= end.seconds <= 60 + WATCH_SECONDS, end.footprint_mb)
        assert {COLD: 1} == node.journal.report().loads
        self.assert_never_bricked(node)

    def test_a_restart_between_two_polls_is_no_load(self) -> None:
        """What the new process has loaded by itself is there, and measures nothing."""
        node = self.node("a", MODEL, "acme/other", cold())
        node.running_process.unload("acme/other")
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(20)
        node.starts_loaded = [MODEL, "acme/other", COLD]
        node.restart()
        fleet.advance(WATCH_SECONDS)

        words = "node a went down or restarted in the meantime"
        assert [LoadFailed("a", COLD, words, listed=ReplicaState.LOADED)] == self.ends
        assert ReplicaState.LOADED is self.state(fleet)
        assert fleet.fleet.footprints.measured_mb("a", COLD) is None

    def test_a_deaf_node_may_be_loading(self) -> None:
        """Silence after the break says nothing of the load: it is asked until it answers."""
        node = self.node("a", MODEL, cold())
        node.faults.deaf_while_loading = True
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(5)
        break_newest_connection(fleet)
        fleet.advance(54)
        assert [] == self.ends
        fleet.advance(2)
        assert [LoadDone] == [type(end) for end in self.ends]
        assert {COLD: 1} == node.journal.report().loads
        fleet.advance(30)
        self.assert_never_bricked(node)

    def test_a_load_that_fails_unheard_has_failed(self) -> None:
        """The words are those of the broken connection, for the node's own are lost."""
        node = self.node("a", MODEL, cold())
        node.faults.fail_load = {COLD: "no"}
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(20)
        break_newest_connection(fleet)
        fleet.advance(41)
        words = "the connection was closed before the answer was complete"
        assert [LoadFailed("a", COLD, words)] == self.ends

    def test_a_load_that_panics_never_ends(self) -> None:
        """The id is reloading for ever: after load_timeout the node is due for a restart."""
        node = self.node("a", MODEL, cold(load_seconds=10.0))
        node.faults.panic_load = {COLD}
        fleet = self.fleet_of(node, load_timeout=100.0)
        fleet.poller.startService()
        self.load(fleet)
        fleet.advance(99)
        assert [] == self.ends
        fleet.advance(12)
        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        assert ReplicaState.LOADING is end.listed
        fleet.advance(20)
        assert ["stuck: acme/cold"] == [
            event["reason"] for event in fleet.events("node_restart_due")
        ]
        assert NodeHealth.UP is fleet.fleet.nodes["a"].health
        self.assert_never_bricked(node)

    def panicking(self, usual_seconds: float | None) -> InMemoryFleet:
        """Give a fleet whose node panics 10 s into a load; loads have taken so long before."""
        node = self.node("a", MODEL, "acme/other", cold(load_seconds=10.0))
        node.faults.panic_load = {COLD}
        node.running_process.unload("acme/other")
        models = {
            MODEL: {"vram_mb": 1_000},
            "acme/other": {"vram_mb": 1_000},
            COLD: {"vram_mb": COLD_MB},
        }
        fleet = self.fleet_of(node, load_timeout=1_000.0, models=models)
        if usual_seconds is not None:
            fleet.fleet.footprints.learn("a", COLD, usual_seconds, None)
        self.load(fleet)
        return fleet

    def test_a_load_that_panics_is_given_up_by_its_usual_time(self) -> None:
        """It looks like one that goes on: how long loads take tells it from such."""
        for usual_seconds, limit in (
            (1.0, LEAST_LOAD_LIMIT),
            (40.0, 40.0 * BROKEN_LOAD_TIMES),
            (600.0, 1_000.0),
            (None, 1_000.0),
        ):
            self.ends.clear()
            self.clock = Clock()
            fleet = self.panicking(usual_seconds)
            fleet.advance(limit - 1)
            assert [] == self.ends
            fleet.advance(1 + WATCH_SECONDS)
            words = f"its load has not ended within {limit:g} s, and counts as hanging"
            loading = ReplicaState.LOADING
            assert [LoadFailed("a", COLD, words, listed=loading, overdue=True)] == self.ends
            self.assert_at_rest(fleet)

    def test_after_a_load_that_panics_the_node_is_used(self) -> None:
        """The id is stuck, and the operator told so; other models come and go as before."""
        fleet = self.panicking(1.0)
        fleet.advance(LEAST_LOAD_LIMIT + WATCH_SECONDS + 10)
        (due,) = fleet.events("node_restart_due")
        assert "stuck: acme/cold" == due["reason"]
        assert 200 == fleet.chat(model="acme/other").status
        assert ReplicaState.LOADING is self.state(fleet)

    def test_a_load_that_takes_its_usual_time_outlives_its_connection(self) -> None:
        """And twice that."""
        node = self.node("a", MODEL, cold(load_seconds=90.0))
        fleet = self.fleet_of(node)
        fleet.fleet.footprints.learn("a", COLD, 45.0, None)
        self.load(fleet)
        fleet.advance(5)
        break_newest_connection(fleet)
        fleet.advance(85 + WATCH_SECONDS)
        assert [LoadDone] == [type(end) for end in self.ends]

    def test_a_load_whose_connection_holds_may_take_longer_than_usual(self) -> None:
        """Its answer is waited for as long as load_timeout lets it."""
        node = self.node("a", MODEL, cold(load_seconds=500.0))
        fleet = self.fleet_of(node)
        fleet.fleet.footprints.learn("a", COLD, 1.0, None)
        self.load(fleet)
        fleet.advance(500)
        assert [LoadDone("a", COLD, 500.0, COLD_MB)] == self.ends

    def test_a_load_that_takes_too_long_is_not_asked_for_again(self) -> None:
        """It goes on at the node, and the next poll after its end finds it."""
        node = self.node("a", MODEL, cold(load_seconds=150.0))
        fleet = self.fleet_of(node, load_timeout=100.0)
        self.load(fleet)
        fleet.advance(101)
        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        assert ReplicaState.LOADING is self.state(fleet)
        fleet.advance(60)
        fleet.poll()
        assert ReplicaState.LOADED is self.state(fleet)
        assert {COLD: 1} == node.journal.report().loads

    def test_a_process_that_is_gone_loads_nothing(self) -> None:
        """Connections refused in a row say so, before the poller has noticed."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node)
        self.load(fleet)
        fleet.advance(20)
        Deferred.fromCoroutine(node.close())
        fleet.flush()
        fleet.advance(WATCH_SECONDS * MOST_REFUSALS)
        words = "connection refused"
        assert [LoadFailed("a", COLD, words, unreachable=True, begun=True)] == self.ends
        self.assert_at_rest(fleet)
        fleet.advance(100)
        assert 1 == len(self.ends)
