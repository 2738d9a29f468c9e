"""How long free memory is waited for before a load, and what of it counts as a leak.

test_lifecycle_unload.py has the wait after an unload.
"""

from hypothesis import given
from hypothesis import strategies as st

from cortexd.scheduling.events import LoadDone
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.verifying import (
    LATE_SECONDS,
    MEMORY_SECONDS,
    TOLERATED_LEAK_MB,
    WATCH_SECONDS,
    leaked_mb,
)
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import COLD, RELOAD, SYSTEM, LifecycleTestCase, cold

OTHER = "acme/other"
COLD_MB = 14_000


class RoomTests(LifecycleTestCase):
    def emptied(
        self, free_after: float = 0.0, free_steps: int = 1, *, leaked_mb: int = 0
    ) -> tuple[InMemoryFleet, SimulatedNode]:
        """Give a node whose memory of 20,000 MiB somebody has just asked to be given back.

        It comes back ``free_after`` seconds later, in so many steps, but for what leaks.
        """
        node = self.node(
            "a",
            SimulatedModel(id=OTHER, size_mb=20_000),
            cold(load_seconds=1.0, size_mb=COLD_MB),
        )
        fleet = self.fleet_of(node, models={OTHER: {"vram_mb": 20_000}, COLD: {"vram_mb": COLD_MB}})
        faults = node.faults
        faults.free_delay_seconds, faults.free_steps = free_after, free_steps
        faults.leak_mb_per_unload = leaked_mb
        node.running_process.unload(OTHER)
        fleet.poll()
        self.load(fleet)
        return fleet, node

    def assert_begun_after(self, seconds: float, fleet: InMemoryFleet, node: SimulatedNode) -> None:
        """See that the reload was asked for after so many seconds, to the next look."""
        began = self.clock.seconds()
        while not node.journal.requests(RELOAD):
            assert self.clock.seconds() - began <= seconds + WATCH_SECONDS, "never begun"
            fleet.advance(0.1)
        assert seconds <= self.clock.seconds() - began + 0.01

    def test_room_is_there(self) -> None:
        """A load that finds its room does not wait."""
        _, node = self.emptied()
        assert 1 == len(node.journal.requests(RELOAD))

    def test_memory_on_its_way_is_waited_for(self) -> None:
        """Else the load would run out of memory; its time counts from its own beginning."""
        fleet, node = self.emptied(3.0)
        self.assert_begun_after(3.0, fleet, node)
        fleet.advance(1)
        assert [LoadDone("a", COLD, 1.0, COLD_MB)] == self.ends
        assert {} == node.journal.report().failed_loads
        self.assert_at_rest(fleet)

    def test_memory_that_rises_is_waited_for(self) -> None:
        """Longer than it may take to begin, until there is enough."""
        fleet, node = self.emptied(20.0, 20)
        # 4,576 MiB are free from the start, and 1,000 more after each second.
        self.assert_begun_after(10.0, fleet, node)

    def test_memory_that_does_not_come_is_not_waited_for_long(self) -> None:
        """Whether it is enough all the same the load will tell."""
        fleet, node = self.emptied(leaked_mb=20_000)
        self.assert_begun_after(LATE_SECONDS, fleet, node)
        fleet.advance(5)
        assert {COLD: 1} == node.journal.report().failed_loads

    def test_memory_that_stops_coming_is_not_waited_for_long(self) -> None:
        """The wait begins anew with each rise, and ends after the last."""
        fleet, node = self.emptied(3.0, 3, leaked_mb=12_000)
        self.assert_begun_after(3.0 + LATE_SECONDS, fleet, node)

    def test_memory_that_trickles_is_not_waited_for_without_end(self) -> None:
        """Half a minute, however it rises."""
        fleet, node = self.emptied(200.0, 400)
        self.assert_begun_after(MEMORY_SECONDS, fleet, node)

    def test_a_machine_that_does_not_describe_itself_loads_at_once(self) -> None:
        """There is nothing to look at."""
        node = self.node("a", MODEL, cold())
        fleet = self.fleet_of(node, models={COLD: {"vram_mb": 20_000}})
        node.faults.hang_routes = {SYSTEM}
        self.load(fleet)
        self.assert_begun_after(15.0, fleet, node)

    def test_a_footprint_that_nobody_knows_is_not_waited_for(self) -> None:
        """Nobody could say how much is enough."""
        node = self.node("a", SimulatedModel(id=OTHER, size_mb=20_000), cold(size_mb=100))
        fleet = self.fleet_of(node)
        node.faults.free_delay_seconds = 3.0
        node.running_process.unload(OTHER)
        fleet.poll()
        self.load(fleet)
        assert 1 == len(node.journal.requests(RELOAD))

    def test_a_load_that_waits_for_room_can_be_given_up(self) -> None:
        """When the daemon stops nothing is asked for any more."""
        fleet, node = self.emptied(3.0)
        fleet.advance(1)
        fleet.lifecycle.stopService()
        fleet.advance(10)
        assert ([], []) == (node.journal.requests(RELOAD), self.ends)
        assert [] == self.flushLoggedErrors()


class LeakTests(LifecycleTestCase):
    def test_what_is_tolerated(self) -> None:
        """Fifty MiB or so are nothing, nor is a fiftieth of a large model."""
        for measured, returned, leaked in (
            (1_000, 1_000, 0),
            (1_000, 1_000 - TOLERATED_LEAK_MB, 0),
            (1_000, 999 - TOLERATED_LEAK_MB, 1 + TOLERATED_LEAK_MB),
            (20_000, 19_600, 0),
            (20_000, 19_599, 401),
            (20_000, 0, 20_000),
            (20_000, 25_000, 0),
        ):
            assert leaked == leaked_mb(returned, measured)

    @given(st.none() | st.integers(0, 50_000), st.none() | st.integers(0, 50_000))
    def test_only_what_is_known_to_be_missing_leaks(
        self, returned: int | None, measured: int | None
    ) -> None:
        """All of it or nothing, and nothing where either is not known."""
        leaked = leaked_mb(returned, measured)
        missing = 0 if returned is None or measured is None else measured - returned
        assert leaked in (0, missing)
        assert leaked >= 0
