from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.fleet.nodes import NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.placement import (
    Option,
    best,
    fits,
    needed_mb,
)
from tests.support.nodes import (
    LISTED_STATES,
    LOADED,
    UNLOADED,
    fleet_of,
    make_fleet,
    memory,
    replica_on,
)
from tests.support.placements import NOW, SIZES, found_for, told


def choice(fleet: Fleet, model: str = "m", **may: Any) -> str | None:
    """Return the node of the best option."""
    option = best(found_for(fleet, model, **may))
    return option.replica.node.name if option is not None else None


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

        assert [False, True] == [option.is_worth_it(waiting, "lru", NOW) for waiting in (9, 10)]
        assert [False, True] == [option.is_worth_it(waiting, "lru", NOW + 14) for waiting in (1, 2)]

    def test_loads_of_unknown_length(self) -> None:
        """A load that was never seen is worth it: only it can tell how long it takes."""
        option = replace(self.option(NOW - 6, NOW - 4, NOW - 2, NOW), is_measured=False)

        assert option.is_worth_it(1, "lru", NOW)

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
            assert option.is_worth_it(1, "lru", NOW)


LISTING = st.dictionaries(st.sampled_from("abcdm"), st.sampled_from(LISTED_STATES))
USED = st.lists(st.tuples(st.sampled_from(["ada", "bob"]), st.sampled_from("abcdm")), max_size=4)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=250)
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
