"""Which nodes answer, by what polls and operations have seen of them."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.states import HealthChanged
from tests.support.nodes import (
    BUSY_LOADING,
    DOWN,
    LOAD,
    LOAD_TIMEOUT,
    LOADED,
    LOADING,
    REFUSED,
    SILENT,
    UNKNOWN,
    UNLOADED,
    UP,
    fleet_of,
    make_fleet,
    replica_on,
    seen,
)


class HealthTests(SynchronousTestCase):
    def test_first_answer(self) -> None:
        """A node is unknown until it answers, and the change is told once, with its time."""
        fleet = make_fleet("ada", down_after=3)
        node = fleet.nodes["ada"]
        assert (UNKNOWN, "not polled yet") == (node.health, node.reason)

        assert (HealthChanged("ada", UNKNOWN, UP, "answers"),) == fleet.observe("ada", seen(), 5)
        assert () == fleet.observe("ada", seen(), 10)
        assert (UP, "answers", 5, 10) == (node.health, node.reason, node.since, node.last_answer_at)

    def test_down_after(self) -> None:
        """Failures make a node down once there are ``down_after`` of them in a row."""
        fleet = make_fleet("ada", down_after=3)
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
        fleet = make_fleet("ada")

        assert (HealthChanged("ada", UNKNOWN, DOWN, REFUSED.reason),) == fleet.fail(
            "ada", REFUSED, 1
        )

    def test_reason_of_a_passing_failure(self) -> None:
        """A node that answers again is not shown with the reason of its last failure."""
        fleet = make_fleet("ada", down_after=3)
        fleet.observe("ada", seen(), 0)
        fleet.fail("ada", SILENT, 1)
        assert SILENT.reason == fleet.nodes["ada"].reason

        fleet.observe("ada", seen(), 2)
        assert "answers" == fleet.nodes["ada"].reason

    def test_busy_loading(self) -> None:
        """While a load runs, silence is no failure, until the load is past its time."""
        fleet = make_fleet("ada", down_after=3)
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

    def test_busy_with_a_load_of_ours(self) -> None:
        """A load that we began excuses silence before any poll has seen it."""
        fleet = fleet_of({"ada": {"m1": UNLOADED}})
        fleet.begin(replica_on(fleet, "ada", "m1"), LOAD, 1)

        fleet.fail("ada", SILENT, 2)
        assert BUSY_LOADING is fleet.nodes["ada"].health

    def test_no_excuse_for_a_node_never_heard_of(self) -> None:
        """A node that is down is not busy loading because of what it listed long ago."""
        fleet = make_fleet("ada", down_after=1)
        fleet.observe("ada", seen(m1=LOADING), 0)
        fleet.fail("ada", REFUSED, 1)

        assert () == fleet.fail("ada", SILENT, 2)
        assert DOWN is fleet.nodes["ada"].health

    def test_busy_loading_ends(self) -> None:
        """A busy node that answers is up."""
        fleet = make_fleet("ada", down_after=3)
        fleet.observe("ada", seen(m1=LOADING), 0)
        fleet.fail("ada", SILENT, 1)

        changes = fleet.observe("ada", seen(m1=LOADED), 2)

        assert HealthChanged("ada", BUSY_LOADING, UP, "answers") in changes
        assert () == fleet.fail("ada", SILENT, 3)
        assert UP is fleet.nodes["ada"].health

    def test_refused_while_loading(self) -> None:
        """A refused connection is a failure even while a load runs: the process is gone."""
        fleet = make_fleet("ada", down_after=2)
        fleet.observe("ada", seen(m1=LOADING), 0)
        fleet.fail("ada", SILENT, 1)
        fleet.fail("ada", REFUSED, 2)
        assert BUSY_LOADING is fleet.nodes["ada"].health

        fleet.fail("ada", REFUSED, 3)
        assert DOWN is fleet.nodes["ada"].health

    def test_each_load_has_its_own_time(self) -> None:
        """A load that began later has its whole time, and an id stuck for ever takes none of it."""
        fleet = make_fleet("ada", now=1_000)
        fleet.observe("ada", seen(m1=LOADING), 1_000)
        fleet.observe("ada", seen(m1=LOADING, m2=LOADING), 1_000 + LOAD_TIMEOUT)
        fleet.fail("ada", SILENT, 1_000 + 2 * LOAD_TIMEOUT)

        assert BUSY_LOADING is fleet.nodes["ada"].health

    def test_time_of_a_load_is_not_begun_anew(self) -> None:
        """That a load is seen again does not give it more time, at any reading of the clock."""
        for start in (0.0, 1_000.0):
            fleet = make_fleet("ada", now=start)
            fleet.observe("ada", seen(m1=LOADING), start)
            fleet.observe("ada", seen(m1=LOADING), start + LOAD_TIMEOUT / 2)
            fleet.fail("ada", SILENT, start + LOAD_TIMEOUT + 1)

            assert DOWN is fleet.nodes["ada"].health

    def test_load_of_a_new_process(self) -> None:
        """A load seen after a restart is another load, with its own time."""
        fleet = make_fleet("ada", now=1_000)
        fleet.observe("ada", seen(100, m1=LOADING), 1_000)
        fleet.observe("ada", seen(200, m1=LOADING), 1_000 + LOAD_TIMEOUT)
        fleet.fail("ada", SILENT, 1_000 + 2 * LOAD_TIMEOUT)

        assert BUSY_LOADING is fleet.nodes["ada"].health

    def test_unreachable(self) -> None:
        """A node that an operation could not reach takes no work before it answers a poll."""
        fleet = fleet_of({"ada": {"m": LOADED}})
        node, replica = fleet.nodes["ada"], replica_on(fleet, "ada", "m")
        fleet.note_unreachable(node)
        assert (UP, False, False) == (node.health, node.takes_work, replica.answers)
        fleet.fail("ada", SILENT, 1)
        assert not node.takes_work
        fleet.observe("ada", seen(m=LOADED), 2)

        assert (UP, True, True) == (node.health, node.takes_work, replica.answers)

    def test_load_that_hangs(self) -> None:
        """One that is taken to hang excuses no silence, until another begins."""
        fleet = fleet_of({"ada": {"m": UNLOADED}})
        replica = replica_on(fleet, "ada", "m")
        fleet.begin(replica, LOAD, 1)
        fleet.end(replica, LOADING, 5)
        assert fleet.loads(replica, 5)
        fleet.note_overdue(replica)
        fleet.observe("ada", seen(m=LOADING), 6)
        assert (LOADING, False) == (replica.state, fleet.loads(replica, 6))

        fleet.observe("ada", seen(m=UNLOADED), 7)
        fleet.observe("ada", seen(m=LOADING), 8)
        assert fleet.loads(replica, 8)

    def test_ready(self) -> None:
        """Ready is once every node was polled and one answers; else the reason names nodes."""
        fleet = make_fleet("ada", "bob")
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
        assert BUSY_LOADING is fleet.nodes["bob"].health
        assert None is fleet.not_ready_reason()
