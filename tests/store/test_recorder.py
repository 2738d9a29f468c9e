import json
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from cortexd.dispatcher import Dispatcher
from cortexd.fleet.breaker import Outcome
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.states import NodeHealth, Observation, PollFailure, ReplicaState
from cortexd.logs import Fields, fields_of
from cortexd.scheduling.events import (
    CordonWanted,
    Effect,
    Event,
    LoadDone,
    LoadFailed,
    LoadWanted,
    Observed,
    PinWanted,
    PollFailed,
    StartLoad,
    Sweep,
    UnloadDone,
    UnloadFailed,
    UnloadWanted,
)
from cortexd.scheduling.prefetching.events import Prefetched
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.store.file import StateInUseError
from cortexd.store.journal import JournalEntry
from cortexd.store.recorder import RETRY_SECONDS, Recorder
from cortexd.telemetry.metrics import Metrics
from tests.support.fleets import FleetTestCase
from tests.support.nodes import LOADED, UNLOADED, make_fleet
from tests.support.stores import StoreTestCase, held

NOW = 1_790_000_000.0
CHAT, OTHER = "acme/chat", "acme/other"
SIZES = {CHAT: 20_000, OTHER: 20_000}


class RecorderTestCase(StoreTestCase):
    """A scheduler over nodes a and b, which list CHAT as loaded and OTHER as unloaded."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[Fields] = []
        observer = cast("ILogObserver", self._take)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.start()

    def _take(self, event: LogEvent) -> None:
        fields = fields_of(event)
        if fields is not None:
            self.lines.append(fields)

    def start(self, **fleet: Any) -> None:
        """Begin anew, as the daemon does: what was kept is there before the first poll."""
        self.clock = Clock()
        self.metrics = Metrics()
        self.fleet = make_fleet("a", "b", **{"sizes": SIZES, **fleet})
        self.scheduler = Scheduler(self.fleet, SchedulingTerms())
        self.dispatcher = Dispatcher(self.scheduler, self.clock, self.metrics)
        self.recorder = Recorder(
            self.dispatcher,
            self.metrics,
            self.directory,
            lambda: NOW + self.clock.seconds(),
            self.clock,
        )
        self.recorder.startService()
        self.addCleanup(self.recorder.stopService)

    def restart(self, **fleet: Any) -> None:
        self.recorder.stopService()
        self.start(**fleet)

    def dispatch(self, *events: Event) -> None:
        for event in events:
            self.dispatcher.dispatch(event)

    def see(self, *nodes: str, created: int = 1, chat: ReplicaState = LOADED) -> None:
        listing = {CHAT: chat, OTHER: UNLOADED}
        for node in nodes or ("a", "b"):
            self.dispatch(Observed(node, Observation(created, listing), self.clock.seconds()))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def entries(self) -> list[JournalEntry]:
        return self.recorder.entries(0, 100)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries()]

    def told(self, event: str) -> list[Fields]:
        return [line for line in self.lines if line["event"] == event]


class KeptTests(RecorderTestCase):
    def test_pins_outlive_a_restart(self) -> None:
        """Those made here, and those taken back that the configuration has."""
        self.see()
        self.dispatch(PinWanted(OTHER, "b", pinned=True))
        self.restart()
        assert ([], [OTHER]) == tuple(list(self.fleet.nodes[name].pins) for name in "ab")
        self.see()
        self.dispatch(PinWanted(OTHER, "b", pinned=False))
        self.restart()
        assert [] == list(self.fleet.nodes["b"].pins)

    def test_cordons_outlive_a_restart(self) -> None:
        """Until they are taken back."""
        self.dispatch(CordonWanted("a", cordoned=True))
        self.restart()
        assert (True, False) == tuple(self.fleet.nodes[name].cordoned for name in "ab")
        self.dispatch(CordonWanted("a", cordoned=False))
        self.restart()
        assert not self.fleet.nodes["a"].cordoned

    def test_what_loads_have_taught_outlives_a_restart(self) -> None:
        """Footprints and times."""
        self.restart(sizes={})
        self.see("b")
        self.dispatch(UnloadWanted(CHAT, "b"), UnloadDone("b", CHAT))
        self.dispatch(LoadWanted(OTHER, "b"), LoadDone("b", OTHER, 12.5, 7_000))
        self.restart(sizes={})
        assert 7_000 == self.fleet.footprints.measured_mb("b", OTHER)
        assert 12.5 == self.fleet.footprints.load_seconds("b", OTHER)

    def test_what_was_kept_of_another_fleet_does_no_harm(self) -> None:
        """Of a node that the configuration has no more."""
        store = self.recorder._store
        assert store is not None
        store.add_cordon("gone")
        store.set_pin_override("gone", CHAT, True)
        store.put_learned("gone", CHAT, LearnedLoad(1, 100.0, 0.0, 1, 5.0))
        self.restart()
        assert {"a", "b"} == set(self.fleet.nodes)
        assert 5.0 == self.fleet.footprints.load_seconds("a", CHAT)

    def test_the_journal_goes_on_after_a_restart(self) -> None:
        """Its numbers count up."""
        self.see()
        before = self.recorder.last_number
        assert before == len(self.entries()) > 0
        self.restart()
        assert before == self.recorder.last_number
        self.see()
        assert list(range(1, 2 * before + 1)) == [entry.number for entry in self.entries()]

    def test_the_directory_of_another_daemon_is_an_error(self) -> None:
        """At the start, not later: two daemons would swap the same models."""
        second = Recorder(self.dispatcher, self.metrics, self.directory, lambda: NOW, self.clock)
        self.assertRaises(StateInUseError, second.startService)
        assert not second.running

    def test_a_place_where_nothing_can_be_kept_stops_nothing(self) -> None:
        """The daemon serves, says so, and stores what was changed once the place can be used."""
        self.recorder.stopService()
        blocked = self.directory = self.directory / "blocked"
        blocked.write_text("in the way")
        self.start()
        self.see()
        self.dispatch(PinWanted(OTHER, "b", pinned=True))
        assert "File exists" == self.recorder.unstored
        assert 0.0 == self.sample("cortex_store_available")
        assert "pinned" in [each.kind for each in self.entries()]

        blocked.unlink()
        self.clock.advance(RETRY_SECONDS)
        assert self.recorder.unstored is None
        assert 1.0 == self.sample("cortex_store_available")
        self.restart()
        assert [OTHER] == list(self.fleet.nodes["b"].pins)
        assert "pinned" in [each.kind for each in self.entries()]
        self.flushLoggedErrors()

    def test_what_could_not_be_read_is_restored_later(self) -> None:
        """A pin and a cordon that the disk gives back count from then on."""
        self.see()
        self.dispatch(PinWanted(OTHER, "b", pinned=True), CordonWanted("a", cordoned=True))
        self.recorder.stopService()
        self.path.rename(self.path.with_name("elsewhere"))
        self.path.mkdir()
        self.start()
        self.see()
        assert not self.fleet.nodes["a"].cordoned

        self.path.rmdir()
        self.path.with_name("elsewhere").rename(self.path)
        self.clock.advance(RETRY_SECONDS)
        assert self.fleet.nodes["a"].cordoned
        assert [OTHER] == list(self.fleet.nodes["b"].pins)
        self.flushLoggedErrors()

    def test_without_a_store_everything_is_told_all_the_same(self) -> None:
        """Before the start and after the end of the service."""
        self.recorder.stopService()
        self.see()
        self.dispatch(PinWanted(OTHER, "b", pinned=True), CordonWanted("a", cordoned=True))
        assert ([], 0) == (self.recorder.entries(0, 10), self.recorder.last_number)
        assert 1.0 == self.sample("cortex_node_up", node="a")
        assert [] == self.flushLoggedErrors()

    def test_a_file_that_cannot_be_written_stops_nothing(self) -> None:
        """The decision stands, what is told of it too, and it is kept as soon as it can be."""
        with held(self.directory):
            self.see()
            self.dispatch(CordonWanted("a", cordoned=True))
        assert self.fleet.nodes["a"].cordoned
        assert "cordoned" in self.kinds()
        self.restart()
        assert self.fleet.nodes["a"].cordoned


class ToldTests(RecorderTestCase):
    def test_a_health_is_told_as_it_changes(self) -> None:
        """A line, the gauges, and an entry with the reason; nothing while it stays."""
        assert 0.0 == self.sample("cortex_node_up", node="a")
        assert 1.0 == self.sample("cortex_node_health", node="a", health="unknown")
        for _ in range(3):
            self.see()
        for _ in range(3):
            self.dispatch(PollFailed("a", PollFailure("connection refused", silent=False)))

        assert (0.0, 1.0) == tuple(self.sample("cortex_node_up", node=name) for name in "ab")
        assert 1.0 == self.sample("cortex_node_health", node="a", health=NodeHealth.DOWN.value)
        (line,) = self.told("node_down")
        assert ("a", "up", "connection refused") == tuple(
            line[field] for field in ("node", "before", "reason")
        )
        assert ["node_up", "node_up", "node_down"] == self.kinds()
        last = self.entries()[-1]
        assert ("a", None, {"reason": "connection refused"}) == (last.node, last.model, last.fields)
        assert NOW == last.at

    def test_a_restart_is_told(self) -> None:
        """And counted."""
        self.see()
        self.see("a", created=2)
        assert ["a"] == [line["node"] for line in self.told("node_restarted")]
        assert 1.0 == self.sample("cortex_node_restarts_total", node="a")
        assert "node_restarted" == self.kinds()[-1]

    def test_a_replica_that_changes_is_a_line(self) -> None:
        """What is there from the beginning is no change; what is gone is told as that."""
        self.see()
        assert [] == self.told("replica_changed")
        self.clock.advance(1)
        self.see("a", chat=UNLOADED)
        self.dispatch(Observed("b", Observation(1, {OTHER: UNLOADED}), 1.0))
        assert [("a", "loaded", "unloaded"), ("b", "loaded", "gone")] == [
            (line["node"], line["before"], line["after"]) for line in self.told("replica_changed")
        ]

    def test_a_swap_is_told_from_its_reason_to_its_end(self) -> None:
        """In the log, in numbers and in the journal, of which the last is asked by model too."""
        self.see("a")
        self.dispatch(LoadWanted(OTHER, "a"))
        self.recorder.tell_end(UnloadDone("a", CHAT, 64), 2.5)
        self.dispatch(UnloadDone("a", CHAT, 64))
        self.recorder.tell_end(LoadDone("a", OTHER, 30.0, 19_000), 31.0)
        self.dispatch(LoadDone("a", OTHER, 30.0, 19_000))

        expected = [
            ("unload_started", CHAT),
            ("unloaded", CHAT),
            ("load_started", OTHER),
            ("loaded", OTHER),
        ]
        assert expected == [(entry.kind, entry.model) for entry in self.entries()[1:]]
        began, ended, load_began, loaded = (entry.fields for entry in self.entries()[1:])
        assert began == load_began
        assert {"reason": "the operator requested it", "gives_up": [CHAT], "target": OTHER} == began
        assert {"seconds": 2.5, "leaked_mb": 64} == ended
        assert {"seconds": 31.0, "footprint_mb": 19_000} == loaded
        assert expected == [
            (line["event"], line["model"]) for line in self.lines if line["event"] in dict(expected)
        ]
        of_other = self.recorder.entries(0, 100, OTHER)
        assert ["load_started", "loaded"] == [entry.kind for entry in of_other]
        assert 2.5 == self.sample("cortex_model_unload_seconds_sum", model=CHAT, node="a")
        assert 31.0 == self.sample("cortex_model_load_seconds_sum", model=OTHER, node="a")
        # No load had been seen, so that nothing was told of this one.
        name = "cortex_load_estimate_error_ratio"
        assert None is self.sample(f"{name}_count", model=OTHER, node="a")
        self.dispatch(UnloadWanted(OTHER, "a"))
        self.dispatch(UnloadDone("a", OTHER, 0))
        self.dispatch(LoadWanted(OTHER, "a"))
        self.recorder.tell_end(LoadDone("a", OTHER, 24.0, 19_000), 24.0)
        assert 0.25 == self.sample(f"{name}_sum", model=OTHER, node="a")
        assert 64.0 * 2**20 == self.sample("cortex_unload_leak_bytes_total", node="a")

    def test_failures_are_told_with_the_nodes_words(self) -> None:
        """And counted, those for want of memory apart."""
        words = "failed to load model: no"
        for end in (
            LoadFailed("a", OTHER, words),
            LoadFailed("a", OTHER, words, out_of_memory=True),
            UnloadFailed("a", CHAT, "the node reports no_loader_config"),
        ):
            self.recorder.tell_end(end, 1.25)
        assert ["load_failed", "load_failed", "unload_failed"] == self.kinds()
        assert {"seconds": 1.25, "reason": words} == self.entries()[0].fields
        labels = {"model": OTHER, "node": "a"}
        for reason in ("other", "out_of_memory"):
            failures = self.sample("cortex_model_load_failures_total", **labels, reason=reason)
            assert 1.0 == failures
        failures = self.sample("cortex_model_unload_failures_total", model=CHAT, node="a")
        assert 1.0 == failures

    def test_what_somebody_else_has_loaded_has_not_failed(self) -> None:
        """It is loaded, and the reason says by whom."""
        words = "another client of the node has loaded it"
        self.recorder.tell_end(LoadFailed("a", OTHER, words, listed=LOADED), 1.0)
        (entry,) = self.entries()
        assert ("loaded", {"seconds": 1.0, "reason": words}) == (entry.kind, entry.fields)
        labels = {"model": OTHER, "node": "a", "reason": "other"}
        assert self.sample("cortex_model_load_failures_total", **labels) is None

    def test_a_command_is_told_with_its_actor(self) -> None:
        """The log and the journal have who gave it; what is for the log alone stays there."""
        self.recorder.audit(
            "uid 7 (ann)", "pin", node="a", model="x", now=None, logged={"peer_pid": 5}
        )
        self.recorder.audit("key ops at 10.0.0.7", "key add", key="bob")

        pinned, added = self.entries()[-2:]
        assert ("audit", "a", "x") == (pinned.kind, pinned.node, pinned.model)
        assert {"actor": "uid 7 (ann)", "command": "pin"} == pinned.fields
        assert {"actor": "key ops at 10.0.0.7", "command": "key add", "key": "bob"} == added.fields
        assert [5, None] == [each.get("peer_pid") for each in self.told("control_change")]

    def test_a_restart_that_is_due_is_told_once(self) -> None:
        """With its reason."""
        self.see()
        self.dispatch(UnloadWanted(CHAT, "a"), UnloadDone("a", CHAT, 500), Sweep(), Sweep())
        (line,) = self.told("node_restart_due")
        assert ("a", "unloads did not free 500 MiB") == (line["node"], line["reason"])
        assert 1.0 == self.sample("cortex_node_restarts_due_total", node="a")
        assert "restart_due" == self.kinds()[-1]

    def test_an_ejection_is_told(self) -> None:
        """A warning with the reason, a count that begins at 0, and entries for it and its end."""
        self.see()
        assert 0.0 == self.sample("cortex_replica_ejections_total", model=CHAT, node="a")
        grant = self.successResultOf(self.dispatcher.acquire(CHAT, "r", only=frozenset("a")))
        self.dispatcher.release(grant.lease, Outcome(fault="lock lost", poisoned=True))
        self.see("a", created=2)

        (line,) = self.told("replica_ejected")
        assert ("a", CHAT, "lock lost", True, 10.0) == tuple(
            line[field] for field in ("node", "model", "reason", "poisoned", "seconds")
        )
        assert 1.0 == self.sample("cortex_replica_ejections_total", model=CHAT, node="a")
        entries = {entry.kind: entry for entry in self.entries()}
        assert {"reason": "lock lost", "faults": 1, "seconds": 10.0} == entries["ejected"].fields
        assert {"reason": "its node restarted"} == entries["returned"].fields

    def test_prefetches_are_told(self) -> None:
        """The log and the metrics tell whether a prefetch was of use."""
        self.see()
        for is_used in (True, False, True):
            self.recorder.tell(Prefetched("a", CHAT, is_used=is_used))

        assert [True, False, True] == [line["used"] for line in self.told("prefetched")]
        for outcome, count in (("used", 2.0), ("unused", 1.0)):
            name = "cortex_prefetches_total"
            assert count == self.sample(name, node="a", outcome=outcome)

    def test_wishes_are_told(self) -> None:
        """Who reads the journal sees what the operator did."""
        self.see()
        self.dispatch(
            PinWanted(CHAT, "a", pinned=True),
            PinWanted(CHAT, "a", pinned=False),
            CordonWanted("b", cordoned=True),
            CordonWanted("b", cordoned=False),
        )
        assert [
            ("pinned", "a", CHAT),
            ("unpinned", "a", CHAT),
            ("cordoned", "b", None),
            ("uncordoned", "b", None),
        ] == [(entry.kind, entry.node, entry.model) for entry in self.entries()[2:]]
        assert [True, False] == [line["pinned"] for line in self.told("pin_changed")]
        assert [True, False] == [line["cordoned"] for line in self.told("cordon_changed")]

    def test_every_entry_is_plain(self) -> None:
        """It can be sent to a client as JSON."""
        self.see()
        self.dispatch(LoadWanted(OTHER, "a"))
        assert [dict(entry.fields) for entry in self.entries()] == json.loads(
            json.dumps([dict(entry.fields) for entry in self.entries()])
        )


class SecrecyTests(FleetTestCase):
    def test_nothing_that_was_said_is_told(self) -> None:
        """Neither in a line nor in an entry, though requests have caused loads and swaps."""
        secret = "tell-nobody-9"
        node = self.node("a", CHAT)
        fleet = self.fleet(node, models={CHAT: {"vram_mb": 1_000}})
        heard: list[Effect] = []
        fleet.dispatcher.listen(heard.append)
        node.running_process.unload(CHAT)
        fleet.poll()
        fleet.chat(secret)
        fleet.stream(secret)
        assert [StartLoad("a", CHAT, 1_000)] == [
            each for each in heard if isinstance(each, StartLoad)
        ]
        assert secret not in "".join(map(str, fleet.log_events))
        assert secret not in "".join(map(str, heard))
