from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from cortexd.fleet.states import NodeHealth, Observation, ReplicaState, SystemInfo
from cortexd.scheduling.events import UnloadWanted
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.spreading import AT_ONCE, FIRST_GAP_SECONDS
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

LISTING = "/v1/models"
SYSTEM = "/v1/system/info"
MEBIBYTE = 1024 * 1024
UP, DOWN = NodeHealth.UP, NodeHealth.DOWN


class PollerTestCase(FleetTestCase):
    def started(self, *nodes: SimulatedNode, **settings: Any) -> InMemoryFleet:
        """Give a fleet that is polled at 0, 5, 10 s and so on, each node for 2 s at most."""
        fleet = self.fleet(*nodes, polled=False, **settings)
        fleet.poller.startService()
        fleet.flush()
        return fleet

    def asked_at(self, node: SimulatedNode, path: str = LISTING) -> list[int]:
        """Give the full seconds at which a path was asked for; a new connection takes 0.3 s."""
        return [int(entry.at) for entry in node.journal.requests(path)]

    def lines(self, fleet: InMemoryFleet) -> list[str]:
        """Give the names of the events logged so far, and forget them."""
        names = [event["event"] for event in fleet.log_events]
        fleet.log_events.clear()
        return names

    def known(self, fleet: InMemoryFleet, node: SimulatedNode) -> tuple[object, ...]:
        """Give what polls have brought of a node."""
        known = fleet.fleet.nodes[node.name]
        return known.health, known.failures, known.last_answer_at, known.system

    def kill(self, node: SimulatedNode) -> None:
        self.successResultOf(Deferred.fromCoroutine(node.close()))


class RoundTests(PollerTestCase):
    def test_a_hanging_node_delays_nobody(self) -> None:
        """All are asked at the same moment, each has its own time, and the rhythm is kept."""
        nodes = [self.node(name) for name in "abc"]
        nodes[1].faults.hang = True
        fleet = self.started(*nodes)

        assert [[0.0]] * 3 == [self.asked_at(node) for node in nodes]
        assert [UP, NodeHealth.UNKNOWN, UP] == [fleet.fleet.nodes[name].health for name in "abc"]
        fleet.advance(1.9)
        assert "not polled yet: b" == fleet.fleet.not_ready_reason()
        fleet.advance(0.1)
        assert fleet.fleet.not_ready_reason() is None
        fleet.advance(8)
        assert [[0.0, 5.0, 10.0]] * 3 == [self.asked_at(node) for node in nodes]

    def test_many_nodes_are_polled_one_after_another(self) -> None:
        """Few begin in one turn: soon at the start, then over the whole interval."""
        nodes = [self.node(f"n{number:02}") for number in range(3 * AT_ONCE)]
        fleet = self.started(*nodes)

        def polls() -> int:
            return sum(len(node.journal.requests(LISTING)) for node in nodes)

        assert AT_ONCE == polls()
        fleet.advance(2 * FIRST_GAP_SECONDS)
        assert 3 * AT_ONCE == polls()
        assert fleet.fleet.not_ready_reason() is None
        fleet.advance(5 - 2 * FIRST_GAP_SECONDS)
        assert 4 * AT_ONCE == polls()
        fleet.advance(5 / 3)
        assert 5 * AT_ONCE == polls()
        fleet.advance(5 * 2 / 3)
        assert 7 * AT_ONCE == polls()
        fleet.poller.stopService()
        fleet.advance(10)
        assert 7 * AT_ONCE == polls()

    def test_a_poll_under_way_is_not_repeated(self) -> None:
        """A node may take longer than the interval; the others keep their rhythm."""
        slow, quick = self.node("slow"), self.node("quick")
        slow.faults.slow_seconds = 7.0
        fleet = self.started(slow, quick, timeout=8.0)
        fleet.advance(10)

        assert [0.0, 5.0, 10.0] == self.asked_at(quick)
        assert [0.0, 10.0] == self.asked_at(slow)

    def test_an_answer_within_the_timeout_counts(self) -> None:
        """However slow, up to it."""
        node = self.node()
        node.faults.slow_seconds = 1.9
        fleet = self.started(node)
        fleet.advance(2)
        assert UP is fleet.fleet.nodes["a"].health

    def test_polls_are_counted_by_outcome(self) -> None:
        """Answered, silent and refused."""
        node = self.node()
        fleet = self.started(node, down_after=9)
        node.faults.hang = True
        fleet.advance(8)
        self.kill(node)
        fleet.advance(4)

        assert [1.0, 1.0, 1.0] == [
            fleet.sample("cortex_polls_total", node="a", outcome=outcome)
            for outcome in ("ok", "timed_out", "failed")
        ]

    def test_a_crash_in_asking_stops_nothing(self) -> None:
        """It is logged with its node; the other nodes and the next rounds go on."""
        first, second = self.node("a"), self.node("b")
        fleet = self.fleet(first, second, polled=False)

        async def crash(timeout: float) -> Observation:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.clients["a"], "listing", crash)
        fleet.poller.startService()
        fleet.advance(5)

        assert [0.0, 5.0] == self.asked_at(second)
        assert ["a", "a"] == [event["node"] for event in fleet.events("poll_crashed")]
        assert 2 == len(self.flushLoggedErrors(RuntimeError))
        assert [] == fleet.events("polling_stopped")

    def test_a_crash_in_taking_an_answer_stops_nothing(self) -> None:
        """Nor does a mistake in what is done with what a node said."""
        first, second = self.node("a"), self.node("b")
        fleet = self.fleet(first, second, polled=False)
        observe = fleet.fleet.observe

        def crash_at_a(name: str, *seen: Any) -> Any:
            if name == "a":
                raise RuntimeError("a mistake of ours")
            return observe(name, *seen)

        self.patch(fleet.fleet, "observe", crash_at_a)
        fleet.poller.startService()
        fleet.advance(10)

        assert [0.0, 5.0, 10.0] == self.asked_at(second)
        assert UP is fleet.fleet.nodes["b"].health
        assert [] == fleet.events("polling_stopped")
        assert 3 == len(self.flushLoggedErrors(RuntimeError))

    def test_stopping_leaves_nothing(self) -> None:
        """Between rounds or within one, with a system being read: no timer, no line, no change."""
        for within in (False, True):
            node = self.node(f"n{within}")
            node.faults.hang_routes = {SYSTEM}
            fleet = self.started(node)
            if within:
                node.faults.hang = True
                fleet.advance(6)
            self.lines(fleet)
            before = self.known(fleet, node)
            fleet.poller.stopService()
            fleet.lifecycle.stopService()
            fleet.flush()
            fleet.pool.closeCachedConnections()
            fleet.flush()

            assert [] == self.clock.getDelayedCalls()
            assert [] == self.lines(fleet)
            assert before == self.known(fleet, node)
            assert [] == self.flushLoggedErrors()


class HealthTests(PollerTestCase):
    def show(self, fleet: InMemoryFleet) -> tuple[float | None, list[str]]:
        """Give the gauge of node "a" and the healths that are shown for it."""
        shown = [
            health.value
            for health in NodeHealth
            if fleet.sample("cortex_node_health", node="a", health=health.value)
        ]
        return fleet.sample("cortex_node_up", node="a"), shown

    def test_a_node_is_down_after_so_many_failures(self) -> None:
        """And up at its first answer; each is one line, however long it lasts."""
        node = self.node()
        fleet = self.started(node, down_after=3)
        assert ((1.0, ["up"]), ["node_up"]) == (self.show(fleet), self.lines(fleet))
        node.faults.hang = True
        fleet.advance(16.9)
        assert ((1.0, ["up"]), []) == (self.show(fleet), self.lines(fleet))
        fleet.advance(0.1)
        (line,) = fleet.log_events
        assert ("node_down", "a", "up", "no answer within 2 s") == tuple(
            line[field] for field in ("event", "node", "before", "reason")
        )
        assert ((0.0, ["down"]), ["node_down"]) == (self.show(fleet), self.lines(fleet))
        fleet.advance(100)
        assert [] == self.lines(fleet)
        node.faults.hang = False
        fleet.advance(5)
        assert ((1.0, ["up"]), ["node_up"]) == (self.show(fleet), self.lines(fleet))
        fleet.advance(100)
        assert [] == self.lines(fleet)

    def test_one_answer_forgives_the_failures_before_it(self) -> None:
        """Only failures in a row count."""
        node = self.node()
        fleet = self.started(node, down_after=2)
        fleet.advance(1)
        for _ in range(3):
            node.faults.hang = True
            fleet.advance(5)
            node.faults.hang = False
            fleet.advance(5)
        assert ["node_up"] == self.lines(fleet)

    def test_before_the_first_round_a_node_is_unknown(self) -> None:
        """It is shown as that, and one that never answers becomes down."""
        node = self.node()
        self.patch(node.faults, "hang", True)
        fleet = self.started(node)
        assert (0.0, ["unknown"]) == self.show(fleet)
        fleet.advance(7)
        assert ((0.0, ["down"]), ["node_down"]) == (self.show(fleet), self.lines(fleet))

    def loading(self, **settings: Any) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a fleet whose node loads from 1 s to 61 s, seen so at 5 s, and is deaf since."""
        cold = SimulatedModel(id="acme/cold", loaded=False, load_seconds=60)
        node = self.node("a", MODEL, cold)
        fleet = self.started(node, **settings)
        fleet.advance(1)
        node.running_process.reload("acme/cold").addErrback(lambda _: None)
        fleet.advance(4)
        self.lines(fleet)
        node.faults.deaf_while_loading = True
        return fleet, node

    def test_an_ejection_has_its_node_polled(self) -> None:
        """A node that fails requests may be down as a whole, so it is polled without delay."""
        node = self.node()
        fleet = self.started(node)
        fleet.advance(1)
        node.faults.error_responses = 3
        for text in ("one", "two", "three"):  # the same request again would count once
            fleet.chat(text)

        assert [0, 1] == self.asked_at(node)

    def test_silence_while_loading_is_being_busy(self) -> None:
        """The node is still sent requests; the end of the load makes it up again."""
        fleet, _ = self.loading()
        fleet.advance(7)
        assert ((1.0, ["busy_loading"]), ["node_busy_loading"]) == (
            self.show(fleet),
            self.lines(fleet),
        )
        fleet.advance(45)
        assert [] == self.lines(fleet)
        fleet.advance(10)
        assert (1.0, ["up"]) == self.show(fleet)
        assert {"node_up", "replica_changed"} == set(self.lines(fleet))

    def test_a_load_excuses_silence_for_so_long_only(self) -> None:
        """After load_timeout silence is a failure as any other, and the load is taken for stuck."""
        fleet, _ = self.loading(load_timeout=20)
        fleet.advance(30)
        assert (
            (0.0, ["down"]),
            ["node_busy_loading", "node_restart_due", "node_down"],
        ) == (self.show(fleet), self.lines(fleet))

    def test_a_load_excuses_no_refused_connection(self) -> None:
        """A process that is gone loads nothing."""
        fleet, node = self.loading()
        fleet.advance(4)
        self.kill(node)
        fleet.advance(8)
        assert ((0.0, ["down"]), ["node_down"]) == (self.show(fleet), self.lines(fleet))

    def test_a_restart_is_told_once(self) -> None:
        """By the process's start time, though no poll failed in between."""
        node = self.node()
        fleet = self.started(node)
        fleet.advance(6)
        self.lines(fleet)
        node.restart()
        fleet.advance(20)

        assert ["node_restarted"] == self.lines(fleet)
        assert 1.0 == fleet.sample("cortex_node_restarts_total", node="a")
        assert 1 == fleet.fleet.nodes["a"].restarts

    def test_a_change_of_a_replica_is_one_line(self) -> None:
        """With both states; what is there from the beginning is no change."""
        node = self.node()
        fleet = self.started(node)
        self.lines(fleet)
        node.running_process.unload(MODEL)
        fleet.advance(20)
        (line,) = fleet.events("replica_changed")
        assert ("a", MODEL, "loaded", "unloaded") == tuple(
            line[field] for field in ("node", "model", "before", "after")
        )


class LateAnswerTests(PollerTestCase):
    """A poll's answer may have been on its way when something ended here: it is older then."""

    def polled_late(self) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a fleet just after it has asked for a listing, each of which comes 1.5 s late."""
        node = self.node("a", MODEL, SimulatedModel(id="acme/cold", loaded=False))
        fleet = self.started(node)
        fleet.advance(1)
        listing = fleet.clients["a"].listing

        async def late(timeout: float) -> Observation:
            observation = await listing(timeout)
            await deferLater(self.clock, 1.5)
            return observation

        self.patch(fleet.clients["a"], "listing", late)
        fleet.fleet.footprints.learn("a", MODEL, 1.0, 1_000)
        fleet.advance(4.1)
        return fleet, node

    def state(self, fleet: InMemoryFleet, model: str) -> ReplicaState | None:
        replica = fleet.fleet.replica("a", model)
        return replica.state if replica is not None else None

    def test_it_does_not_undo_an_unload(self) -> None:
        """Asked before the unload ended, it still says loaded; the next one knows better."""
        fleet, node = self.polled_late()
        fleet.dispatcher.dispatch(UnloadWanted(MODEL))
        fleet.flush()
        assert ReplicaState.UNLOADED is self.state(fleet, MODEL)
        fleet.advance(2)
        assert ReplicaState.UNLOADED is self.state(fleet, MODEL)
        fleet.advance(5)
        assert ReplicaState.UNLOADED is self.state(fleet, MODEL)
        assert (1, 0) == (len(node.journal.of("unload")), node.journal.report().stray_requests)

    def test_it_does_not_undo_a_load(self) -> None:
        """Nor is a model loaded twice for it."""
        fleet, node = self.polled_late()
        answered = fleet.chat(model="acme/cold")
        assert 200 == answered.status
        fleet.advance(2)
        assert ReplicaState.LOADED is self.state(fleet, "acme/cold")
        assert {"acme/cold": 1} == node.journal.report().loads

    def test_what_somebody_else_does_later_counts(self) -> None:
        """A poll that was asked after our end is news."""
        fleet, node = self.polled_late()
        fleet.dispatcher.dispatch(UnloadWanted(MODEL))
        fleet.advance(3)
        node.running_process.reload(MODEL)
        fleet.advance(5)
        assert ReplicaState.LOADED is self.state(fleet, MODEL)

    def test_what_a_node_said_of_its_memory_before_a_load_is_not_booked_after_it(self) -> None:
        """It would make room that is not there."""
        cold = SimulatedModel(id="acme/cold", size_mb=4_000, loaded=False)
        node = self.node("a", MODEL, cold)
        fleet = self.started(node, system_info_interval=10)
        fleet.advance(6)
        client = fleet.clients["a"]
        system_info = client.system_info

        async def late(timeout: float) -> SystemInfo:
            system = await system_info(timeout)
            await deferLater(self.clock, 3.0)
            return system

        self.patch(client, "system_info", late)
        fleet.advance(5)
        self.patch(client, "system_info", system_info)
        fleet.chat(model="acme/cold")
        fleet.advance(3)
        assert 5_000 == fleet.fleet.nodes["a"].committed_mb


class SystemTests(PollerTestCase):
    def test_the_system_is_read_at_the_beginning_and_at_each_interval(self) -> None:
        """It is known, and shown in bytes."""
        node = self.node(memory_mb=8192)
        fleet = self.started(node, system_info_interval=60)
        fleet.advance(125)

        assert [0.0, 60.0, 120.0] == self.asked_at(node, SYSTEM)
        system = fleet.fleet.nodes["a"].system
        assert system is not None
        assert ("0.9.2", 8192, 7192) == (
            system.version,
            system.memory_total_mb,
            system.memory_free_mb,
        )
        assert [8192.0 * MEBIBYTE, 7192.0 * MEBIBYTE] == [
            fleet.sample("cortex_node_memory_bytes", node="a", kind=kind)
            for kind in ("total", "free")
        ]

    def test_the_system_is_read_again_after_a_restart(self) -> None:
        """It may be another machine's, or another version."""
        node = self.node()
        fleet = self.started(node, system_info_interval=600)
        fleet.advance(6)
        node.restart()
        fleet.advance(20)
        assert [0.0, 6.0] == self.asked_at(node, SYSTEM)

    def test_the_system_is_read_again_when_a_node_comes_back(self) -> None:
        """Even if its process is the same."""
        node = self.node()
        fleet = self.started(node, system_info_interval=600, down_after=1)
        node.faults.hang = True
        fleet.advance(8)
        node.faults.hang = False
        fleet.advance(20)
        assert [0.0, 10.0] == self.asked_at(node, SYSTEM)

    def test_a_slow_system_blocks_no_round(self) -> None:
        """Polls go on beside it; it is given up after a while, and asked for once an interval."""
        node = self.node()
        node.faults.hang_routes = {SYSTEM}
        fleet = self.started(node, system_info_interval=10)
        fleet.advance(21)

        assert [0.0, 5.0, 10.0, 15.0, 20.0] == self.asked_at(node)
        assert [0.0, 15.0] == self.asked_at(node, SYSTEM)
        assert UP is fleet.fleet.nodes["a"].health
        assert fleet.fleet.nodes["a"].system is None
        (failed,) = fleet.events("system_info_failed")
        assert ("a", "no answer within 15 s") == (failed["node"], failed["reason"])

    def test_a_node_that_cannot_tell_is_up_all_the_same(self) -> None:
        """A crash of ours in reading is logged, and the rounds go on."""
        node = self.node()
        fleet = self.fleet(node, polled=False)

        async def crash(timeout: float) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.clients["a"], "system_info", crash)
        fleet.poller.startService()
        fleet.advance(5)
        assert [0.0, 5.0] == self.asked_at(node)
        assert UP is fleet.fleet.nodes["a"].health
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
