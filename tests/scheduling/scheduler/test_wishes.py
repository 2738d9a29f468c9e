"""What the scheduler does for the operator: pins, orders, cordons, and what has had its time."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused, Overloaded
from cortexd.fleet.nodes import ModelTerms
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import CordonChanged, Event, PinChanged, RestartDue
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import LOADED, LOADING, STUCK, UNLOADED, World, setup

DRAINING = ReplicaState.DRAINING


class WishTests(SynchronousTestCase):
    def refusal(self, world: World, wish: Event) -> str:
        """Return why a wish is refused; refused, it has changed nothing."""
        before = list(world.effects)
        error = self.assertRaises(OperationRefused, world.wish, wish)

        assert before == world.effects
        return str(error)


class PinTests(WishTests):
    def pinned(self, loaded: str = "") -> World:
        """Return a node where one of two models that fit one at a time is pinned."""
        return World(setup({"ada": 10}, {"p": 8, "a": 8}, {"ada": loaded}, pinned={"ada": "p"}))

    def test_at_start(self) -> None:
        """What is pinned is loaded as soon as its node is seen."""
        assert ["load p on ada"] == self.pinned().started()
        assert ["unload a on ada"] == self.pinned("a").started()
        assert [] == self.pinned("p").started()

    def test_found_missing(self) -> None:
        """What is pinned is loaded again when somebody has unloaded it."""
        world = self.pinned("p")
        world.drift("ada", p=UNLOADED)
        assert ["load p on ada"] == world.started()

    def test_more_than_there_is_room_for(self) -> None:
        """Of models that are pinned where only one of them fits, one is loaded."""
        sizes = {"p": 8, "q": 8, "a": 8}
        world = World(setup({"ada": 10}, sizes, {"ada": "a"}, pinned={"ada": "pq"}))
        request = world.submit("q")
        assert ["unload a on ada"] == world.started()
        assert request in world.waiting
        world.unload_done("ada")

        assert ["unload a on ada", "load p on ada"] == world.started()
        assert request in world.errors

    def test_never_gives_way(self) -> None:
        """What is pinned makes no room, neither for requests nor for orders."""
        world = World(
            setup({"ada": 10, "bob": 10}, {"p": 8, "a": 8}, {"ada": "p"}, pinned={"ada": "p"})
        )
        world.cordon("bob")
        world.submit("a")
        world.pass_time(40)
        self.assertRaises(OperationRefused, world.load, "a")
        self.assertRaises(OperationRefused, world.unload, "p", now=True)

        assert [] == world.started()
        assert LOADED is world.state("ada", "p")

    def test_evicts_the_idle(self) -> None:
        """For a pin what is idle goes; what is in use is waited for, then drained."""
        world = World(setup({"ada": 10}, {"p": 8, "a": 8}, {"ada": "a"}))
        held = world.submit("a")
        world.pin("p", "ada")
        world.wait(29)
        world.sweep()
        assert LOADED is world.state("ada", "a")
        world.wait(1)
        world.sweep()
        assert DRAINING is world.state("ada", "a")
        world.end(held)
        world.finish_all()

        assert LOADED is world.state("ada", "p")

    def test_not_starved(self) -> None:
        """A pin comes before requests that keep its node busy with other models."""
        world = World(setup({"ada": 10}, {"p": 8, "a": 8, "b": 8}, {"ada": "a"}))
        held = world.submit("a")
        world.submit("b")
        world.pin("p", "ada")
        world.end(held)
        world.finish_all()

        assert LOADED is world.state("ada", "p")
        assert "b-0" in world.errors

    def test_load_that_failed(self) -> None:
        """A pinned model whose load failed is tried again once its time has come."""
        world = self.pinned()
        world.load_failed("ada")
        world.wait(4)
        world.sweep()
        assert ["load p on ada"] == world.started()
        world.wait(1)
        world.sweep()
        assert ["load p on ada"] * 2 == world.started()

    def test_pinned_while_it_drains(self) -> None:
        """A model that is pinned while it drains answers again, and is not unloaded."""
        world = World(setup({"ada": 20}, {"p": 8, "a": 8, "b": 16}, {"ada": "pa"}))
        held = world.submit("p")
        world.submit("b")
        world.pass_time(30)
        assert DRAINING is world.state("ada", "p")
        world.pin("p", "ada")
        assert LOADED is world.state("ada", "p")
        world.end(held)
        world.finish_all()

        assert LOADED is world.state("ada", "p")
        assert [] == world.started()

    def test_pinned_after_the_first_victim(self) -> None:
        """A model that is pinned while another makes room with it stays."""
        world = World(setup({"ada": 20}, {"p": 8, "a": 8, "b": 16}, {"ada": "ap"}))
        world.submit("b")
        assert ["unload a on ada"] == world.started()
        world.pin("p", "ada")
        assert LOADED is world.state("ada", "p")
        world.finish_all()

        assert ["unload a on ada"] == world.started()
        assert "b-0" in world.errors

    def test_pinned_while_it_is_unloaded(self) -> None:
        """A model that is pinned in the middle of its unload is loaded again."""
        world = World(setup({"ada": 10}, {"p": 8, "a": 8}, {"ada": "p"}))
        world.submit("a")
        world.pin("p", "ada")
        world.finish_all()

        assert ["unload p on ada", "load p on ada"] == world.started()

    def test_unpinned_before_its_load(self) -> None:
        """A model that is pinned no more is not loaded, and what drained for it answers."""
        world = World(setup({"ada": 10}, {"p": 8, "a": 8}, {"ada": "a"}))
        held = world.submit("a")
        world.pin("p", "ada")
        world.wait(30)
        world.sweep()
        assert DRAINING is world.state("ada", "a")
        world.pin("p", "ada", pinned=False)
        assert LOADED is world.state("ada", "a")
        world.end(held)

        assert [] == world.started()

    def test_another_pin_leaves_an_order_alone(self) -> None:
        """A pin of something else does not end what an operator has ordered."""
        world = World(setup({"ada": 20}, {"p": 8, "a": 12, "b": 12}, {"ada": "pa"}))
        held = world.submit("a")
        world.load("b")
        assert DRAINING is world.state("ada", "a")
        world.pin("p", "ada")
        world.end(held)
        world.finish_all()

        assert LOADED is world.state("ada", "b")

    def test_told(self) -> None:
        """A pin is told to be kept, and one that changes nothing or cannot be is refused."""
        world = self.pinned("p")
        world.pin("p", "ada", pinned=False)
        world.pin("p", "ada")

        told = [PinChanged("ada", "p", False), PinChanged("ada", "p", True)]
        assert told == world.of_kind(PinChanged)
        self.assertRaises(OperationRefused, world.pin, "p", "ada")
        self.assertRaises(OperationRefused, world.pin, "a", "ada")
        self.assertRaises(OperationRefused, world.pin, "a", "eve")
        self.assertRaises(OperationRefused, world.pin, "a", "ada", pinned=False)
        assert told == world.of_kind(PinChanged)


class TtlTests(SynchronousTestCase):
    def idle(self) -> World:
        """Return a node with models that go after a minute, one pinned, one that never goes."""
        models = {model: ModelTerms(2, ttl=60.0) for model in "abp"}
        return World(
            setup(
                {"ada": 40},
                dict.fromkeys("abpk", 10),
                {"ada": "abpk"},
                pinned={"ada": "p"},
                models=models,
            )
        )

    def test_idle_too_long(self) -> None:
        """What nobody has used for its time goes, one after the other."""
        world = self.idle()
        world.wait(59)
        world.sweep()
        assert [] == world.started()
        world.wait(1)
        world.sweep()
        assert ["unload a on ada"] == world.started()
        world.unload_done("ada")
        world.sweep()
        world.unload_done("ada")
        world.wait(600)
        world.sweep()

        assert ["unload a on ada", "unload b on ada"] == world.started()
        assert "it was idle for 60 s" == world.scheduler.decisions.about("a")[0].reason

    def test_in_use(self) -> None:
        """A model's time begins when its last answer has ended."""
        world = self.idle()
        held = world.submit("a"), world.submit("b")
        world.wait(100)
        world.sweep()
        assert [] == world.started()
        world.end(*held)
        world.wait(59)
        world.sweep()
        assert [] == world.started()
        world.wait(1)
        world.sweep()
        assert ["unload a on ada"] == world.started()

    def test_time_begins_when_it_is_found(self) -> None:
        """What is found loaded when the daemon starts has its whole time before it."""
        world = self.idle()
        world.sweep()

        assert [] == world.started()

    def test_unload_that_failed(self) -> None:
        """What could not be unloaded is left alone for a while."""
        world = self.idle()
        world.wait(60)
        world.sweep()
        world.unload_failed("ada")
        world.sweep()

        assert ["unload a on ada", "unload b on ada"] == world.started()


class CordonTests(WishTests):
    def test_no_new_work(self) -> None:
        """A cordoned node loads nothing, not even what is pinned there, until it works again."""
        world = World(setup({"ada": 10}, {"p": 8, "a": 8}, {"ada": "p"}, pinned={"ada": "p"}))
        world.cordon("ada")
        world.drift("ada", p=UNLOADED)
        world.sweep()
        assert Overloaded is type(world.errors[world.submit("a")])
        assert [] == world.started()
        world.cordon("ada", cordoned=False)

        assert ["load p on ada"] == world.started()
        told = [CordonChanged("ada", True), CordonChanged("ada", False)]
        assert told == world.of_kind(CordonChanged)

    def test_those_who_wait(self) -> None:
        """Those who waited for a node that is cordoned are served elsewhere."""
        world = World(setup({"ada": 10, "bob": 10}, {"a": 8, "b": 8}, {"ada": "b", "bob": "b"}))
        held = [world.submit("b"), world.submit("b")]
        assert {"ada", "bob"} == {world.leases[name].node for name in held}
        world.submit("a")
        world.pass_time(30)
        draining = "ada" if DRAINING is world.state("ada", "b") else "bob"
        other = "bob" if draining == "ada" else "ada"
        world.cordon(draining)
        assert DRAINING is world.state(other, "b")
        world.end(*held)
        world.finish_all()

        assert other == world.leases["a-0"].node

    def test_during_a_load(self) -> None:
        """A load goes on on a node that is cordoned meanwhile, and then gets no requests."""
        world = World(setup({"ada": 10}, {"a": 8}))
        world.submit("a")
        world.cordon("ada")
        world.load_done("ada")

        assert Overloaded is type(world.errors["a-0"])
        assert LOADED is world.state("ada", "a")

    def test_unknown_node(self) -> None:
        """A node that there is not is refused, with those that there are."""
        world = World(setup({"ada": 10}, {"a": 8}))
        error = self.assertRaises(OperationRefused, world.cordon, "eve")

        assert "the nodes are ada" in str(error)


class OrderTests(WishTests):
    def two_nodes(self) -> World:
        return World(
            setup({"ada": 10, "bob": 20}, dict.fromkeys("abc", 10), {"ada": "a", "bob": "b"})
        )

    def test_load(self) -> None:
        """A model is loaded where it fits best, or where it is told to."""
        for node, expected in ((None, ["load c on bob"]), ("ada", ["unload a on ada"])):
            world = self.two_nodes()
            plan = world.scheduler.plan("c", node, world.now)
            world.load("c", node)

            assert expected == world.started()
            decision = world.scheduler.decisions.about("c")[0]
            assert (plan.node, plan.victims) == (decision.node, decision.victims)
            assert "the operator requested it" == decision.reason
            world.finish_all()
            assert LOADED is world.state(plan.node, "c")

    def test_load_in_place_of_one_in_use(self) -> None:
        """An order may evict models in use, once they are idle."""
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}, {"ada": "a"}))
        held = world.submit("a")
        world.load("b")
        assert DRAINING is world.state("ada", "a")
        late = world.submit("a")
        world.end(held)
        world.finish_all()
        assert late in world.leases
        assert ["unload a on ada", "load b on ada", "unload b on ada", "load a on ada"] == (
            world.started()
        )

    def test_refused(self) -> None:
        """An order that cannot be carried out is refused with its reason, and changes nothing."""
        world = World(setup({"ada": 20}, {"a": 5, "c": 5, "s": 1, "x": 1}, {"ada": "a"}))
        world.drift("ada", s=STUCK, x=LOADING)
        for words, wish in (
            ("no node lists a model 'z'", lambda: world.load("z")),
            ("is already loaded on ada", lambda: world.load("a")),
            ("no node is called 'eve'", lambda: world.load("a", "eve")),
            ("is loading or unloading another model", lambda: world.load("c", "ada")),
            ("is not loaded on any node", lambda: world.unload("c")),
            ("is stuck on ada", lambda: world.unload("s")),
        ):
            error = self.assertRaises(OperationRefused, wish)

            assert words in str(error), str(error)

    def test_order_is_forgotten_once_it_is_done(self) -> None:
        """A model that an operator once had loaded is no more wanted than others after that."""
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}))
        world.load("b")
        world.finish_all()
        world.unload("b")
        world.finish_all()
        world.load("a")
        world.finish_all()
        world.submit("a")
        request = world.submit("b")
        world.pass_time(30)
        assert DRAINING is world.state("ada", "a")
        world.cancel(request)

        assert LOADED is world.state("ada", "a")

    def test_order_is_forgotten_with_its_node(self) -> None:
        """A load that was ordered is not made up for when its node comes back."""
        world = World(setup({"ada": 10}, {"a": 10, "b": 10}, {"ada": "a"}))
        held = world.submit("a")
        world.load("b")
        world.cordon("ada")
        assert LOADED is world.state("ada", "a")
        world.cordon("ada", cordoned=False)
        world.end(held)
        world.sweep()

        assert [] == world.started()


class RestartDueTests(SynchronousTestCase):
    def due(self, world: World) -> list[str]:
        return [
            effect.reason for effect in world.of_kind(RestartDue) if isinstance(effect, RestartDue)
        ]

    def leaky(self) -> World:
        world = World(
            setup(
                {"ada": 30},
                {"a": 10, "b": 10},
                {"ada": "ab"},
                terms=SchedulingTerms(defrag_after_cycles=3),
            )
        )
        world.unload("a")
        world.unload_done("ada", leaked_mb=5)
        return world

    def test_once_and_when_idle(self) -> None:
        """That a node is due for a restart is told once, in a moment when nothing runs there."""
        world = self.leaky()
        held = world.submit("b")
        world.sweep()
        assert [] == self.due(world)
        world.end(held)
        world.load("a")
        world.sweep()
        assert [] == self.due(world)
        world.finish_all()
        for _ in range(3):
            world.sweep()

        assert ["unloads did not free 5 MiB"] == self.due(world)

    def test_not_beside_somebody_elses_load(self) -> None:
        """Nobody's load is cut off by a restart."""
        world = self.leaky()
        world.drift("ada", a=LOADING)
        world.sweep()
        assert [] == self.due(world)

    def test_again_for_the_next_process(self) -> None:
        """A new process is told of anew, for reasons of its own."""
        world = self.leaky()
        world.sweep()
        world.restart("ada", LOADED)
        world.sweep()
        assert 1 == len(self.due(world))
        for _ in range(3):
            world.unload("a")
            world.unload_done("ada")
            world.load("a")
            world.load_done("ada")
        world.sweep()

        assert "3 unloads since its start" == self.due(world)[-1]

    def test_stuck(self) -> None:
        """A node with an id that is stuck is due, once two polls have seen it so."""
        world = World(setup({"ada": 30}, {"a": 10}))
        world.drift("ada", a=STUCK)
        world.sweep()
        assert [] == self.due(world)
        world.poll("ada")
        world.sweep()

        assert ["stuck: a"] == self.due(world)
