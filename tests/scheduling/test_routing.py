from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import ModelTerms, Node, Replica
from cortexd.fleet.states import NodeHealth, ReplicaState
from cortexd.scheduling.routing import choose_replica
from tests.support.nodes import (
    BUSY_LOADING,
    DOWN,
    DRAIN,
    LOADED,
    STUCK,
    UNKNOWN,
    UP,
    fleet_of,
    replica_on,
)


@dataclass(frozen=True)
class Member:
    """A replica on a node of this name, and what there is to know of both."""

    node: str
    state: ReplicaState = LOADED
    health: NodeHealth = UP
    leases: int = 0
    capacity: int = 4
    used: float = 0.0
    cordoned: bool = False

    def replica(self, position: int) -> Replica:
        node = Node(
            position,
            self.node,
            f"http://{self.node}",
            24_000,
            0,
            0.0,
            health=self.health,
            last_used_at=self.used,
            cordoned=self.cordoned,
        )
        replica = Replica(
            node, "m", ModelTerms(self.capacity), self.state, self.state, 0.0, leases=self.leases
        )
        node.replicas["m"] = replica
        return replica


def chosen(
    *members: Member, tried: Sequence[str] = (), only: Collection[str] | None = None
) -> str | None:
    """Return the node of the replica that is chosen among these."""
    replica = choose_replica(
        [member.replica(position) for position, member in enumerate(members)],
        0.0,
        tried,
        only,
    )
    return replica.node.name if replica is not None else None


class ChoiceTests(SynchronousTestCase):
    def test_fewest_leases_for_its_size(self) -> None:
        """The replica that is least full is taken, not the one with fewest leases."""
        assert "b" == chosen(Member("a", leases=1, capacity=2), Member("b", leases=3, capacity=8))

    def test_only_there(self) -> None:
        """A request bound to nodes goes there or nowhere, however full or free the others are."""
        free, full = Member("a"), Member("b", leases=4)

        assert "b" == chosen(free, Member("b", leases=3), only={"b"})
        assert [None, None, None] == [
            chosen(free, full, only={"b"}),
            chosen(free, full, only={"c"}),
            chosen(free, full, only={"a"}, tried=("a",)),
        ]

    def test_up_before_busy_loading(self) -> None:
        """A node that is loading answers slowly: it is taken only where no other has a slot."""
        busy = Member("a", health=BUSY_LOADING)

        assert "b" == chosen(busy, Member("b", leases=3))
        assert "a" == chosen(busy, Member("b", leases=4))

    def test_ties(self) -> None:
        """Among equals the node used longest ago is taken, then the first."""
        assert "b" == chosen(Member("a", used=9), Member("b", used=3))
        assert "a" == chosen(Member("a"), Member("b"))

    def test_stuck(self) -> None:
        """A stuck replica still answers."""
        assert "a" == chosen(Member("a", STUCK))

    def test_tried(self) -> None:
        """A node that was tried is not taken again."""
        assert "b" == chosen(Member("a"), Member("b", leases=3), tried=["a"])
        assert None is chosen(Member("a"), tried=["a"])

    def test_none(self) -> None:
        """Where no replica can answer now, none is chosen."""
        for member in (
            Member("a", leases=4),
            Member("a", health=DOWN),
            Member("a", health=UNKNOWN),
            Member("a", cordoned=True),
            *(Member("a", state) for state in set(ReplicaState) - {LOADED, STUCK}),
        ):
            assert None is chosen(member), member
        assert None is chosen()


class FleetTests(SynchronousTestCase):
    def pick(self, fleet: Fleet) -> str | None:
        replica = choose_replica(fleet.replicas("m"), 0.0)
        return replica.node.name if replica is not None else None

    def test_turns(self) -> None:
        """Requests that come one after the other, each done before the next, go round the nodes."""
        fleet = fleet_of({name: {"m": LOADED} for name in ("ada", "bob", "cyd")})
        took = []
        for now in range(1, 7):
            replica = choose_replica(fleet.replicas("m"), 0.0)
            assert replica is not None
            fleet.release(fleet.grant(replica, "request", now), now)
            took.append(replica.node.name)

        assert ["ada", "bob", "cyd"] * 2 == took

    def test_drain(self) -> None:
        """A replica that drains is given nothing new."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": LOADED}})
        fleet.begin(replica_on(fleet, "ada", "m"), DRAIN, 1)
        assert "bob" == self.pick(fleet)

        fleet.begin(replica_on(fleet, "bob", "m"), DRAIN, 1)
        assert None is self.pick(fleet)


MEMBERS = st.lists(
    st.builds(
        Member,
        st.sampled_from("abcd"),
        st.sampled_from(ReplicaState),
        st.sampled_from(NodeHealth),
        leases=st.integers(0, 3),
        capacity=st.integers(1, 3),
        used=st.floats(0, 9),
        cordoned=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda member: member.node,
)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(MEMBERS, st.sets(st.sampled_from("abcd")))
    def test_one_that_can_and_always_one(self, members: list[Member], tried: set[str]) -> None:
        """What is chosen can answer at once, whenever one can one is chosen, and none is better."""
        able = {
            member.node: (member.health is not UP, member.leases / member.capacity, member.used)
            for member in members
            if member.node not in tried
            and member.health in (UP, BUSY_LOADING)
            and member.state in (LOADED, STUCK)
            and member.leases < member.capacity
            and not member.cordoned
        }
        found = chosen(*members, tried=sorted(tried))

        assert (found is None) == (not able)
        if found is not None:
            assert min(able.values()) == able[found]
