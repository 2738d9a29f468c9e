from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet import (
    ANSWERING_HEALTH,
    HEALTH_TRANSITIONS,
    Change,
    Fleet,
    HealthChanged,
    Lease,
    NodeHealth,
    NodeRestarted,
    Observation,
    PollFailure,
    PollOutcome,
    ReplicaChanged,
    ReplicaState,
    SystemInfo,
)

LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK
UNKNOWN, UP = NodeHealth.UNKNOWN, NodeHealth.UP
BUSY_LOADING, DOWN = NodeHealth.BUSY_LOADING, NodeHealth.DOWN

NODES = ("ada", "bob")
MODELS = ("m1", "m2", "m3")
LOAD_TIMEOUT = 100.0
DOWN_AFTER = 3
SILENT = PollFailure("no answer within 2 s", silent=True)
REFUSED = PollFailure("connection refused", silent=False)


def make_fleet(now: float = 0.0, down_after: int = DOWN_AFTER) -> Fleet:
    return Fleet(
        [(name, f"http://{name}:1234", 24_000) for name in NODES],
        now=now,
        down_after=down_after,
        load_timeout=LOAD_TIMEOUT,
        default_capacity=32,
        capacities={"m2": 4},
    )


def seen(created: int | None = 100, **replicas: ReplicaState) -> Observation:
    return Observation(created, replicas)


class HealthTests(SynchronousTestCase):
    def test_table_is_of_reachable_steps(self) -> None:
        """Every pair has its step, but for silence that is no failure on a node never seen up."""
        unreachable = {
            (UNKNOWN, PollOutcome.SILENT_WHILE_LOADING),
            (DOWN, PollOutcome.SILENT_WHILE_LOADING),
        }

        assert set(product(NodeHealth, PollOutcome)) - unreachable == set(HEALTH_TRANSITIONS)

    def test_first_answer(self) -> None:
        """A node is unknown until it answers, and the change is told once, with its time."""
        fleet = make_fleet()
        assert (UNKNOWN, "not polled yet") == (fleet.health("ada"), fleet.node("ada").reason)

        assert (HealthChanged("ada", UNKNOWN, UP, "answers"),) == fleet.observe("ada", seen(), 5)
        assert () == fleet.observe("ada", seen(), 10)
        view = fleet.node("ada")
        assert (UP, "answers", 5, 10) == (view.health, view.reason, view.since, view.last_answer_at)

    def test_down_after(self) -> None:
        """Failures make a node down once there are ``down_after`` of them in a row."""
        fleet = make_fleet()
        fleet.observe("ada", seen(), 0)
        assert () == fleet.fail("ada", REFUSED, 1)
        assert () == fleet.fail("ada", SILENT, 2)
        fleet.observe("ada", seen(), 3)
        assert () == fleet.fail("ada", REFUSED, 4)
        assert () == fleet.fail("ada", REFUSED, 5)

        assert (HealthChanged("ada", UP, DOWN, SILENT.reason),) == fleet.fail("ada", SILENT, 6)
        assert () == fleet.fail("ada", SILENT, 7)
        assert (HealthChanged("ada", DOWN, UP, "answers"),) == fleet.observe("ada", seen(), 8)

    def test_down_from_the_start(self) -> None:
        """A node that never answered goes from unknown to down."""
        fleet = make_fleet(down_after=1)

        assert (HealthChanged("ada", UNKNOWN, DOWN, REFUSED.reason),) == fleet.fail(
            "ada", REFUSED, 1
        )

    def test_reason_of_a_passing_failure(self) -> None:
        """A node that answers again is not shown with the reason of its last failure."""
        fleet = make_fleet()
        fleet.observe("ada", seen(), 0)
        fleet.fail("ada", SILENT, 1)
        assert SILENT.reason == fleet.node("ada").reason

        fleet.observe("ada", seen(), 2)
        assert "answers" == fleet.node("ada").reason

    def test_busy_loading(self) -> None:
        """While a load runs, silence is no failure, until the load is past its time."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADING), 0)

        assert (HealthChanged("ada", UP, BUSY_LOADING, SILENT.reason),) == fleet.fail(
            "ada", SILENT, 1
        )
        for now in range(2, int(LOAD_TIMEOUT) + 1):
            assert () == fleet.fail("ada", SILENT, now)
        assert () == fleet.fail("ada", SILENT, LOAD_TIMEOUT + 1)
        assert () == fleet.fail("ada", SILENT, LOAD_TIMEOUT + 2)
        assert (HealthChanged("ada", BUSY_LOADING, DOWN, SILENT.reason),) == fleet.fail(
            "ada", SILENT, LOAD_TIMEOUT + 3
        )

    def test_busy_loading_ends(self) -> None:
        """A busy node that answers is up."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADING), 0)
        fleet.fail("ada", SILENT, 1)

        changes = fleet.observe("ada", seen(m1=LOADED), 2)

        assert HealthChanged("ada", BUSY_LOADING, UP, "answers") in changes
        assert () == fleet.fail("ada", SILENT, 3)
        assert UP is fleet.health("ada")

    def test_refused_while_loading(self) -> None:
        """A refused connection is a failure even while a load runs: the process is gone."""
        fleet = make_fleet(down_after=2)
        fleet.observe("ada", seen(m1=LOADING), 0)
        fleet.fail("ada", SILENT, 1)
        fleet.fail("ada", REFUSED, 2)
        assert BUSY_LOADING is fleet.health("ada")

        fleet.fail("ada", REFUSED, 3)
        assert DOWN is fleet.health("ada")

    def test_each_load_has_its_own_time(self) -> None:
        """A load that began later has its whole time, and an id stuck for ever takes none of it."""
        fleet = make_fleet(1_000, down_after=1)
        fleet.observe("ada", seen(m1=LOADING), 1_000)
        fleet.observe("ada", seen(m1=LOADING, m2=LOADING), 1_000 + LOAD_TIMEOUT)
        fleet.fail("ada", SILENT, 1_000 + 2 * LOAD_TIMEOUT)

        assert BUSY_LOADING is fleet.health("ada")

    def test_time_of_a_load_is_not_begun_anew(self) -> None:
        """That a load is seen again does not give it more time, at any reading of the clock."""
        for start in (0.0, 1_000.0):
            fleet = make_fleet(start, down_after=1)
            fleet.observe("ada", seen(m1=LOADING), start)
            fleet.observe("ada", seen(m1=LOADING), start + LOAD_TIMEOUT / 2)
            fleet.fail("ada", SILENT, start + LOAD_TIMEOUT + 1)

            assert DOWN is fleet.health("ada")

    def test_load_of_a_new_process(self) -> None:
        """A load seen after a restart is another load, with its own time."""
        fleet = make_fleet(1_000, down_after=1)
        fleet.observe("ada", seen(100, m1=LOADING), 1_000)
        fleet.observe("ada", seen(200, m1=LOADING), 1_000 + LOAD_TIMEOUT)
        fleet.fail("ada", SILENT, 1_000 + 2 * LOAD_TIMEOUT)

        assert BUSY_LOADING is fleet.health("ada")

    def test_ready(self) -> None:
        """Ready is once every node was polled and one answers; else the reason names nodes."""
        fleet = make_fleet(down_after=1)
        assert "not polled yet: ada, bob" == fleet.not_ready_reason()
        fleet.fail("ada", REFUSED, 1)
        assert "not polled yet: bob" == fleet.not_ready_reason()
        fleet.fail("bob", SILENT, 1)
        assert (
            "no node answers: ada: connection refused; bob: no answer within 2 s"
            == fleet.not_ready_reason()
        )
        fleet.observe("bob", seen(m1=LOADING), 2)
        assert None is fleet.not_ready_reason()
        fleet.fail("bob", SILENT, 3)
        assert BUSY_LOADING is fleet.health("bob")
        assert None is fleet.not_ready_reason()


class ReplicaTests(SynchronousTestCase):
    def test_changes(self) -> None:
        """Replicas that come, change and go are told, those that stay as they are are not."""
        fleet = make_fleet()
        fleet.observe("ada", seen(), 0)

        assert (
            ReplicaChanged("ada", "m1", None, LOADED),
            ReplicaChanged("ada", "m2", None, UNLOADED),
        ) == fleet.observe("ada", seen(m1=LOADED, m2=UNLOADED), 1)
        assert (
            ReplicaChanged("ada", "m2", UNLOADED, None),
            ReplicaChanged("ada", "m1", LOADED, STUCK),
        ) == fleet.observe("ada", seen(m1=STUCK), 2)

    def test_restart(self) -> None:
        """Another start time of the process is a restart; one that is not listed says nothing."""
        fleet = make_fleet()
        fleet.observe("ada", seen(100), 0)

        assert () == fleet.observe("ada", seen(None), 1)
        assert () == fleet.observe("ada", seen(100), 2)
        assert (NodeRestarted("ada"),) == fleet.observe("ada", seen(90), 3)
        assert () == fleet.observe("ada", seen(90), 4)
        assert 1 == fleet.node("ada").restarts

    def test_views_are_in_the_order_of_the_configuration(self) -> None:
        """A model's replicas come by the order of nodes, a node's by model id."""
        fleet = make_fleet()
        fleet.observe("bob", seen(m1=LOADED), 0)
        fleet.observe("ada", seen(m2=UNLOADED, m1=LOADED), 0)

        assert ["ada", "bob"] == [replica.node for replica in fleet.replicas("m1")]
        assert ["m1", "m2"] == [replica.model for replica in fleet.node("ada").replicas]
        assert [32, 4] == [replica.capacity for replica in fleet.node("ada").replicas]
        assert () == fleet.replicas("m3")

    def test_listing_of_a_silent_node_is_kept(self) -> None:
        """A node that is down keeps what it listed, so that its models are not unknown."""
        fleet = make_fleet(down_after=1)
        fleet.observe("ada", seen(m1=LOADED), 0)
        fleet.fail("ada", REFUSED, 1)

        assert ("m1",) == fleet.models
        assert [DOWN] == [replica.health for replica in fleet.replicas("m1")]

    def test_system(self) -> None:
        """What a node says of its system is in its view."""
        fleet = make_fleet()
        fleet.record_system("ada", SystemInfo("0.9.2", 24_000, 12_000))

        assert SystemInfo("0.9.2", 24_000, 12_000) == fleet.node("ada").system

    def test_unknown_node(self) -> None:
        """A node that the configuration does not name is a mistake of the caller."""
        for asked in (make_fleet().node, make_fleet().health):
            with self.assertRaises(KeyError):
                asked("eve")


class LeaseTests(SynchronousTestCase):
    def test_grant_and_release(self) -> None:
        """A lease counts on its replica and its node until it ends, and marks the node as used."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADED), 0)

        lease = fleet.grant("ada", "m1", "req-1", 7)

        (replica,) = fleet.replicas("m1")
        assert (1, 7) == (replica.leases, replica.node_last_used)
        assert ("ada", "m1", "req-1", 7) == (
            lease.node,
            lease.model,
            lease.request_id,
            lease.granted_at,
        )
        assert (lease,) == fleet.leases
        fleet.release(lease)
        assert (0, 0) == (fleet.replicas("m1")[0].leases, fleet.node("ada").leases)
        assert not fleet.leases

    def test_a_lease_ends_once(self) -> None:
        """Releasing a lease twice is a mistake of the caller and changes nothing."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADED), 0)
        kept, ended = fleet.grant("ada", "m1", "a", 0), fleet.grant("ada", "m1", "b", 0)
        fleet.release(ended)

        with self.assertRaises(KeyError):
            fleet.release(ended)
        assert (kept,) == fleet.leases
        assert 1 == fleet.node("ada").leases

    def test_grant_of_what_is_not_listed(self) -> None:
        """A grant on a replica that is gone is refused, and nothing is left of it."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADED), 0)

        with self.assertRaises(KeyError):
            fleet.grant("ada", "m2", "req-1", 0)
        assert () == fleet.leases
        assert 0 == fleet.node("ada").leases

    def test_replica_that_goes_and_comes_back(self) -> None:
        """Leases outlive a replica's absence from the listing, and count when it is back."""
        fleet = make_fleet()
        fleet.observe("ada", seen(m1=LOADED), 0)
        first, second = fleet.grant("ada", "m1", "a", 0), fleet.grant("ada", "m1", "b", 0)
        fleet.observe("ada", seen(), 1)
        fleet.release(first)
        fleet.observe("ada", seen(m1=LOADED), 2)

        assert 1 == fleet.replicas("m1")[0].leases
        fleet.release(second)
        assert 0 == fleet.replicas("m1")[0].leases


NODE = st.sampled_from(NODES)
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("observe"),
            NODE,
            st.builds(
                Observation,
                st.sampled_from([None, 100, 200]),
                st.dictionaries(st.sampled_from(MODELS), st.sampled_from(ReplicaState)),
            ),
        ),
        st.tuples(st.just("fail"), NODE, st.sampled_from([SILENT, REFUSED])),
        st.tuples(st.just("grant"), NODE, st.sampled_from(MODELS)),
        st.tuples(st.just("release"), NODE, st.integers(0, 9)),
        st.tuples(st.just("wait"), NODE, st.floats(0, 2 * LOAD_TIMEOUT)),
    ),
    max_size=40,
)


class Player:
    """Plays random events on a fleet and keeps its own account of what must be true."""

    def __init__(self) -> None:
        self.fleet = make_fleet()
        self.now = 0.0
        self.held: list[Lease] = []
        self.health = dict.fromkeys(NODES, UNKNOWN)

    def play(self, kind: str, name: str, detail: object) -> None:
        """Bring one event about; a grant of what is not listed and a release of nothing are not."""
        fleet = self.fleet
        changes: tuple[Change, ...] = ()
        match kind, detail:
            case "observe", Observation() as observation:
                changes = fleet.observe(name, observation, self.now)
                assert UP is fleet.health(name)
                assert observation.replicas == {
                    replica.model: replica.state for replica in fleet.node(name).replicas
                }
            case "fail", PollFailure() as failure:
                changes = fleet.fail(name, failure, self.now)
            case "grant", str(model):
                if any(replica.node == name for replica in fleet.replicas(model)):
                    self.held.append(fleet.grant(name, model, "request", self.now))
            case "release", int(position) if self.held:
                fleet.release(self.held.pop(position % len(self.held)))
            case "wait", float(seconds):
                self.now += seconds
        for change in changes:
            if isinstance(change, HealthChanged):
                assert (self.health[change.node], name) == (change.before, change.node)
                self.health[change.node] = change.after

    def check(self) -> None:
        """Compare the fleet's views with the account and with one another."""
        fleet = self.fleet
        views = [fleet.node(name) for name in fleet.node_names]
        assert NODES == tuple(view.name for view in views)
        assert self.health == {view.name: view.health for view in views}
        assert sorted(self.held, key=lambda lease: lease.number) == list(fleet.leases)
        held_by_node = Counter(lease.node for lease in self.held)
        held_by_replica = Counter((lease.node, lease.model) for lease in self.held)
        for view in views:
            assert held_by_node[view.name] == view.leases
            for replica in view.replicas:
                assert held_by_replica[view.name, replica.model] == replica.leases
                assert view.health is replica.health
        listed = {replica.model for view in views for replica in view.replicas}
        assert tuple(sorted(listed)) == fleet.models
        for model in MODELS:
            assert (model in listed) == (model in fleet)
            assert [
                replica for view in views for replica in view.replicas if replica.model == model
            ] == list(fleet.replicas(model))
        ready = any(view.health in ANSWERING_HEALTH for view in views) and all(
            view.last_answer_at is not None or view.reason != "not polled yet" for view in views
        )
        assert ready == (fleet.not_ready_reason() is None)


class RandomEventTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(EVENTS)
    def test_books_balance(self, events: list[tuple[str, str, object]]) -> None:
        """Whatever happens, leases are counted where they are held and all views agree."""
        player = Player()
        for event in events:
            player.play(*event)
            player.check()
