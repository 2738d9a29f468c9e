from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from cortexd.scheduling.repairs.reasons import restart_reason
from tests.support.nodes import (
    LOAD,
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    STUCK,
    UNLOADED,
    fleet_of,
    memory,
    replica_on,
    seen,
)


def reason(fleet: Fleet, defrag_after_cycles: int = 3, now: float = 5.0) -> str | None:
    return restart_reason(fleet, fleet.nodes["ada"], defrag_after_cycles, now)


class RestartReasonTests(SynchronousTestCase):
    def test_sound(self) -> None:
        """A node that did nothing but serve needs no restart."""
        assert None is reason(fleet_of({"ada": {"m1": LOADED, "m2": UNLOADED}}))

    def test_leak(self) -> None:
        """A node needs a restart for memory that it did not give back, until that is back."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        fleet.note_unload(fleet.nodes["ada"], 512)
        assert "unloads did not free 512 MiB" == reason(fleet)

        fleet.record_system("ada", memory(used_mb=0))
        assert None is reason(fleet)

    def test_unloads(self) -> None:
        """So many unloads leave memory in pieces; 0 says that no number of them does."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        node = fleet.nodes["ada"]
        for _ in range(2):
            fleet.note_unload(node, 0)
        assert None is reason(fleet)
        fleet.note_unload(node, 0)

        assert "3 unloads since its start" == reason(fleet)
        assert None is reason(fleet, defrag_after_cycles=0)

    def test_stuck(self) -> None:
        """An id that is stuck for longer than a moment needs a restart, though it answers."""
        fleet = fleet_of({"ada": {"m2": STUCK, "m1": STUCK}})
        assert None is reason(fleet)
        fleet.observe("ada", seen(m2=STUCK, m1=STUCK), 1)
        assert "stuck: m1, m2" == reason(fleet)

        fleet.observe("ada", seen(m2=STUCK, m1=LOADED), 2)
        assert "stuck: m2" == reason(fleet)

    def test_load_without_end(self) -> None:
        """A load that is past its time never ends by itself."""
        fleet = fleet_of({"ada": {"m1": LOADING, "m2": UNLOADED}})
        fleet.begin(replica_on(fleet, "ada", "m2"), LOAD, 50)

        assert None is reason(fleet, now=LOAD_TIMEOUT)
        assert "stuck: m1" == reason(fleet, now=LOAD_TIMEOUT + 1)

    def test_all_at_once(self) -> None:
        """All reasons are told, and a restart mends all."""
        fleet = fleet_of({"ada": {"m1": STUCK}})
        fleet.observe("ada", seen(m1=STUCK), 1)
        for _ in range(3):
            fleet.note_unload(fleet.nodes["ada"], 100)
        assert "unloads did not free 300 MiB; 3 unloads since its start; stuck: m1" == reason(fleet)

        fleet.observe("ada", seen(200, m1=LOADED), 2)
        assert None is reason(fleet)
