from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.demand import LONG_AGO, REGULAR, Demand
from cortexd.fleet.nodes import ModelTerms, Node, Replica
from cortexd.fleet.states import Operation, ReplicaState
from cortexd.scheduling.eviction import (
    NO_VICTIMS,
    STRATEGIES,
    Cost,
    VictimSet,
    cheapest_victims,
    is_evictable,
)
from tests.support.nodes import DRAIN, LOADED, UNLOAD, UP, fleet_of, replica_on

NOW = 1_000.0
MIN_RESIDENCY = 10.0


@dataclass(frozen=True)
class Member:
    """A loaded replica that might be given up: unused and resident for these seconds.

    ``regular`` are the seconds since when it is in regular use, ``None`` where it is not.
    """

    model: str
    footprint_mb: int
    unused: float = 0.0
    priority: int = 0
    resident: float = 500.0
    leases: int = 0
    regular: float | None = None
    dearness: float = 1.0

    @property
    def is_young(self) -> bool:
        return self.resident < MIN_RESIDENCY

    def cost(self, strategy: str) -> Cost:
        """Return what losing it costs, said in another way than the module does."""
        last_used = NOW if self.leases else NOW - self.unused
        regular_since = LONG_AGO if self.regular is None else NOW - self.regular
        heat = self.dearness * (self.leases + self.demand.heat.at(NOW))
        order = {
            "heat": (heat,),
            "priority": (self.priority, heat),
            "lru": (regular_since, last_used),
        }
        return (self.is_young, *order[strategy])

    @property
    def demand(self) -> Demand:
        """Return the requests that make it as regularly used as it is."""
        demand = Demand()
        if self.regular is not None:
            for _ in range(REGULAR):
                demand.note(NOW - self.regular)
        return demand


NODE = Node(0, "ada", "http://ada", 24_000, 0, 0.0, health=UP)


def victims(
    members: Sequence[Member], need_mb: int, need_victims: int = 0, strategy: str = "lru"
) -> VictimSet | None:
    """Return what would be given up of these."""
    return cheapest_victims(
        [
            Replica(
                NODE,
                member.model,
                ModelTerms(4, member.priority),
                LOADED,
                LOADED,
                0.0,
                leases=member.leases,
                last_used_at=NOW - member.unused,
                loaded_at=NOW - member.resident,
                footprint_mb=member.footprint_mb,
                demand=member.demand,
                dearness=member.dearness,
            )
            for member in members
        ],
        need_mb=need_mb,
        need_victims=need_victims,
        strategy=strategy,
        min_residency=MIN_RESIDENCY,
        now=NOW,
    )


def names(found: VictimSet | None) -> list[str] | None:
    """Return the models to give up, in order."""
    return [victim.model for victim in found.victims] if found is not None else None


class StrategyTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The strategies are those that the configuration allows."""
        assert {"heat", "lru", "priority"} == set(STRATEGIES)

    def test_heat(self) -> None:
        """The model goes that is least likely to be requested soon, in use or not."""
        members = [
            Member("once", 1_000, unused=1, regular=None),
            Member("hot", 1_000, unused=20, regular=20),
            Member("cooler", 1_000, unused=10, regular=600),
            Member("busy", 1_000, leases=9),
        ]

        assert ["once", "cooler", "hot", "busy"] == names(victims(members, 4_000, strategy="heat"))

    def test_dear_to_load(self) -> None:
        """Of two models that are requested alike, the one goes that is loaded again faster."""
        members = [
            Member("from the disk", 1_000, regular=100, dearness=3.0),
            Member("from the page cache", 1_000, regular=100, dearness=0.5),
        ]

        assert ["from the page cache"] == names(victims(members, 1_000, strategy="heat"))

    def test_heat_adds_up(self) -> None:
        """Two models that may be requested again cost as much as both together."""
        warm = Member("warm", 1_000, regular=100)
        warm_too = Member("warm too", 1_000, regular=100)
        one, both = (
            victims(those, 900 * len(those), strategy="heat")
            for those in ([warm], [warm, warm_too])
        )

        assert one is not None
        assert both is not None
        assert (False, 2 * one.cost[-1]) == both.cost

    def test_lru(self) -> None:
        """The longest unused goes first, whatever its priority."""
        members = [
            Member("recent", 1_000, unused=1, priority=-5),
            Member("old", 1_000, unused=90, priority=5),
        ]

        assert ["old"] == names(victims(members, 500))
        assert ["old", "recent"] == names(victims(members, 1_500))

    def test_regular_use(self) -> None:
        """One request a moment ago does not save a model that is hardly ever asked for."""
        members = [
            Member("rare", 1_000, unused=1),
            Member("often", 1_000, unused=20, regular=60),
            Member("seldom", 1_000, unused=10, regular=900),
        ]

        assert ["rare", "seldom", "often"] == names(victims(members, 3_000))

    def test_priority(self) -> None:
        """The lowest priority goes first, and of equal ones as without priorities."""
        members = [
            Member("high", 1_000, unused=500, priority=5),
            Member("low", 1_000, unused=1, priority=-5),
            Member("old", 1_000, unused=90),
            Member("recent", 1_000, unused=10),
        ]

        assert ["low", "old", "recent", "high"] == names(
            victims(members, 4_000, strategy="priority")
        )

    def test_in_use(self) -> None:
        """What is in use counts as used this moment, however long ago its request began."""
        members = [Member("busy", 1_000, unused=900, leases=1), Member("idle", 1_000, unused=5)]

        assert ["idle"] == names(victims(members, 500))

    def test_never_used(self) -> None:
        """What was never used since it was found is the longest unused of all."""
        members = [Member("used", 1_000, unused=900), Member("never", 1_000, unused=NOW)]

        assert ["never"] == names(victims(members, 500))

    def test_young(self) -> None:
        """What was loaded a moment ago is the last to go, under every strategy."""
        young = Member("young", 1_000, unused=900, priority=-9, resident=MIN_RESIDENCY - 1)
        members = [young, Member("dear", 1_000, unused=1, priority=9)]
        for strategy in STRATEGIES:
            assert ["dear"] == names(victims(members, 500, strategy=strategy))
            assert ["dear", "young"] == names(victims(members, 2_000, strategy=strategy))
        grown = Member("grown", 1_000, unused=900, resident=MIN_RESIDENCY)

        assert ["grown"] == names(victims([grown, *members], 500))

    def test_equals(self) -> None:
        """Among equals the order is by model, so that the same state gives the same choice."""
        members = [Member(model, 1_000) for model in ("c", "a", "b")]

        assert ["a", "b"] == names(victims(members, 2_000))


class VictimTests(SynchronousTestCase):
    def test_nothing_needed(self) -> None:
        """Where enough is free, nothing goes."""
        assert NO_VICTIMS == victims([Member("a", 1_000)], -5)
        assert ([], 0) == (names(NO_VICTIMS), NO_VICTIMS.freed_mb)

    def test_not_enough(self) -> None:
        """Where all together do not suffice, nothing is given up in vain."""
        members = [Member("a", 1_000), Member("b", 1_000)]

        assert None is victims(members, 2_001)
        assert None is victims(members, 0, need_victims=3)
        assert None is victims([], 1)

    def test_not_more_than_needed(self) -> None:
        """Small ones are let off where the large one that is needed anyway suffices."""
        members = [Member("small", 500, unused=90), Member("large", 8_000, unused=10)]
        found = victims(members, 6_000)

        assert ["large"] == names(found)
        assert found is not None
        assert 8_000 == found.freed_mb

    def test_let_off(self) -> None:
        """Of those that are not needed after all, the dearest is let off first."""
        members = [
            Member("cheap", 3_000, unused=90),
            Member("dear", 3_000, unused=50),
            Member("large", 5_000, unused=10),
        ]

        assert ["cheap", "large"] == names(victims(members, 8_000))

    def test_many_cheap_before_one_dear(self) -> None:
        """Three that nobody asks for go before one that was used a moment ago."""
        members = [
            *(Member(f"idle{number}", 2_000, unused=900) for number in range(3)),
            Member("hot", 6_000, unused=1),
        ]

        assert ["idle0", "idle1", "idle2"] == names(victims(members, 6_000))

    def test_full_by_number(self) -> None:
        """Where a node is full by number, the cheapest go until one more may come."""
        members = [Member("a", 10, unused=1), Member("b", 10, unused=5), Member("c", 10, unused=9)]

        assert ["c"] == names(victims(members, -100, need_victims=1))
        assert ["c", "b"] == names(victims(members, -100, need_victims=2))


MEMBERS = st.lists(
    st.builds(
        Member,
        st.uuids().map(str),
        st.integers(1, 6).map(lambda gigabytes: gigabytes * 1_000),
        unused=st.integers(0, 5).map(float),
        priority=st.integers(-1, 1),
        resident=st.sampled_from([1.0, 50.0]),
        leases=st.integers(0, 1),
        regular=st.none() | st.integers(0, 2).map(float),
        dearness=st.sampled_from([0.25, 1.0, 4.0]),
    ),
    max_size=6,
    unique_by=lambda member: member.model,
)


def subsets(members: Sequence[Member]) -> Iterator[tuple[Member, ...]]:
    for size in range(len(members) + 1):
        yield from combinations(members, size)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(
        MEMBERS,
        st.integers(-1_000, 15_000),
        st.integers(0, 3),
        st.sampled_from(list(STRATEGIES)),
    )
    def test_cheapest_of_all_sets(
        self, members: list[Member], need_mb: int, need_victims: int, strategy: str
    ) -> None:
        """No set that suffices has a cheaper dearest member, and no member can be spared.

        A set costs as much as its dearest member, and by heat as much as all members together.
        """

        def suffices(given_up: Sequence[Member]) -> bool:
            freed_mb = sum(member.footprint_mb for member in given_up)
            return freed_mb >= need_mb and len(given_up) >= need_victims

        found = victims(members, need_mb, need_victims, strategy)
        enough = [each for each in subsets(members) if suffices(each)]

        assert (found is None) == (not enough)
        if found is None:
            return
        by_model = {member.model: member for member in members}
        chosen = [by_model[victim.model] for victim in found.victims]
        assert suffices(chosen)
        assert not any(suffices([*chosen[:at], *chosen[at + 1 :]]) for at in range(len(chosen)))
        dearest = [max((each.cost(strategy) for each in those), default=()) for those in enough]
        costs = [each.cost(strategy) for each in chosen]
        assert min(dearest) == max(costs, default=())
        if STRATEGIES[strategy].adds_up and costs:
            assert (*max(costs)[:-1], sum(cost[-1] for cost in costs)) == found.cost
        else:
            assert max(costs, default=()) == found.cost
        assert sorted(each.cost(strategy) for each in chosen) == [
            each.cost(strategy) for each in chosen
        ]
        if any(member.is_young for member in chosen):
            assert not suffices([member for member in members if not member.is_young])


class EvictableTests(SynchronousTestCase):
    def test_states(self) -> None:
        """Only what is loaded may go: a stuck one could never come back."""
        listed = {
            state.value: state
            for state in ReplicaState
            if state.value not in ("draining", "unloading")
        }
        fleet = fleet_of({"ada": listed})

        assert ["loaded"] == [
            model for model, replica in fleet.nodes["ada"].replicas.items() if is_evictable(replica)
        ]

    def test_pinned(self) -> None:
        """What is pinned never goes."""
        fleet = fleet_of({"ada": {"m": LOADED}}, pinned={"ada": ("m",)})

        assert not is_evictable(replica_on(fleet, "ada", "m"))

    def test_under_way(self) -> None:
        """What is going already is not given up a second time."""
        operations: tuple[Operation, ...] = (DRAIN, UNLOAD)
        for operation in operations:
            fleet = fleet_of({"ada": {"m": LOADED}})
            fleet.begin(replica_on(fleet, "ada", "m"), operation, 1)

            assert not is_evictable(replica_on(fleet, "ada", "m"))

    def test_unmanaged(self) -> None:
        """What a node has that loads and unloads as it likes is never given up."""
        fleet = fleet_of({"ada": {"m": LOADED}}, unmanaged=("ada",))

        assert not is_evictable(replica_on(fleet, "ada", "m"))
