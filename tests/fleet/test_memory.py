"""The books of a node's memory: nothing that is resident is ever left out of them."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.memory import TOLERATED_MISSING_MB, over_mb
from cortexd.fleet.states import SystemInfo
from tests.support.nodes import (
    BUDGET_MB,
    DRAIN,
    LOAD,
    LOADED,
    LOADING,
    STUCK,
    UNLOAD,
    UNLOADED,
    UNLOADING,
    fleet_of,
    memory,
    replica_on,
    seen,
)


def booked(fleet: Fleet, name: str = "ada") -> dict[str, int]:
    """Return what is booked for each resident model of a node, in MiB."""
    return {
        model: replica.footprint_mb
        for model, replica in fleet.nodes[name].replicas.items()
        if replica.is_resident
    }


class KnownFootprintTests(SynchronousTestCase):
    def test_resident(self) -> None:
        """What is loaded, loads or is stuck takes its footprint; what is unloaded takes none."""
        fleet = fleet_of(
            {"ada": {"m1": LOADED, "m2": LOADING, "m3": STUCK, "m4": UNLOADED}},
            sizes={"m1": 1_000, "m2": 2_000, "m3": 4_000, "m4": 8_000},
        )
        node = fleet.nodes["ada"]

        assert {"m1": 1_000, "m2": 2_000, "m3": 4_000} == booked(fleet)
        assert (3, 7_000, 7_000, BUDGET_MB - 7_000) == (
            node.resident,
            node.resident_mb,
            node.committed_mb,
            node.free_mb,
        )

    def test_unmanaged(self) -> None:
        """What a node has that loads and unloads as it likes is not ours to book."""
        fleet = fleet_of(
            {"ada": {"m1": LOADED, "m2": LOADED}},
            sizes={"m1": 1_000},
            budget_mb=0,
            unmanaged=("ada",),
        )
        node = fleet.nodes["ada"]

        assert {} == booked(fleet)
        assert (0, 0, 0) == (node.resident, node.committed_mb, node.free_mb)

    def test_load(self) -> None:
        """A load takes its footprint from its beginning, and gives it back if it fails."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}}, sizes={"m1": 1_000})
        node, replica = fleet.nodes["ada"], replica_on(fleet, "ada", "m1")
        fleet.begin(replica, LOAD, 1)
        assert 1_000 == node.committed_mb
        fleet.end(replica, UNLOADED, 2)
        assert (0, 0) == (node.committed_mb, replica.footprint_mb)

    def test_unload(self) -> None:
        """An unload gives its footprint back once it is verified, but for what leaked."""
        fleet = fleet_of({"ada": {"m1": LOADED}}, sizes={"m1": 1_000})
        node, replica = fleet.nodes["ada"], replica_on(fleet, "ada", "m1")
        fleet.begin(replica, DRAIN, 1)
        fleet.begin(replica, UNLOAD, 2)
        fleet.observe("ada", seen(m1=UNLOADED), 3)
        assert 1_000 == node.committed_mb

        fleet.note_unload(node, 300)
        fleet.end(replica, UNLOADED, 4)

        assert (0, 300, 300, 1) == (
            node.resident_mb,
            node.leaked_mb,
            node.committed_mb,
            node.unload_cycles,
        )
        assert BUDGET_MB - 300 == node.free_mb

    def test_learned_meanwhile(self) -> None:
        """What a load elsewhere shows counts here from the next poll on, but for what unloads."""
        fleet = fleet_of({"ada": {"m1": LOADED}, "bob": {"m1": LOADED}})
        fleet.begin(replica_on(fleet, "bob", "m1"), UNLOAD, 1)
        fleet.footprints.learn("eve", "m1", 5.0, 3_000)
        fleet.observe("ada", seen(m1=LOADED), 2)
        fleet.observe("bob", seen(m1=LOADED), 2)

        assert ({"m1": 3_000}, {"m1": BUDGET_MB}) == (booked(fleet, "ada"), booked(fleet, "bob"))

    def test_more_than_the_budget(self) -> None:
        """Where somebody else filled more than the budget, less than nothing is free."""
        fleet = fleet_of({"ada": {"m1": LOADED}}, sizes={"m1": BUDGET_MB + 1_000})

        assert -1_000 == fleet.nodes["ada"].free_mb


class UnknownFootprintTests(SynchronousTestCase):
    def test_found_loaded(self) -> None:
        """Models found loaded share the budget that is left until the node says what is used."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED, "m3": LOADED}}, sizes={"m3": 4_000})
        assert {"m1": 10_000, "m2": 10_000, "m3": 4_000} == booked(fleet)

        fleet.record_system("ada", memory(used_mb=9_000), asked_at=0)
        assert {"m1": 2_500, "m2": 2_500, "m3": 4_000} == booked(fleet)

    def test_found_loading(self) -> None:
        """A load of somebody else's takes all that is free beside what is loaded already."""
        fleet = fleet_of({"ada": {"m1": LOADING, "m2": LOADED}}, sizes={"m2": 4_000})

        assert {"m1": 20_000, "m2": 4_000} == booked(fleet)
        assert 0 == fleet.nodes["ada"].free_mb

    def test_found_loaded_beside_one_that_loads(self) -> None:
        """What is there counts before what is on its way."""
        fleet = fleet_of({"ada": {"m1": LOADING, "m2": LOADED}})

        assert {"m1": 12_000, "m2": 12_000} == booked(fleet)

    def test_beside_what_is_told(self) -> None:
        """A load takes all that is free beside what the node said of its neighbours."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": UNLOADED}})
        fleet.record_system("ada", memory(used_mb=6_000))
        fleet.observe("ada", seen(m1=LOADED, m2=LOADING), 1)

        assert {"m1": 6_000, "m2": 18_000} == booked(fleet)

    def test_our_load(self) -> None:
        """A load of ours takes all that is free, and then what the node says it took."""
        fleet = fleet_of({"ada": {"m1": UNLOADED, "m2": LOADED}}, sizes={"m2": 4_000})
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, LOAD, 1)
        assert {"m1": 20_000, "m2": 4_000} == booked(fleet)
        fleet.end(replica, LOADED, 5)
        assert {"m1": 20_000, "m2": 4_000} == booked(fleet)

        fleet.record_system("ada", memory(used_mb=7_000), asked_at=6)
        assert {"m1": 3_000, "m2": 4_000} == booked(fleet)

    def test_our_load_that_was_measured(self) -> None:
        """What a load has shown of its footprint counts from its end on."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        replica = replica_on(fleet, "ada", "m1")
        fleet.begin(replica, LOAD, 1)
        fleet.footprints.learn("ada", "m1", 4.0, 3_000)
        fleet.end(replica, LOADED, 5)

        assert {"m1": 3_000} == booked(fleet)

    def test_nothing_is_free(self) -> None:
        """Where nothing is left to assume, a replica still takes something."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}}, sizes={"m2": BUDGET_MB + 500})
        assert {"m1": 1, "m2": BUDGET_MB + 500} == booked(fleet)

        fleet.record_system("ada", memory(used_mb=10), asked_at=0)
        assert {"m1": 1, "m2": BUDGET_MB + 500} == booked(fleet)

    def test_not_more_than_the_budget(self) -> None:
        """What others than the node's engine use beyond the budget is not shared out."""
        fleet = fleet_of({"ada": {"m1": LOADED}}, budget_mb=10_000)
        fleet.record_system("ada", memory(used_mb=15_000), asked_at=0)

        assert {"m1": 10_000} == booked(fleet)

    def test_node_that_says_nothing_of_its_memory(self) -> None:
        """Without figures of the node's memory, what was assumed stays."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        for system in (SystemInfo("0.9.2", None, 5_000), SystemInfo("0.9.2", BUDGET_MB, None)):
            fleet.record_system("ada", system, asked_at=0)

            assert {"m1": BUDGET_MB} == booked(fleet)

    def test_asked_too_early(self) -> None:
        """What a node said before a replica came or went is no word on those there now."""
        for came in ("observed", "found", "loaded", "unloaded", "gone", "restarted"):
            fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED, "m3": UNLOADED}})
            match came:
                case "observed":
                    fleet.observe("ada", seen(m1=LOADED, m2=LOADED, m3=LOADED), 5)
                case "found":
                    fleet.observe("ada", seen(m1=LOADED, m2=LOADED, m4=LOADED), 5)
                case "loaded":
                    fleet.begin(replica_on(fleet, "ada", "m3"), LOAD, 1)
                    fleet.end(replica_on(fleet, "ada", "m3"), LOADED, 5)
                case "unloaded":
                    fleet.begin(replica_on(fleet, "ada", "m2"), UNLOAD, 1)
                    fleet.end(replica_on(fleet, "ada", "m2"), UNLOADED, 5)
                case "gone":
                    fleet.observe("ada", seen(m1=LOADED), 5)
                case "restarted":
                    fleet.observe("ada", seen(200, m1=LOADED, m2=LOADED), 5)
            before = booked(fleet)

            fleet.record_system("ada", memory(used_mb=600), asked_at=4)
            assert before == booked(fleet), came
            fleet.record_system("ada", memory(used_mb=600), asked_at=5)
            assert {600 // len(before)} == set(booked(fleet).values()), came

    def test_not_at_rest(self) -> None:
        """While something loads or unloads, nobody knows whose the used memory is."""
        for state in (LOADING, UNLOADING):
            fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}})
            if state is LOADING:
                fleet.observe("ada", seen(m1=LOADED, m2=LOADING), 1)
            else:
                fleet.begin(replica_on(fleet, "ada", "m2"), UNLOAD, 1)
            before = booked(fleet)
            fleet.record_system("ada", memory(used_mb=600))

            assert before == booked(fleet)

    def test_while_draining(self) -> None:
        """A drain moves no memory: the node's word counts."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        fleet.begin(replica_on(fleet, "ada", "m1"), DRAIN, 5)
        fleet.record_system("ada", memory(used_mb=600), asked_at=4)

        assert {"m1": 600} == booked(fleet)

    def test_new_process(self) -> None:
        """What was assumed of the old process is not believed of the new one."""
        fleet = fleet_of({"ada": {"m1": LOADED}})
        fleet.record_system("ada", memory(used_mb=600))
        fleet.observe("ada", seen(200, m1=LOADED), 5)

        assert {"m1": BUDGET_MB} == booked(fleet)

    def test_unloaded_in_between(self) -> None:
        """What was assumed of a replica is not believed of it when it is loaded again."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": UNLOADED}})
        assert {"m1": BUDGET_MB} == booked(fleet)
        fleet.observe("ada", seen(m1=UNLOADED, m2=UNLOADED), 1)
        fleet.observe("ada", seen(m1=LOADED, m2=LOADED), 2)

        assert {"m1": 12_000, "m2": 12_000} == booked(fleet)


class LeakTests(SynchronousTestCase):
    def leaky(self, leaked_mb: int = 2_000) -> Fleet:
        """Return a fleet of one node that holds 4,000 MiB and did not give back some at 5 s."""
        fleet = fleet_of({"ada": {"m1": LOADED, "m2": LOADED}}, sizes={"m1": 4_000, "m2": 3_000})
        replica = replica_on(fleet, "ada", "m2")
        fleet.begin(replica, UNLOAD, 1)
        fleet.note_unload(fleet.nodes["ada"], leaked_mb)
        fleet.end(replica, UNLOADED, 5)
        return fleet

    def leaked(self, fleet: Fleet) -> int:
        return fleet.nodes["ada"].leaked_mb

    def test_came_back_after_all(self) -> None:
        """A leak is no larger than what is used and belongs to nobody."""
        for used_mb, leaked_mb in ((6_500, 2_000), (6_000, 2_000), (4_700, 700), (3_000, 0)):
            fleet = self.leaky()
            fleet.record_system("ada", memory(used_mb), asked_at=6)

            assert leaked_mb == self.leaked(fleet)
            assert 4_000 + leaked_mb == fleet.nodes["ada"].committed_mb

    def test_never_grows(self) -> None:
        """Only an unload shows a leak: memory in use may be anybody's."""
        fleet = self.leaky(leaked_mb=0)
        fleet.record_system("ada", memory(20_000), asked_at=6)

        assert 0 == self.leaked(fleet)

    def test_asked_too_early(self) -> None:
        """What a node said before its last unload ended does not mend a leak."""
        fleet = self.leaky()
        fleet.record_system("ada", memory(4_000), asked_at=4)

        assert 2_000 == self.leaked(fleet)

    def test_not_at_rest(self) -> None:
        """While a load runs, the memory that it takes is not told from a leak."""
        fleet = self.leaky()
        fleet.begin(replica_on(fleet, "ada", "m2"), LOAD, 7)
        fleet.record_system("ada", memory(4_000), asked_at=8)

        assert 2_000 == self.leaked(fleet)

    def test_unknown_neighbour(self) -> None:
        """Where a footprint is unknown, a leak is not told from it."""
        fleet = self.leaky()
        fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED, m3=LOADED), 7)
        fleet.record_system("ada", memory(5_000), asked_at=8)

        assert 2_000 == self.leaked(fleet)


class MissingTests(SynchronousTestCase):
    def holding(self, budget_mb: int = BUDGET_MB) -> Fleet:
        """Return a fleet of one node that holds 4,000 MiB of known footprint."""
        listing = {"m1": LOADED, "m2": UNLOADED}
        sizes = {"m1": 4_000, "m2": 3_000}
        return fleet_of({"ada": listing}, sizes=sizes, budget_mb=budget_mb)

    def test_less_is_free_than_the_books_say(self) -> None:
        """What is used and booked for nobody is not there; a little of it does not matter."""
        for used_mb, missing_mb in (
            (3_000, 0),
            (4_000, 0),
            (4_000 + TOLERATED_MISSING_MB, 0),
            (4_001 + TOLERATED_MISSING_MB, 1 + TOLERATED_MISSING_MB),
            (20_000, 16_000),
        ):
            fleet = self.holding()
            fleet.record_system("ada", memory(used_mb))
            node = fleet.nodes["ada"]

            assert missing_mb == node.missing_mb
            assert (4_000 + missing_mb, 0) == (node.committed_mb, node.leaked_mb)
            assert BUDGET_MB - 4_000 - missing_mb == node.free_mb

    def test_what_others_may_have(self) -> None:
        """What is beyond the budget is not ours to miss; what is within it is."""
        for used_mb, missing_mb in ((4_000, 0), (10_000, 0), (10_064, 0), (12_000, 2_000)):
            fleet = self.holding(BUDGET_MB - 6_000)
            fleet.record_system("ada", memory(used_mb))

            assert missing_mb == fleet.nodes["ada"].missing_mb

    def test_beside_a_leak(self) -> None:
        """What has leaked is missing too, and is not counted twice."""
        for leaked_mb, used_mb in ((500, 4_300), (500, 4_500), (500, 6_000)):
            fleet = self.holding()
            fleet.note_unload(fleet.nodes["ada"], leaked_mb)
            assert 4_000 + leaked_mb == fleet.nodes["ada"].committed_mb
            fleet.record_system("ada", memory(used_mb))

            assert used_mb == fleet.nodes["ada"].committed_mb

    def test_on_its_way(self) -> None:
        """Of what polls read no more is believed than the reading before said too.

        The memory of an unload that we have not waited for may be on its way.
        """
        fleet = self.holding()
        node = fleet.nodes["ada"]
        for at, used_mb, missing_mb in (
            (1, 10_000, 0),
            (2, 9_000, 5_000),
            (3, 12_000, 5_000),
            (4, 4_000, 0),
            (5, 12_000, 0),
            (6, 12_000, 8_000),
        ):
            fleet.record_system("ada", memory(used_mb), asked_at=at)

            assert missing_mb == node.missing_mb
        fleet.observe("ada", seen(200, m1=LOADED, m2=UNLOADED), 7)
        fleet.record_system("ada", memory(12_000), asked_at=8)
        assert 0 == node.missing_mb

    def test_until_it_is_back(self) -> None:
        """The next reading at rest counts, one while something loads says nothing."""
        fleet = self.holding()
        node = fleet.nodes["ada"]
        fleet.record_system("ada", memory(10_000))
        fleet.begin(replica_on(fleet, "ada", "m2"), LOAD, 1)
        fleet.record_system("ada", memory(4_000), asked_at=2)
        assert 6_000 == node.missing_mb
        fleet.end(replica_on(fleet, "ada", "m2"), LOADED, 3)
        fleet.record_system("ada", memory(4_000), asked_at=2)
        assert 6_000 == node.missing_mb
        fleet.record_system("ada", memory(7_000), asked_at=3)

        assert (0, 7_000) == (node.missing_mb, node.committed_mb)

    def test_restart(self) -> None:
        """Of another process nothing is missing."""
        fleet = self.holding()
        fleet.record_system("ada", memory(10_000))
        fleet.observe("ada", seen(200, m1=LOADED, m2=UNLOADED), 1)

        assert (0, 4_000) == (fleet.nodes["ada"].missing_mb, fleet.nodes["ada"].committed_mb)

    def test_unknown_neighbour(self) -> None:
        """Where a footprint is unknown, it is what is used and nobody else's."""
        fleet = self.holding()
        fleet.record_system("ada", memory(10_000))
        fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED, m3=LOADED), 1)
        fleet.record_system("ada", memory(10_000))

        assert {"m1": 4_000, "m3": 6_000} == booked(fleet)
        assert (0, 10_000) == (fleet.nodes["ada"].missing_mb, fleet.nodes["ada"].committed_mb)

    def test_a_little_of_others(self) -> None:
        """What an agent has told of others confirms only that much, and a little is none."""
        fleet = fleet_of({"ada": {}})
        report = AgentReport(
            life=EngineLife.ANSWERS,
            memory_total_mb=BUDGET_MB,
            memory_free_mb=BUDGET_MB - 1,
            others_mb=1,
        )
        fleet.take_report("ada", report, 1.0, asked_at=1.0)
        fleet.record_system("ada", memory(TOLERATED_MISSING_MB + 1), asked_at=2.0)

        assert 0 == fleet.nodes["ada"].missing_mb

    def test_unknown_beyond_the_budget(self) -> None:
        """What an engine takes beyond the budget is its models' where others are known to take
        nothing, and may be anybody's where that is not known.
        """
        for others_mb, beyond_mb in ((0, 2_000), (None, 0)):
            fleet = self.holding()
            node = fleet.nodes["ada"]
            fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED, m3=LOADED), 1)
            fleet.note_agent("ada", AgentAbilities(version="1"))
            report = AgentReport(
                life=EngineLife.ANSWERS,
                memory_total_mb=BUDGET_MB + 4_000,
                memory_free_mb=2_000,
                others_mb=others_mb,
            )
            fleet.take_report("ada", report, 9.0, asked_at=9.0)

            assert beyond_mb == over_mb(node)

    def test_node_that_says_nothing_of_its_memory(self) -> None:
        """Without figures nothing is missing, and what was missing stays so."""
        fleet = self.holding()
        for total_mb, free_mb in ((None, 5_000), (BUDGET_MB, None)):
            fleet.record_system("ada", SystemInfo("0.9.2", total_mb, free_mb))
            assert 0 == fleet.nodes["ada"].missing_mb
        fleet.record_system("ada", memory(10_000))
        fleet.record_system("ada", SystemInfo("0.9.2", None, None))

        assert 6_000 == fleet.nodes["ada"].missing_mb


class LearnedElsewhereTests(SynchronousTestCase):
    def test_stands_in(self) -> None:
        """A load measured on another node says what to book here until there is one of its own."""
        fleet = fleet_of(
            {"ada": {"m1": UNLOADED}}, learned={("bob", "m1"): LearnedLoad(1, 7_000.0)}
        )
        fleet.begin(replica_on(fleet, "ada", "m1"), LOAD, 1)

        assert {"m1": 7_000} == booked(fleet)
