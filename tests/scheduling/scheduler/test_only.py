"""Requests that must be on certain nodes: what they go on from is there, or only they take them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import Overloaded
from cortexd.scheduling.events import Cancel, LeaseEnded, Submit, Tick
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import SILENT, World, setup

ADA, BOB = frozenset(["ada"]), frozenset(["bob"])


def two_nodes(
    *,
    ada: str = "",
    bob: str = "",
    budget: int = 20,
    capacity: int = 1,
    queue_timeout: float = 600.0,
) -> World:
    """Return nodes ada and bob with models a and b of 10 MiB, and c of 20, some of them loaded."""
    return World(
        setup(
            {"ada": budget, "bob": budget},
            {"a": 10, "b": 10, "c": 20},
            {"ada": ada, "bob": bob},
            capacity=capacity,
            terms=SchedulingTerms(queue_timeout=queue_timeout),
        )
    )


def node_of(world: World, request: str) -> str | None:
    lease = world.leases.get(request)
    return lease.node if lease is not None else None


class OnlyTests(SynchronousTestCase):
    def test_it_goes_there(self) -> None:
        """A request bound to a node gets a free slot there, whatever another node offers."""
        for node in ("ada", "bob"):
            world = two_nodes(ada="a", bob="a")
            world.tell(Submit("r", "a", (), frozenset([node])))
            assert node == node_of(world, "r")

    def test_it_waits_there_and_nobody_behind_it_does(self) -> None:
        """It waits while all slots of its node are in use; others are served meanwhile."""
        world = two_nodes(ada="a", bob="a")
        world.tell(Submit("first", "a", (), ADA))
        world.tell(Submit("bound", "a", (), ADA))
        world.tell(Submit("free", "a"))
        assert [None, "bob"] == [node_of(world, name) for name in ("bound", "free")]

        world.tell(Submit("late", "a"))
        world.tell(LeaseEnded(world.leases["free"]))
        assert [None, "bob"] == [node_of(world, name) for name in ("bound", "late")]

        world.tell(LeaseEnded(world.leases["first"]))
        assert "ada" == node_of(world, "bound")

    def test_others_in_front_wait_for_what_is_theirs(self) -> None:
        """A request in front that may go anywhere does not keep a slot of its node from it."""
        world = two_nodes(ada="a")
        world.tell(Submit("busy", "a"))
        world.tell(Submit("bound", "a", (), BOB))
        assert ["load a on bob"] == world.started()
        world.tell(Submit("free", "a"))
        world.load_done("bob")

        assert "bob" == node_of(world, "bound")
        world.tell(LeaseEnded(world.leases["busy"]))
        assert "ada" == node_of(world, "free")

    def test_one_of_several(self) -> None:
        """Bound to several nodes it takes the first of them that can have it, and no other."""
        world = World(
            setup(
                {"ada": 20, "bob": 20, "cyd": 10},
                {"a": 10, "b": 10},
                {"ada": "a", "cyd": "b"},
                capacity=1,
            )
        )
        both = frozenset(["bob", "cyd"])
        world.tell(Submit("either", "a", (), both))
        assert ["load a on bob"] == world.started()
        world.tell(Submit("cyd's", "a", (), frozenset(["cyd"])))
        world.load_done("bob")

        assert "bob" == node_of(world, "either")
        assert None is node_of(world, "cyd's")
        assert ["load a on bob", "unload b on cyd"] == world.started()

    def test_its_model_is_loaded_there(self) -> None:
        """Even where another node has it, and even where others must be given up for it."""
        world = two_nodes(ada="a", bob="c")
        world.wait(60)
        world.tell(Submit("bound", "a", (), BOB))
        assert ["unload c on bob"] == world.started()
        world.unload_done("bob")
        world.load_done("bob")

        assert "bob" == node_of(world, "bound")

    def test_its_node_may_have_the_model_no_more(self) -> None:
        """Then it is rejected, and not told that nobody has what others list."""
        world = two_nodes(ada="a")
        del world.listings["bob"]["a"]
        world.poll("bob")
        world.tell(Submit("bound", "a", (), BOB))

        (error,) = world.errors.values()
        assert isinstance(error, Overloaded)
        words = "no node that can take the request lists model 'a' any more; try again later"
        assert words == error.message

    def test_nothing_is_loaded_for_one_that_left(self) -> None:
        """A swap ends that was begun for it, though others wait for the model elsewhere."""
        world = two_nodes(ada="a", bob="c")
        world.wait(60)
        for name in ("holder", "other"):
            world.tell(Submit(name, "a", (), ADA))
        world.tell(Submit("user", "c"))
        world.tell(Submit("bound", "a", (), BOB))
        world.wait(40)
        world.tell(Tick())
        assert world.scheduler.swaps.on("bob") is not None
        world.tell(Cancel("bound"))

        assert world.scheduler.swaps.on("bob") is None
        assert [] == world.started()

    def test_a_node_that_is_down(self) -> None:
        """It is rejected with what is amiss with its node; others wait for theirs."""
        world = two_nodes(ada="a", bob="a")
        for _ in range(2):
            world.poll_failed("bob", SILENT)
        for name in ("busy", "waits"):
            world.tell(Submit(name, "a", (), ADA))
        world.tell(Submit("bound", "a", (), BOB))

        assert isinstance(world.errors["bound"], Overloaded)
        assert "node bob does not answer" in world.errors["bound"].message
        assert "waits" not in world.errors

    def test_tried_there(self) -> None:
        """Once its node has failed it, it has nowhere to go."""
        world = two_nodes(ada="a", bob="a")
        world.tell(Submit("r", "a", ("ada",), ADA))

        assert {"r"} == set(world.errors)

    @settings(max_examples=200)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["submit", "submit", "submit", "end", "cancel", "move", "wait"]),
                st.sampled_from("abc"),
                st.sampled_from([None, ADA, BOB, ADA | BOB]),
                st.integers(0, 5),
            ),
            max_size=40,
        )
    )
    def test_everybody_is_answered(
        self, steps: list[tuple[str, str, frozenset[str] | None, int]]
    ) -> None:
        """After any course of things all are served once all has ended, each on its own node.

        One after the other, as long as it takes: no limit ends a wait before.
        """
        world = two_nodes(ada="a", bob="c", queue_timeout=1e9)
        asked: dict[str, frozenset[str] | None] = {}
        for number, (step, model, only, pick) in enumerate(steps):
            waiting = [waiter.request_id for waiter in world.scheduler.waiting]
            if step == "submit":
                name = f"r{number}"
                asked[name] = only
                world.tell(Submit(name, model, (), only))
            elif step == "end" and world.fleet.leases:
                lease = world.fleet.leases[pick % len(world.fleet.leases)]
                world.tell(LeaseEnded(lease))
            elif step == "cancel" and waiting:
                world.tell(Cancel(waiting[pick % len(waiting)]))
                del asked[waiting[pick % len(waiting)]]
            elif step == "move":
                move(world)
            elif step == "wait":
                world.wait(20)
                world.tell(Tick())
        for _ in range(20 * len(asked) + 20):
            for lease in world.fleet.leases:
                world.tell(LeaseEnded(lease))
            move(world)
            world.wait(40)
            world.tell(Tick())

        assert [] == [waiter.request_id for waiter in world.scheduler.waiting]
        assert {} == world.errors
        for name, only in asked.items():
            assert only is None or world.grants[name].lease.node in only, name


def move(world: World) -> None:
    """End what loads or unloads, if anything does."""
    for node, effect in list(world.running.items()):
        if type(effect).__name__ == "StartLoad":
            world.load_done(node)
        else:
            world.unload_done(node)
