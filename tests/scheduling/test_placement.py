from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.breaker import Outcome
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import ModelTerms
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.placement import (
    PASSING,
    Finding,
    Hindrance,
    Obstacle,
    can_ever_hold,
    fits,
    idle_evictable,
    immovable_mb,
    may_pass,
    needed_mb,
)
from tests.support.nodes import (
    DRAIN,
    LOAD,
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOAD,
    UNLOADED,
    fleet_of,
    replica_on,
    seen,
)
from tests.support.placements import NOW, SIZES, found_for, told


class ObstacleTests(SynchronousTestCase):
    def obstacle(self, hindrance: Hindrance) -> Finding:
        """Return what a survey finds on a node with this hindrance, and with no other."""
        listing: dict[str, ReplicaState] = {"m": UNLOADED, "a": UNLOADED, "large": UNLOADED}
        model, swapping, tried, now = "m", [], [], NOW
        match hindrance:
            case Hindrance.LOADED | Hindrance.EJECTED:
                listing["m"] = LOADED
            case Hindrance.LOADING:
                listing["m"] = LOADING
            case Hindrance.STUCK | Hindrance.RESTARTS:
                listing["m"] = LOADING
                now = NOW + LOAD_TIMEOUT + 1
            case Hindrance.OCCUPIED:
                listing |= {"a": LOADED, "b": LOADED}
            case Hindrance.TOO_LARGE:
                model = "large"
            case Hindrance.TRIED:
                tried = ["ada"]
            case Hindrance.SWAPPING:
                swapping = ["ada"]
        fleet = fleet_of({"ada": listing}, sizes=SIZES, now=NOW)
        match hindrance:
            case Hindrance.NOT_ANSWERING:
                fleet.fail("ada", REFUSED, NOW)
            case Hindrance.UNREACHED:
                fleet.note_unreachable(fleet.nodes["ada"])
            case Hindrance.NOT_ALLOWED:
                replica_on(fleet, "ada", "m").take_terms(ModelTerms(1, only_on=("fast",)))
            case Hindrance.CORDONED:
                fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
            case Hindrance.CLOSED:
                fleet.close(fleet.nodes["ada"], "its engine is restarted")
            case Hindrance.ASLEEP:
                fleet.set_power(fleet.nodes["ada"], PowerState.ASLEEP, "idle", NOW)
            case Hindrance.RESTARTS:
                fleet.note_awaited(fleet.nodes["ada"], awaits_restart=True)
            case Hindrance.FAILED:
                fleet.note_load_failure(replica_on(fleet, "ada", "m"), "no file", NOW + 1)
            case Hindrance.EJECTED:
                lease = fleet.grant(replica_on(fleet, "ada", "m"), "request", NOW)
                fleet.release(lease, NOW)
                fleet.ejections.take_end(
                    replica_on(fleet, "ada", "m"), (), lease, Outcome(fault="x", poisoned=True), NOW
                )
            case Hindrance.OCCUPIED:
                for resident in "ab":
                    fleet.grant(replica_on(fleet, "ada", resident), "request", NOW)
        (found,) = found_for(fleet, model, swapping=swapping, tried=tried, now=now)
        return found

    def test_each(self) -> None:
        """Each thing that may be in the way is found, and told as what it is."""
        for hindrance in Hindrance:
            found = self.obstacle(hindrance)
            assert isinstance(found, Obstacle), hindrance

            assert hindrance is found.hindrance
            assert (hindrance in PASSING) == found.is_passing

    def test_passing(self) -> None:
        """Waiting helps against what ends by itself, not against what somebody must mend."""
        assert {
            Hindrance.NOT_ALLOWED,
            Hindrance.NOT_ANSWERING,
            Hindrance.CORDONED,
            Hindrance.TRIED,
            Hindrance.STUCK,
            Hindrance.EJECTED,
            Hindrance.FAILED,
            Hindrance.TOO_LARGE,
        } == set(Hindrance) - PASSING
        for hindrance in Hindrance:
            found = self.obstacle(hindrance)

            assert (hindrance in PASSING) == may_pass([found])
        assert not may_pass([])

    def test_first_of_several(self) -> None:
        """A cordon counts before a node's silence, and what polls saw of that before the rest."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES, now=NOW)
        node = fleet.nodes["ada"]
        fleet.note_unreachable(node)
        assert {"ada": Hindrance.UNREACHED} == told(found_for(fleet))
        fleet.fail("ada", REFUSED, NOW)
        assert {"ada": Hindrance.NOT_ANSWERING} == told(found_for(fleet))
        fleet.set_cordon(node, cordoned=True)
        assert {"ada": Hindrance.CORDONED} == told(found_for(fleet))

    def test_no_obstacle(self) -> None:
        """With none of these in the way there is an option, and it may come to something."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": UNLOADED}}, sizes=SIZES, now=NOW)
        found = found_for(fleet)

        assert {"ada": []} == told(found)
        assert may_pass(found)

    def test_changing_by_other_hands(self) -> None:
        """A node that loads or unloads something else, by whoever's wish, is left in peace."""
        for state, operation in ((LOADING, None), (LOADED, UNLOAD), (UNLOADED, LOAD)):
            fleet = fleet_of({"ada": {"m": UNLOADED, "a": state}}, sizes=SIZES, now=NOW)
            if operation is not None:
                fleet.begin(replica_on(fleet, "ada", "a"), operation, NOW)

            assert {"ada": Hindrance.SWAPPING} == told(found_for(fleet))

    def test_beside_a_load_that_hangs(self) -> None:
        """A load that is past its time keeps nobody from loading what still fits beside it."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADING}}, sizes=SIZES, now=NOW)

        assert {"ada": []} == told(found_for(fleet, now=NOW + LOAD_TIMEOUT + 1))

    def test_failed_for_a_while(self) -> None:
        """A load that failed may be tried again once its time has come."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES, now=NOW)
        fleet.note_load_failure(replica_on(fleet, "ada", "m"), "no file", NOW + 5)

        assert {"ada": Hindrance.FAILED} == told(found_for(fleet, now=NOW + 4.9))
        assert {"ada": []} == told(found_for(fleet, now=NOW + 5))

    def test_draining(self) -> None:
        """A replica that is on its way out is loaded again only after it is gone."""
        fleet = fleet_of({"ada": {"m": LOADED}}, sizes=SIZES, now=NOW)
        fleet.begin(replica_on(fleet, "ada", "m"), DRAIN, NOW)

        assert {"ada": Hindrance.SWAPPING} == told(found_for(fleet))


class CapacityTests(SynchronousTestCase):
    def test_what_stays(self) -> None:
        """What is pinned, stuck or leaked stays; everything else may go."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED, "s": STUCK, "p": UNLOADED}},
            sizes={"m": 100, "a": 1_000, "b": 2_000, "s": 4_000, "p": 8_000},
            pinned={"ada": ("a", "p")},
        )
        node = fleet.nodes["ada"]
        fleet.note_unload(node, 500)

        assert 1_000 + 4_000 + 8_000 + 500 == immovable_mb(fleet, node, "m")
        assert 4_000 + 500 == immovable_mb(fleet, node, "a")

    def test_pins_that_are_missing(self) -> None:
        """A pinned model that is missing keeps its room from others, not from another such."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "p": UNLOADED, "q": UNLOADED}},
            sizes={"p": 8_000, "q": 4_000},
            pinned={"ada": ("p", "q")},
        )

        assert [12_000, 0, 0] == [immovable_mb(fleet, fleet.nodes["ada"], model) for model in "mpq"]

    def test_can_ever_hold(self) -> None:
        """A node can hold what fits beside what stays, to the last MiB."""
        for size, expected in ((19_000, True), (19_001, False)):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}},
                sizes={"m": size, "a": 5_000, "b": 15_000},
                pinned={"ada": ("a",)},
            )

            assert expected == can_ever_hold(fleet, replica_on(fleet, "ada", "m"))

    def test_room_after_a_restart(self) -> None:
        """What leaks and stuck models keep, a restart gives back; what is pinned stays."""
        pinned = ("s",)
        for listed, leaked_mb, pins, most_mb in (
            (UNLOADED, 9_000, (), 24_000),
            (STUCK, 0, (), 24_000),
            (LOADED, 9_000, pinned, 20_000),
            (STUCK, 9_000, pinned, 20_000),
        ):
            for size, hindrance in ((most_mb, Hindrance.STUCK), (most_mb + 1, Hindrance.TOO_LARGE)):
                fleet = fleet_of(
                    {"ada": {"m": UNLOADED, "s": listed}},
                    sizes={"m": size, "s": 4_000},
                    pinned={"ada": pins},
                )
                fleet.note_unload(fleet.nodes["ada"], leaked_mb)

                assert {"ada": hindrance} == told(found_for(fleet))

    def test_room_for_one_of_unknown_size(self) -> None:
        """Of what nobody knows, it is only known that it takes something."""
        for pinned_mb, expected in ((23_999, True), (24_000, False)):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": LOADED}},
                sizes={"a": pinned_mb},
                pinned={"ada": ("a",)},
            )

            assert expected == can_ever_hold(fleet, replica_on(fleet, "ada", "m"))

    def test_full_by_number(self) -> None:
        """A node whose limit is reached by models that stay holds no other, pinned or not."""
        for max_resident, expected in ((4, [True, True]), (3, [False, True]), (2, [False, False])):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": LOADED, "s": STUCK, "p": UNLOADED}},
                sizes=dict.fromkeys("maps", 100),
                max_resident=max_resident,
                pinned={"ada": ("a", "p")},
            )

            assert expected == [
                can_ever_hold(fleet, replica_on(fleet, "ada", model)) for model in "mp"
            ]

    def test_fits(self) -> None:
        """A replica fits where memory is free and the number of models is below its limit."""
        for max_resident, size, expected in (
            (0, 14_000, True),
            (0, 14_001, False),
            (2, 14_000, True),
            (1, 14_000, False),
        ):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": LOADED}},
                sizes={"m": size, "a": 10_000},
                max_resident=max_resident,
            )

            assert expected == fits(fleet, replica_on(fleet, "ada", "m"))

    def test_need_of_one_of_unknown_size(self) -> None:
        """It is taken to need what its neighbours need on average, or anything on an empty node."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}}, sizes={"a": 10_000, "b": 12_000}
        )
        assert 11_000 == needed_mb(fleet, replica_on(fleet, "ada", "m"))
        fleet.observe("ada", seen(m=UNLOADED), 1)
        assert 1 == needed_mb(fleet, replica_on(fleet, "ada", "m"))

    def test_need_is_never_more_than_can_be_had(self) -> None:
        """What nobody knows the size of is not kept out by what was assumed of it."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED}}, sizes={"a": 20_000}, pinned={"ada": ("a",)}
        )

        assert 4_000 == needed_mb(fleet, replica_on(fleet, "ada", "m"))


class VictimTests(SynchronousTestCase):
    def full(self, **options: Any) -> Fleet:
        """Return a node with two models beside which the third does not fit."""
        return fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}}, sizes=SIZES, now=0, **options
        )

    def test_idle(self) -> None:
        """The longest unused of the idle ones goes."""
        fleet = self.full()
        for now, model in ((100, "b"), (200, "a")):
            fleet.release(fleet.grant(replica_on(fleet, "ada", model), "request", now), now)

        assert {"ada": ["b"]} == told(found_for(fleet))

    def test_leased(self) -> None:
        """What is in use is given up only where it may be drained."""
        fleet = self.full(pinned={"ada": ("a",)})
        fleet.grant(replica_on(fleet, "ada", "b"), "request", 100)

        assert {"ada": Hindrance.OCCUPIED} == told(found_for(fleet))
        assert {"ada": ["b"]} == told(found_for(fleet, may_drain=True))

    def test_pinned(self) -> None:
        """What is pinned is not given up, not even where all else is in use."""
        fleet = self.full(pinned={"ada": ("a",)})
        assert {"ada": ["b"]} == told(found_for(fleet))

        fleet.begin(replica_on(fleet, "ada", "b"), DRAIN, 100)
        assert {"ada": Hindrance.OCCUPIED} == told(found_for(fleet, may_drain=True))

    def test_only_free_memory(self) -> None:
        """Without leave to evict, only what is free counts."""
        assert {"ada": Hindrance.OCCUPIED} == told(found_for(self.full(), may_evict=False))

    def test_unload_that_failed(self) -> None:
        """What could not be unloaded is left alone for a while."""
        fleet = self.full()
        fleet.note_unload_failure(replica_on(fleet, "ada", "a"), NOW + 1)

        assert {"ada": ["b"]} == told(found_for(fleet))
        fleet.note_unload_failure(replica_on(fleet, "ada", "b"), NOW + 1)
        assert {"ada": Hindrance.OCCUPIED} == told(found_for(fleet))
        assert {"ada": ["a"]} == told(found_for(fleet, now=NOW + 1))

    def test_full_by_number(self) -> None:
        """Where the limit of models is reached one goes, though memory would be free."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, sizes=SIZES, max_resident=1, now=0)

        assert {"ada": ["a"]} == told(found_for(fleet))

    def test_all_that_is_idle(self) -> None:
        """After a load ran out of memory all that is idle and may go, goes."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, **dict.fromkeys("abpu", LOADED), "s": STUCK}},
            pinned={"ada": ("p",)},
        )
        fleet.grant(replica_on(fleet, "ada", "u"), "request", 1)
        idle = idle_evictable(fleet, replica_on(fleet, "ada", "b"))

        assert ["a"] == [replica.model for replica in idle]
