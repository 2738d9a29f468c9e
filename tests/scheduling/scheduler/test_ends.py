"""What ends of loads and unloads tell besides their end, and what the scheduler makes of it."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import ModelDoesNotFit, ModelNotLoaded, Overloaded
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import StartLoad
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import DOWN_AFTER, LOADING, World, says, setup

BUDGET_MB = 20_000
SIZES = {"a": 8_000, "b": 8_000}


def world_of(*nodes: str, loaded: str = "", capacity: int = 2) -> World:
    """Return nodes with two models, both of which fit, the first one having ``loaded``."""
    budgets = dict.fromkeys(nodes or ("ada",), BUDGET_MB)
    return World(setup(budgets, SIZES, {"ada": loaded}, capacity=capacity))


class SystemTests(SynchronousTestCase):
    def test_after_a_load(self) -> None:
        """What is missing after a load is booked before the next load is decided."""
        for free_mb, expected in (
            (12_000, ["load a on ada", "load b on ada"]),
            (8_000, ["load a on ada", "load b on ada"]),
            (7_999, ["load a on ada"]),
        ):
            world = world_of()
            world.submit("a")
            world.submit("b")
            world.load_done("ada", system=says(BUDGET_MB, free_mb))

            assert expected == world.started()
            assert 12_000 - free_mb == world.fleet.nodes["ada"].missing_mb

    def test_after_an_unload(self) -> None:
        """What is missing after an unload keeps a load out that would not find its memory."""
        for free_mb, expected in ((12_000, ["load a on ada"]), (7_000, [])):
            world = world_of(loaded="b")
            world.unload("b")
            world.submit("a")
            world.unload_done("ada", system=says(BUDGET_MB, free_mb))

            assert ["unload b on ada", *expected] == world.started()

    def test_what_comes_back(self) -> None:
        """Those who wait get what was missing as soon as the node says that it is there."""
        world = world_of()
        world.submit("a")
        world.submit("b")
        world.load_done("ada", system=says(BUDGET_MB, 5_000))
        assert ["load a on ada"] == world.started()
        world.read_system("ada", BUDGET_MB, 12_000)

        assert ["load a on ada", "load b on ada"] == world.started()

    def test_said_nothing(self) -> None:
        """A node that does not say what is free is taken at its footprints."""
        world = world_of()
        world.submit("a")
        world.submit("b")
        world.load_done("ada")

        assert ["load a on ada", "load b on ada"] == world.started()
        assert 0 == world.fleet.nodes["ada"].missing_mb

    def test_a_daemon_before_this_one(self) -> None:
        """Memory that a poll misses may be on its way: nothing is given up for it."""
        world = World(setup({"ada": BUDGET_MB}, {**SIZES, "c": 8_000}, {"ada": "c"}))
        world.read_system("ada", BUDGET_MB, 4_000)
        world.submit("a")
        assert ["load a on ada"] == world.started()
        world.load_done("ada")
        world.end("a-0")
        world.unload("a")
        world.unload_done("ada")
        world.read_system("ada", BUDGET_MB, 4_000)
        world.submit("a")

        assert ["unload c on ada"] == world.started()[2:]

    def test_room_that_will_never_be(self) -> None:
        """Who waits is told as soon as a reading shows that the node can never hold the model."""
        sizes = {"pinned": None, "small": 3_000, "large": 10_000}
        world = World(
            setup(
                {"ada": BUDGET_MB}, sizes, {"ada": ["pinned", "small"]}, pinned={"ada": ["pinned"]}
            )
        )
        world.read_system("ada", BUDGET_MB, 9_000)
        world.submit("small")
        request = world.submit("large")
        assert [request] == world.waiting
        world.read_system("ada", BUDGET_MB, 2_000)

        assert ModelDoesNotFit is type(world.errors[request])


class UnreachableTests(SynchronousTestCase):
    def test_no_model_is_blamed(self) -> None:
        """A load that failed because its node is gone is tried elsewhere, and there at once too."""
        world = world_of("ada", "bob")
        request = world.submit("a")
        world.load_failed("ada", "connection refused", unreachable=True)

        assert ["load a on ada", "load a on bob"] == world.started()
        assert (0, 0.0) == (world.replica("ada", "a").failures, world.replica("ada", "a").retry_at)
        assert [request] == world.waiting
        (decision,) = (
            each for each in world.scheduler.decisions.about("a") if each.action == "load_failed"
        )
        assert ("ada", "connection refused") == (decision.node, decision.reason)

    def test_until_it_answers(self) -> None:
        """Who waits goes on waiting; the node is sent nothing until it has answered a poll."""
        world = world_of(loaded="b")
        waiting = [world.submit("a")]
        world.load_failed("ada", "connection refused", unreachable=True)
        waiting.append(world.submit("b"))
        world.pass_time(20)
        world.sweep()
        assert ["load a on ada"] == world.started()
        assert (waiting, {}, {}) == (world.waiting, world.errors, world.leases)

        world.poll_failed("ada")
        assert waiting == world.waiting
        world.poll("ada")
        assert ["load a on ada", "load a on ada"] == world.started()
        assert {"b-0"} == set(world.leases)
        world.load_done("ada")
        assert {"a-0", "b-0"} == set(world.leases)

    def test_down_after_all(self) -> None:
        """Where the polls find no node either, those who wait are told so."""
        world = world_of()
        request = world.submit("a")
        world.load_failed("ada", "connection refused", unreachable=True)
        for _ in range(DOWN_AFTER):
            assert [request] == world.waiting
            world.poll_failed("ada")

        assert Overloaded is type(world.errors[request])
        assert "node ada does not answer" in world.errors[request].message

    def test_another_process(self) -> None:
        """A restart that the next poll sees is an answer too."""
        world = world_of()
        request = world.submit("a")
        world.load_failed("ada", "connection refused", unreachable=True)
        world.restart("ada")

        assert {request} == set(world.leases)


class OverdueTests(SynchronousTestCase):
    def test_a_load_that_hangs(self) -> None:
        """It is waited for no longer, and keeps nobody from loading what fits beside it."""
        world = world_of()
        first, second = world.submit("a"), world.submit("b")
        world.load_failed("ada", "it does not end", listed=LOADING, overdue=True)

        assert ReplicaState.LOADING is world.state("ada", "a")
        assert ["load a on ada", "load b on ada"] == world.started()
        assert ModelNotLoaded is type(world.errors[first])
        assert [second] == world.waiting
        assert SIZES["a"] + SIZES["b"] == world.fleet.nodes["ada"].committed_mb

    def test_elsewhere(self) -> None:
        """Another node loads the model for those who wait."""
        world = world_of("ada", "bob")
        request = world.submit("a")
        world.load_failed("ada", "it does not end", listed=LOADING, overdue=True)
        assert ["load a on ada", "load a on bob"] == world.started()
        world.load_done("bob")

        assert "bob" == world.leases[request].node

    def test_restart(self) -> None:
        """The node is due for a restart at once, for the one id; a restart mends it."""
        world = world_of()
        world.submit("a")
        world.load_failed("ada", "it does not end", listed=LOADING, overdue=True)
        node = world.fleet.nodes["ada"]
        assert "stuck: a" == world.scheduler.restart_reason(node, world.now)

        world.restart("ada", LOADING)
        assert world.fleet.loads(world.replica("ada", "a"), world.now)
        assert None is world.scheduler.restart_reason(node, world.now)

    def test_ends_after_all(self) -> None:
        """One that ends is loaded like any other, and its next load has its time again."""
        world = world_of()
        world.submit("a")
        world.load_failed("ada", "it does not end", listed=LOADING, overdue=True)
        world.drift("ada", a=ReplicaState.LOADED)
        assert {world.submit("a")} == set(world.leases)
        world.drift("ada", a=ReplicaState.LOADING)

        assert world.fleet.loads(world.replica("ada", "a"), world.now)

    def test_a_load_of_somebody_else(self) -> None:
        """One that somebody else has begun since ours failed is waited for like any other."""
        world = world_of()
        request = world.submit("a")
        world.load_failed("ada", "node ada went down in the meantime", listed=LOADING)

        assert [request] == world.waiting
        assert ["load a on ada"] == world.started()


class OrderTests(SynchronousTestCase):
    def test_what_is_known(self) -> None:
        """The order to load says what the model takes and how long, as far as anybody knows."""
        for node, learned, expected in (
            ("ada", LearnedLoad(), (None, None)),
            ("ada", LearnedLoad(1, 8_000.0, 0.0, 2, 40.0), (8_000, 40.0)),
            ("bob", LearnedLoad(loads=1, mean_seconds=30.0), (None, 30.0)),
        ):
            world = World(setup({"ada": BUDGET_MB}, {"a": None}))
            world.fleet.footprints.remember({(node, "a"): learned})
            world.submit("a")

            assert [StartLoad("ada", "a", *expected)] == world.of_kind(StartLoad)


class HeldBackTests(SynchronousTestCase):
    def test_each_tick(self) -> None:
        """Who is held back for a model that others use gets its turn once they use it less."""
        terms = SchedulingTerms(max_wait=1e9)
        world = World(setup({"ada": 10_000}, {"a": 10_000, "b": 10_000}, {"ada": "a"}, terms=terms))
        world.fleet.footprints.learn("ada", "b", 60.0, None)
        for _ in range(20):
            world.wait(1)
            world.end(world.submit("a"))
        world.submit("b")
        world.pass_time(90)
        assert [] == world.started()
        world.pass_time(30)

        assert ["unload a on ada"] == world.started()
