from __future__ import annotations

import tempfile
from contextlib import closing
from math import isclose

from twisted.internet.task import Clock

from cortexd.dispatcher import Dispatcher
from cortexd.fleet.demand import Demand
from cortexd.fleet.states import Observation
from cortexd.scheduling.events import Grant, Observed
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.store.catalogue_keeper import MOST_ROWS, CatalogueKeeper
from cortexd.store.recorder import Recorder
from cortexd.store.writing import WRITE_SECONDS
from cortexd.telemetry.metrics import Metrics
from tests.support.fleets import MODEL, FleetTestCase
from tests.support.nodes import LOADED, UNLOADED, make_fleet
from tests.support.stores import StoreTestCase, database, rows

NOW = 1_790_000_000.0
LISTED = "SELECT * FROM listed"
CHAT, OTHER, ADAPTER = "acme/chat", "acme/other", "acme/adapter"


class KeeperTests(StoreTestCase):
    """A scheduler over nodes a and b; another process has other seconds on its clock."""

    def setUp(self) -> None:
        super().setUp()
        self.unix_time = NOW
        self.start(1_000.0)

    def start(self, seconds: float, *nodes: str) -> None:
        """Begin as a daemon whose clock shows ``seconds``."""
        self.clock = Clock()
        self.clock.advance(seconds)
        self.began_at = seconds
        self.fleet = make_fleet(*nodes or ("a", "b"), now=seconds)
        self.dispatcher = Dispatcher(
            Scheduler(self.fleet, SchedulingTerms()), self.clock, Metrics()
        )
        self.recorder = Recorder(self.dispatcher, Metrics(), self.directory, self.now, self.clock)
        self.keeper = CatalogueKeeper(self.dispatcher, self.recorder, self.clock, self.now)
        self.recorder.startService()
        self.keeper.startService()
        self.addCleanup(self.stop)

    def now(self) -> float:
        return self.unix_time + self.clock.seconds() - self.began_at

    def stop(self) -> None:
        if self.keeper.running:
            self.keeper.stopService()
            self.recorder.stopService()

    def restart(self, *nodes: str, later: float = 60.0, seconds: float = 5_000.0) -> None:
        self.stop()
        self.unix_time = self.now() + later
        self.start(seconds, *nodes)

    def see(self, *models: str, node: str = "a", **bases: str) -> None:
        listing = dict.fromkeys(models or (CHAT, OTHER), LOADED)
        observation = Observation(1, listing, bases)
        self.dispatcher.dispatch(Observed(node, observation, self.clock.seconds()))

    def use(self, model: str) -> None:
        """Serve one request at once."""
        grants: list[Grant] = []
        acquiring = self.dispatcher.acquire(model, "r")
        acquiring.addCallback(grants.append)
        self.dispatcher.release(grants[0].lease)

    def test_models_of_a_silent_node_are_known_after_a_restart(self) -> None:
        """They are listed as unloaded until the node answers, also adapters with their base."""
        self.see(CHAT)
        self.dispatcher.dispatch(
            Observed("a", Observation(1, {CHAT: LOADED, ADAPTER: LOADED}, {ADAPTER: CHAT}), 0.0)
        )
        self.restart()

        assert (ADAPTER, CHAT) == self.fleet.models
        assert CHAT == self.fleet.base_of(ADAPTER)
        assert [UNLOADED] == [each.state for each in self.fleet.replicas(CHAT)]
        assert ["a", "b"] == self.fleet.not_polled()

    def test_the_order_of_eviction_goes_on(self) -> None:
        """Last uses and demand have the same age by the clock of the next process."""
        self.see()
        for _ in range(3):
            self.clock.advance(1)
            self.use(CHAT)
        self.restart(later=100)
        self.see()

        replica = self.fleet.replica("a", CHAT)
        assert replica is not None
        assert 4_900.0 == replica.last_used_at == self.fleet.nodes["a"].last_used_at
        assert (4_898.0, 4_899.0, 4_900.0) == replica.demand.times
        assert 4_898.0 == replica.demand.regular_since
        other = self.fleet.replica("a", OTHER)
        assert other is not None
        assert 0.0 == other.last_used_at

    def test_a_model_found_loaded_has_not_just_been_loaded(self) -> None:
        """So that it may be evicted at once, as before the restart."""
        self.see()
        self.restart()
        self.see()
        replica = self.fleet.replica("a", CHAT)
        assert replica is not None
        assert (LOADED, 0.0, False) == (replica.state, replica.loaded_at, replica.is_remembered)

    def test_what_the_node_lists_no_more_is_forgotten(self) -> None:
        """In the fleet once the node has answered, and in the store."""
        self.see()
        self.restart()
        self.see(CHAT)
        assert (CHAT,) == self.fleet.models
        self.stop()
        assert [("a", CHAT)] == [row[:2] for row in rows(self.directory, LISTED)]

    def test_nodes_that_have_left_the_configuration_are_forgotten(self) -> None:
        """They are not in the fleet, and do not stay in the store."""
        self.see()
        self.restart("b")
        assert () == self.fleet.models
        self.stop()
        assert [] == rows(self.directory, LISTED)

    def test_a_time_in_the_future_counts_as_now(self) -> None:
        """If the machine's time was set back, no model looks as if it would be used later."""
        self.see()
        self.use(CHAT)
        self.restart(later=-3_600)
        replica = self.fleet.replica("a", CHAT)
        assert replica is not None
        assert (5_000.0, (5_000.0,)) == (replica.last_used_at, replica.demand.times)

    def test_changes_are_written_now_and_then(self) -> None:
        """A daemon that is killed loses the uses of the last seconds and no others."""
        self.see()
        self.use(CHAT)
        assert [] == rows(self.directory, LISTED)
        self.clock.advance(WRITE_SECONDS)
        assert [("a", CHAT, None, NOW), ("a", OTHER, None, 0.0)] == rows(self.directory, LISTED)
        assert [(CHAT, f"[{NOW}]")] == rows(self.directory, "SELECT model, times FROM demands")

    def test_one_write_is_bounded(self) -> None:
        """A fleet of many models is written in several turns, and wholly at the stop."""
        self.see(*(f"m{number:05}" for number in range(2 * MOST_ROWS + 5)))
        self.clock.advance(WRITE_SECONDS)
        assert MOST_ROWS == len(rows(self.directory, LISTED))
        self.stop()
        assert 2 * MOST_ROWS + 5 == len(rows(self.directory, LISTED))

    def test_what_has_not_changed_is_not_written_again(self) -> None:
        """The disk of an idle daemon can sleep, also after a restart."""
        self.see()
        self.use(CHAT)
        self.keeper.write()
        assert 0 == self.keeper.write()
        self.restart()
        self.see()
        assert 0 == self.keeper.write()

    def test_a_model_stays_as_hot(self) -> None:
        """The next process prices its loss as this one would have, as long as it runs."""
        self.see()
        for _ in range(5):
            self.clock.advance(30)
            self.use(CHAT)
        self.use(OTHER)
        heats = [self.fleet.demands[model].heat for model in (CHAT, OTHER)]
        later = self.clock.seconds() + 60.0
        before = [[heat.at(later + since) for heat in heats] for since in (0.0, 900.0, 90_000.0)]
        self.restart()

        heats = [self.fleet.demands[model].heat for model in (CHAT, OTHER)]
        after = [[heat.at(5_000.0 + since) for heat in heats] for since in (0.0, 900.0, 90_000.0)]
        for expected, found in zip(before, after, strict=True):
            assert all(isclose(a, b) for a, b in zip(expected, found, strict=True))

    def test_a_store_without_heat(self) -> None:
        """From the store of an earlier version the last requests alone make the heat."""
        self.see()
        for _ in range(6):
            self.clock.advance(10)
            self.use(CHAT)
        self.stop()
        with closing(database(self.directory)) as connection:
            connection.execute("UPDATE demands SET heat = NULL")
        self.restart(later=0.0)

        demand = self.fleet.demands[CHAT]
        asked = Demand()
        for at in demand.times:
            asked.note(at, CHAT)
        assert 4 == len(demand.times)
        assert demand.heat.at(5_000.0) == asked.heat.at(5_000.0) > 1

    def test_damaged_heat_does_no_harm(self) -> None:
        """The daemon starts, and this model's heat is that of its last requests."""
        self.see()
        self.use(CHAT)
        self.use(OTHER)
        self.stop()
        with closing(database(self.directory)) as connection:
            connection.execute("UPDATE demands SET heat = '[0, NaN]' WHERE model = ?", [CHAT])
        self.restart(later=0.0)

        heats = [self.fleet.demands[model].heat for model in (CHAT, OTHER)]
        assert [True, True] == [heat.at(5_000.0) > 1 for heat in heats]

    def test_damaged_times_do_no_harm(self) -> None:
        """Only this model's demand starts anew."""
        self.see()
        self.use(CHAT)
        self.use(OTHER)
        self.stop()
        with closing(database(self.directory)) as connection:
            connection.execute("UPDATE demands SET times = '[\"never\"]' WHERE model = ?", [CHAT])
        self.restart(later=0.0)
        assert [(), (5_000.0,)] == [self.fleet.demands[model].times for model in (CHAT, OTHER)]


class AfterRestartTests(FleetTestCase):
    def test_a_model_of_a_node_that_is_down_is_unavailable_and_not_unknown(self) -> None:
        """503 with a time to come back, where a model that nobody ever had is 404."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        node = self.node()
        before = self.fleet(node, state_dir=temporary.name)
        assert 200 == before.chat().status
        before.close()

        down = self.node()
        down.faults.hang = True
        after = self.fleet(down, state_dir=temporary.name, down_after=1)
        known, unknown = after.chat(), after.chat(model="acme/never")

        assert (503, True) == (known.status, "retry-after" in known.headers)
        assert "node a does not answer" in known.error["message"]
        assert 404 == unknown.status
        listed = after.get("/v1/models").json()["data"]
        assert [(MODEL, "unavailable")] == [(each["id"], each["status"]) for each in listed]
