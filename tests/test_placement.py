from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet import Fleet
from cortexd.footprints import LearnedLoad
from cortexd.nodes import NodeTerms
from cortexd.placement import (
    ASSUMED_LOAD_SECONDS,
    PASSING,
    EvictionTerms,
    Finding,
    Hindrance,
    Obstacle,
    Option,
    best,
    can_ever_hold,
    fits,
    idle_evictable,
    immovable_mb,
    may_pass,
    needed_mb,
    survey,
)
from cortexd.states import Observation, ReplicaState
from tests.nodes import (
    DRAIN,
    LISTED_STATES,
    LOAD,
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOAD,
    UNLOADED,
    fleet_of,
    make_fleet,
    memory,
    replica_on,
    seen,
)

TERMS = EvictionTerms("lru", min_residency=10.0)
NOW = 1_000.0
SIZES = {"m": 8_000, "a": 10_000, "b": 12_000, "large": 30_000}


def found_for(
    fleet: Fleet, model: str = "m", *, swapping: Collection[str] = (), now: float = NOW, **may: Any
) -> list[Finding]:
    return survey(fleet, fleet.replicas(model), TERMS, now, swapping=swapping, **may)


def told(found: list[Finding]) -> dict[str, object]:
    """Return for each node what would be given up there, or why it cannot load the model."""
    return {
        finding.replica.node.name: finding.hindrance
        if isinstance(finding, Obstacle)
        else [victim.model for victim in finding.victims.victims]
        for finding in found
    }


def choice(fleet: Fleet, model: str = "m", **may: Any) -> str | None:
    """Return the node of the best option."""
    option = best(found_for(fleet, model, **may))
    return option.replica.node.name if option is not None else None


class ObstacleTests(SynchronousTestCase):
    def obstacle(self, hindrance: Hindrance) -> Finding:
        """Return what a survey finds on a node with this hindrance, and with no other."""
        listing: dict[str, ReplicaState] = {"m": UNLOADED, "a": UNLOADED, "large": UNLOADED}
        model, swapping, tried, now = "m", [], [], NOW
        match hindrance:
            case Hindrance.LOADED:
                listing["m"] = LOADED
            case Hindrance.LOADING:
                listing["m"] = LOADING
            case Hindrance.STUCK:
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
            case Hindrance.CORDONED:
                fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
            case Hindrance.FAILED:
                fleet.note_load_failure(replica_on(fleet, "ada", "m"), "no file", NOW + 1)
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
            Hindrance.NOT_ANSWERING,
            Hindrance.CORDONED,
            Hindrance.TRIED,
            Hindrance.STUCK,
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

    def test_room_for_one_of_unknown_size(self) -> None:
        """Of what nobody knows, it is only known that it takes something."""
        for pinned_mb, expected in ((23_999, True), (24_000, False)):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": LOADED}},
                sizes={"a": pinned_mb},
                pinned={"ada": ("a",)},
            )

            assert expected == can_ever_hold(fleet, replica_on(fleet, "ada", "m"))

    def test_places(self) -> None:
        """A node whose places are all for what stays can hold nothing else, pinned or not."""
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
        """A replica fits into free memory and a free place, both of them."""
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
        replica_on(fleet, "ada", "a").keep_until = NOW + 1

        assert {"ada": ["b"]} == told(found_for(fleet))
        replica_on(fleet, "ada", "b").keep_until = NOW + 1
        assert {"ada": Hindrance.OCCUPIED} == told(found_for(fleet))
        assert {"ada": ["a"]} == told(found_for(fleet, now=NOW + 1))

    def test_places(self) -> None:
        """Where the places are taken one goes, though memory would be free."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, sizes=SIZES, max_resident=1, now=0)

        assert {"ada": ["a"]} == told(found_for(fleet))

    def test_all_that_is_idle(self) -> None:
        """After a load ran out of memory all that is idle and may go, goes."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, **dict.fromkeys("abpu", LOADED), "s": STUCK}},
            pinned={"ada": ("p",)},
        )
        fleet.grant(replica_on(fleet, "ada", "u"), "request", 1)
        idle = idle_evictable(fleet.nodes["ada"], replica_on(fleet, "ada", "b"))

        assert ["a"] == [replica.model for replica in idle]


def seconds(**by_node: float) -> Mapping[tuple[str, str], LearnedLoad]:
    """Return that a load of the model ``m`` took these seconds on each node."""
    return {(node, "m"): LearnedLoad(0, 0, 0, 1, taken) for node, taken in by_node.items()}


class ChoiceTests(SynchronousTestCase):
    def test_fits_before_costs(self) -> None:
        """A node where it fits is taken before one that must give up something, however quick."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED, "b": LOADED}, "bob": {"m": UNLOADED, "a": LOADED}},
            sizes=SIZES,
            learned=seconds(ada=1.0, bob=500.0),
        )

        assert {"ada": ["a"], "bob": []} == told(found_for(fleet))
        assert "bob" == choice(fleet)

    def test_least_cost(self) -> None:
        """Of nodes that must give up something, that with the cheapest victims is taken."""
        full = {"m": UNLOADED, "a": LOADED, "b": LOADED}
        fleet = fleet_of({"ada": full, "bob": full}, sizes=SIZES)
        for node, models in (("ada", "ab"), ("bob", "ab")):
            for model in models:
                now = 300 if node == "ada" else 200
                fleet.release(fleet.grant(replica_on(fleet, node, model), "request", now), now)

        assert "bob" == choice(fleet)

    def test_quickest(self) -> None:
        """Of nodes where it fits, the one that loads it quickest is taken."""
        fleet = fleet_of(
            {name: {"m": UNLOADED} for name in ("ada", "bob", "cyd")},
            sizes=SIZES,
            learned=seconds(ada=60.0, bob=20.0, cyd=40.0),
        )

        assert "bob" == choice(fleet)
        assert [60, 20, 40] == [
            finding.seconds for finding in found_for(fleet) if isinstance(finding, Option)
        ]

    def test_assumed_seconds(self) -> None:
        """Where no load was seen, anywhere, one is taken to last as long as loads mostly do."""
        (found,) = found_for(fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES))

        assert isinstance(found, Option)
        assert (ASSUMED_LOAD_SECONDS, 8_000) == (found.seconds, found.footprint_mb)

    def test_least_busy(self) -> None:
        """Of equals, the node with the fewest requests is taken, then the one with most room."""
        fleet = fleet_of(
            {
                "ada": {"m": UNLOADED, "x": LOADED},
                "bob": {"m": UNLOADED, "a": LOADED},
                "cyd": {"m": UNLOADED, "x": LOADED},
                "dan": {"m": UNLOADED, "x": LOADED},
            },
            sizes={**SIZES, "x": 100},
        )
        fleet.grant(replica_on(fleet, "ada", "x"), "request", 1)

        assert "cyd" == choice(fleet)

    def test_unknown_size(self) -> None:
        """What nobody knows the size of goes where most room is, however slow and busy."""
        fleet = fleet_of(
            {
                "ada": {"m": UNLOADED, "b": LOADED},
                "bob": {"m": UNLOADED, "a": LOADED},
                "cyd": {"m": UNLOADED, "b": LOADED},
            },
            sizes={"a": 1_000, "b": 2_000},
            learned=seconds(ada=1.0, bob=900.0, cyd=1.0),
        )
        fleet.grant(replica_on(fleet, "bob", "a"), "request", 1)

        assert "bob" == choice(fleet)

    def test_unknown_size_where_it_fits(self) -> None:
        """Nothing is given up for more room for what nobody knows the size of."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED}, "bob": {"m": UNLOADED, "b": LOADED}},
            sizes={"a": 15_000, "b": 4_000},
        )

        assert {"ada": ["a"], "bob": []} == told(found_for(fleet))
        assert "bob" == choice(fleet)

    def test_none(self) -> None:
        """Where there are only obstacles, nothing is chosen."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": None})

        assert None is choice(fleet)
        assert None is best([])


class WorthTests(SynchronousTestCase):
    def option(self, *asked: float, node: str = "ada") -> Option:
        """Return the option to load for 10 s what needs ``a`` gone, asked for at these times."""
        listing = {"m": UNLOADED, "a": LOADED} if node == "ada" else {"m": UNLOADED}
        fleet = fleet_of(
            {node: listing}, sizes=dict.fromkeys("ma", 20_000), learned=seconds(ada=10)
        )
        for now in asked:
            fleet.note_request("a", now)
        option = best(found_for(fleet))
        assert option is not None
        return option

    def test_as_many_as_would_come(self) -> None:
        """A swap is worth it for as many as would ask for its victims until they are back."""
        option = self.option(NOW - 6, NOW - 4, NOW - 2, NOW)

        assert [False, True] == [option.is_worth_it(waiting, NOW) for waiting in (9, 10)]
        assert [False, True] == [option.is_worth_it(waiting, NOW + 14) for waiting in (1, 2)]

    def test_loads_of_unknown_length(self) -> None:
        """A load that was never seen is worth it: only it can tell how long it takes."""
        option = replace(self.option(NOW - 6, NOW - 4, NOW - 2, NOW), is_measured=False)

        assert option.is_worth_it(1, NOW)

    def test_after_a_refusal(self) -> None:
        """A load that ran out of memory needs more than was free then, at most all there is."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, sizes={"m": 1_000, "a": 20_000})
        replica = fleet.replica("ada", "m")
        assert replica is not None
        assert 1_000 == needed_mb(fleet, replica)

        free_mb = replica.node.free_mb
        fleet.note_refusal(replica)
        assert free_mb + 1 == needed_mb(fleet, replica)
        replica.refused_mb = replica.node.budget_mb
        assert replica.node.budget_mb == needed_mb(fleet, replica)

    def test_what_nobody_asks_for(self) -> None:
        """Giving up what nobody asks for, or nothing at all, is worth it for one."""
        for option in (self.option(), self.option(NOW - 1), self.option(node="bob")):
            assert option.is_worth_it(1, NOW)


LISTING = st.dictionaries(st.sampled_from("abcdm"), st.sampled_from(LISTED_STATES))
USED = st.lists(st.tuples(st.sampled_from(["ada", "bob"]), st.sampled_from("abcdm")), max_size=4)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=250, deadline=None)
    @given(
        st.tuples(LISTING, LISTING),
        st.dictionaries(st.sampled_from("abcdm"), st.integers(1, 16_000)),
        st.sets(st.sampled_from("abcdm")),
        USED,
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
    )
    def test_what_an_option_promises(
        self,
        listings: tuple[dict[str, ReplicaState], ...],
        sizes: dict[str, int],
        pins: set[str],
        used: list[tuple[str, str]],
        max_resident: int,
        may_evict: bool,
        may_drain: bool,
    ) -> None:
        """Each node is told of once; what is chosen to go may go, and then there is room."""
        fleet = make_fleet(
            NodeTerms("ada", "http://ada", 24_000, max_resident, tuple(sorted(pins))),
            NodeTerms("bob", "http://bob", 24_000),
            sizes=sizes,
        )
        for name, listing in zip(fleet.nodes, listings, strict=True):
            fleet.observe(name, Observation(100, listing), 0)
            fleet.record_system(name, memory(used_mb=20_000))
        for name, model in used:
            replica = fleet.replica(name, model)
            if replica is not None and replica.answers:
                fleet.grant(replica, "request", 1)
        found = found_for(fleet, may_evict=may_evict, may_drain=may_drain)

        assert list(fleet.replicas("m")) == [finding.replica for finding in found]
        options = [finding for finding in found if isinstance(finding, Option)]
        assert (best(found) is None) == (not options)
        for option in options:
            target, victims = option.replica, option.victims.victims
            node = target.node
            assert target.state is UNLOADED
            assert bool(victims) != fits(fleet, target)
            assert may_evict or not victims
            for victim in victims:
                assert (node, LOADED) == (victim.node, victim.state)
                assert not victim.pinned
                assert may_drain or not victim.leases
            assert needed_mb(fleet, target) <= node.free_mb + option.victims.freed_mb
            assert not node.max_resident or node.resident - len(victims) < node.max_resident
