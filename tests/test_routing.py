from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import CortexError, ModelNotLoaded, Overloaded
from cortexd.fleet import NodeHealth, ReplicaState, ReplicaView
from cortexd.routing import choose_replica

UP, BUSY_LOADING, DOWN = NodeHealth.UP, NodeHealth.BUSY_LOADING, NodeHealth.DOWN
LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK


def replica(
    node: str,
    state: ReplicaState = LOADED,
    health: NodeHealth = UP,
    leases: int = 0,
    capacity: int = 4,
    used: float = 0.0,
) -> ReplicaView:
    return ReplicaView(node, "m", health, state, leases, capacity, used)


def chosen(*replicas: ReplicaView, tried: Sequence[str] = ()) -> str:
    return choose_replica("m", replicas, tried).node


def refusal(*replicas: ReplicaView, tried: Sequence[str] = ()) -> CortexError:
    try:
        found = choose_replica("m", replicas, tried)
    except CortexError as error:
        return error
    raise AssertionError(f"chose {found}")


class ChoiceTests(SynchronousTestCase):
    def test_fewest_leases_for_its_size(self) -> None:
        """The replica that is least full is taken, not the one with fewest leases."""
        small, large = replica("a", leases=1, capacity=2), replica("b", leases=3, capacity=8)

        assert "b" == chosen(small, large)

    def test_up_before_busy_loading(self) -> None:
        """A node that is loading answers slowly: it is taken only where no other has a seat."""
        busy, up = replica("a", health=BUSY_LOADING), replica("b", leases=3)

        assert "b" == chosen(busy, up)
        assert "a" == chosen(busy, replica("b", leases=4))

    def test_ties(self) -> None:
        """Among equals the node used longest ago is taken, then the first."""
        assert "b" == chosen(replica("a", used=9), replica("b", used=3))
        assert "a" == chosen(replica("a"), replica("b"))

    def test_stuck(self) -> None:
        """A stuck replica still answers."""
        assert "a" == chosen(replica("a", STUCK))

    def test_tried(self) -> None:
        """A node that was tried is not taken again."""
        assert "b" == chosen(replica("a"), replica("b", leases=3), tried=["a"])


class RefusalTests(SynchronousTestCase):
    def assert_refused(self, kind: type[CortexError], words: str, *given: ReplicaView) -> None:
        """Assert that these replicas give this refusal, for a while, with these words in it."""
        error = refusal(*given)

        assert kind is type(error)
        assert words in error.message, error.message
        assert "'m'" in error.message
        assert error.retry_after

    def test_full(self) -> None:
        """Where all seats are taken the client is told how many there are, and to try again."""
        full = replica("a", leases=4), replica("b", leases=2, capacity=2), replica("c", UNLOADED)

        self.assert_refused(Overloaded, "all 6 places", *full)

    def test_down(self) -> None:
        """Where no node with the model answers the client is told which nodes those are."""
        self.assert_refused(
            Overloaded,
            "(known on: a, b)",
            replica("a", health=DOWN),
            replica("b", health=NodeHealth.UNKNOWN),
        )

    def test_on_no_node(self) -> None:
        """A model that vanished from every listing meanwhile is refused in whole words."""
        self.assert_refused(Overloaded, "(known on: none)")

    def test_loading(self) -> None:
        """A model that is being loaded is worth waiting for, though not loaded elsewhere."""
        self.assert_refused(
            ModelNotLoaded, "is being loaded", replica("a", UNLOADED), replica("b", LOADING)
        )

    def test_unloaded(self) -> None:
        """A model that nobody has loaded is refused with the nodes that could have it."""
        self.assert_refused(
            ModelNotLoaded,
            "(known on: a)",
            replica("a", UNLOADED),
            replica("b", LOADED, health=DOWN),
        )

    def test_sooner_for_what_is_sooner(self) -> None:
        """The client is sent away for longer the longer it will take."""
        full = refusal(replica("a", leases=4)).retry_after or 0
        loading = refusal(replica("a", LOADING)).retry_after or 0
        unloaded = refusal(replica("a", UNLOADED)).retry_after or 0

        assert full < loading < unloaded


REPLICAS = st.lists(
    st.builds(
        replica,
        st.sampled_from("abcd"),
        st.sampled_from(ReplicaState),
        st.sampled_from(NodeHealth),
        leases=st.integers(0, 3),
        capacity=st.integers(1, 3),
        used=st.floats(0, 9),
    ),
    max_size=4,
    unique_by=lambda view: view.node,
)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(REPLICAS, st.sets(st.sampled_from("abcd")))
    def test_one_that_can_and_always_one(
        self, replicas: list[ReplicaView], tried: set[str]
    ) -> None:
        """What is chosen can answer at once, and whenever one can, one is chosen."""
        able = [
            view
            for view in replicas
            if view.node not in tried
            and view.health in (UP, BUSY_LOADING)
            and view.state in (LOADED, STUCK)
            and view.leases < view.capacity
        ]
        try:
            found = choose_replica("m", replicas, tried)
        except (ModelNotLoaded, Overloaded):
            assert not able
        else:
            assert found in able
            assert not any(
                other.health is UP and other.leases / other.capacity < found.leases / found.capacity
                for other in able
            )
