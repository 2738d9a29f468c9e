"""A replica that fails its requests: it is left out, tried again, and never wins by failing."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import Overloaded
from cortexd.fleet.states import ReplicaEjected, ReplicaReturned
from cortexd.scheduling.events import TrialAnswers
from tests.support.scheduling import LOADED, UNLOADED, World, replay, setup
from tests.support.scheduling_rules import words


def two_nodes() -> World:
    """Return a world in which ada and bob have model a loaded, with two slots each."""
    return World(setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a", "bob": "a"}))


def alone(**more: int | None) -> World:
    """Return a world in which only ada has model a loaded, beside ``more`` models that are not."""
    return World(setup({"ada": 10}, {"a": 10, **more}, {"ada": "a"}))


def fail_on(world: World, node: str, times: int = 3) -> None:
    """Let a node fail requests for model a, while the others keep theirs."""
    for _ in range(times):
        request = world.submit("a")
        assert node == world.leases[request].node
        world.fail(request, fault="CUDA error")


def taken_by(world: World, count: int) -> list[str]:
    """Return the nodes that answer requests, each of which ends before the next."""
    nodes = []
    for _ in range(count):
        request = world.submit("a")
        nodes.append(world.leases[request].node)
        world.answer(request)
    return nodes


class EjectionTests(SynchronousTestCase):
    def eject(self, world: World, node: str = "ada") -> None:
        """Eject a replica of model a."""
        only = {node}
        for _ in range(3):
            world.fail(world.submit("a", only=only), fault="CUDA error")
        assert world.replica(node, "a").is_ejected

    def test_third_fault(self) -> None:
        """A replica that fails three requests in a row gets no more, and that is told."""
        world = two_nodes()
        self.eject(world)

        (told,) = world.of_kind(ReplicaEjected)
        assert ReplicaEjected("ada", "a", "CUDA error", 3, 10.0, False) == told
        assert ["bob"] * 8 == taken_by(world, 8)
        decision = world.scheduler.decisions.about("a")[0]
        assert ("eject", "ada") == (decision.action, decision.node)
        assert "3 requests in a row failed, so it gets none for 10 s: CUDA error" == decision.reason

    def test_a_server_that_refuses_our_key(self) -> None:
        """It is ejected beside a better one. Alone it is not: its words tell what is wrong."""
        for world, is_ejected in ((two_nodes(), True), (alone(), False)):
            for _ in range(3):
                world.fail(world.submit("a", only={"ada"}), fault="bad key", is_refusal=True)
            assert is_ejected is world.replica("ada", "a").is_ejected

    def test_suspect(self) -> None:
        """After one fault, other replicas come first, so that failing fast wins no requests."""
        world = two_nodes()
        first = world.submit("a")
        assert "ada" == world.leases[first].node
        world.fail(first)

        assert ["bob"] * 8 == taken_by(world, 8)
        held = [world.submit("a") for _ in range(3)]
        assert ["bob", "bob", "ada"] == [world.leases[each].node for each in held]
        world.answer(*held)
        assert ["bob"] * 2 == taken_by(world, 2)
        world.wait(10)
        assert "ada" in taken_by(world, 2)

    def test_trial(self) -> None:
        """After its time, an ejected replica gets one request, which brings it back."""
        world = two_nodes()
        self.eject(world)
        world.wait(9.9)
        assert ["bob"] == taken_by(world, 1)
        world.wait(0.1)
        trial = world.submit("a")
        others = [world.submit("a") for _ in range(3)]

        assert world.grants[trial].is_trial
        assert "ada" == world.leases[trial].node
        assert ["bob", "bob"] == [world.leases[each].node for each in others[:2]]
        assert others[2:] == world.waiting
        world.answer(trial)
        assert [ReplicaReturned("ada", "a", "it answers again")] == world.of_kind(ReplicaReturned)
        assert "ada" == world.leases[others[2]].node
        assert not world.grants[others[2]].is_trial

    def test_failed_trial(self) -> None:
        """Each trial that fails doubles the time until the next, up to the limit."""
        world = two_nodes()
        self.eject(world)
        for seconds in (10, 20, 40, 80, 160, 300, 300):
            world.wait(seconds - 0.1)
            assert ["bob"] == taken_by(world, 1)
            world.wait(0.1)
            trial = world.submit("a")
            assert world.grants[trial].is_trial, seconds
            world.fail(trial)

    def test_trial_that_says_nothing(self) -> None:
        """A trial whose client left decides nothing, and the next request is the trial."""
        world = two_nodes()
        self.eject(world)
        world.wait(10)
        world.end(world.submit("a"))

        assert world.replica("ada", "a").is_ejected
        assert world.grants[world.submit("a")].is_trial

    def test_failed_elsewhere(self) -> None:
        """A request that has failed on one node is not the trial of another if a third answers."""
        names = ("ada", "bob", "cyd")
        world = World(setup(dict.fromkeys(names, 10), {"a": 10}, dict.fromkeys(names, "a")))
        self.eject(world)
        world.wait(10)

        assert "cyd" == world.leases[world.submit("a", "r", "bob")].node

    def test_began_before(self) -> None:
        """The end of a request that began before the ejection changes nothing."""
        world = two_nodes()
        old = [world.submit("a", only={"ada"}) for _ in range(2)]
        world.wait(1)
        world.fail(old[0])
        self.eject_rest(world)
        world.answer(old[1])

        assert world.replica("ada", "a").is_ejected
        assert not world.of_kind(ReplicaReturned)

    def eject_rest(self, world: World) -> None:
        while not world.replica("ada", "a").is_ejected:
            world.fail(world.submit("a", only={"ada"}))

    def test_poisoned(self) -> None:
        """One fault ejects a replica whose engine is poisoned, and its node should restart."""
        world = two_nodes()
        world.fail(world.submit("a", only={"ada"}), fault="lock is poisoned", poisoned=True)

        assert world.replica("ada", "a").is_ejected
        reason = world.scheduler.restart_reason(world.fleet.nodes["ada"], world.now)
        assert "poisoned: a (lock is poisoned)" == reason
        world.restart("ada")
        assert not world.replica("ada", "a").is_ejected
        assert None is world.scheduler.restart_reason(world.fleet.nodes["ada"], world.now)

    def test_down(self) -> None:
        """What fails while the node is down says nothing of its replicas."""
        world = two_nodes()
        held = [world.submit("a", only={"ada"}) for _ in range(2)]
        for _ in range(2):
            world.poll_failed("ada")
        world.fail(*held, poisoned=True)

        assert None is world.replica("ada", "a").breaker

    def test_sick_node(self) -> None:
        """With two ejected replicas, the others of their node are ejected by their first fault."""
        names = ("ada", "bob")
        world = World(
            setup(dict.fromkeys(names, 30), dict.fromkeys("abc", 10), dict.fromkeys(names, "abc"))
        )
        for model in "ab":
            for _ in range(3):
                world.fail(world.submit(model, only={"ada"}))
        answered = world.submit("c")
        assert "bob" == world.leases[answered].node
        world.fail(world.submit("c", only={"ada"}))

        assert world.replica("ada", "c").is_ejected
        reason = world.scheduler.restart_reason(world.fleet.nodes["ada"], world.now)
        assert "requests fail on a, b, c" == reason

    def test_replay(self) -> None:
        """The same events give the same ejections and trials again."""
        world = two_nodes()
        self.eject(world)
        world.wait(10)
        world.fail(world.submit("a"))
        world.wait(20)
        world.answer(world.submit("a"))

        assert [words(effect) for effect in world.effects] == replay(world)


class AloneTests(SynchronousTestCase):
    """A model that only one replica answers, which fails now and then."""

    def eject(self, world: World) -> None:
        for _ in range(3):
            world.fail(world.submit("a"), fault="CUDA error")

    def test_refused(self) -> None:
        """Until the trial, requests are refused with the reason and the time of the next try."""
        world = alone()
        self.eject(world)
        error = world.errors[world.submit("a")]

        assert Overloaded is type(error)
        assert "node ada: CUDA error" in error.message
        assert 1.0 == error.retry_after

    def test_soon(self) -> None:
        """A trial comes after one second, then two, and ten at most."""
        world = alone()
        self.eject(world)
        for seconds in (1, 2, 4, 8, 10, 10):
            world.wait(seconds - 0.1)
            assert world.submit("a") in world.errors
            world.wait(0.1)
            trial = world.submit("a")
            assert world.grants[trial].is_trial, seconds
            world.fail(trial)

    def test_wait_for_the_trial(self) -> None:
        """While the trial runs others wait for its end, and an answer lets them all through."""
        world = alone()
        self.eject(world)
        world.wait(1)
        trial, *others = [world.submit("a") for _ in range(3)]
        assert others == world.waiting
        world.answer(trial)

        assert set(others) == world.leases.keys()

    def test_first_content(self) -> None:
        """The first content of the trial's answer is enough: a long answer keeps nobody waiting."""
        world = alone()
        self.eject(world)
        world.wait(1)
        trial, other = world.submit("a"), world.submit("a")
        world.tell(TrialAnswers(world.leases[trial]))

        assert {trial, other} == world.leases.keys()
        world.fail(trial)
        assert not world.replica("ada", "a").is_ejected

    def test_failed_trial_refuses(self) -> None:
        """If the trial fails, the requests that waited for it are refused."""
        world = alone()
        self.eject(world)
        world.wait(1)
        trial, other = world.submit("a"), world.submit("a")
        world.fail(trial)

        assert 2.0 == world.errors[other].retry_after
        assert not world.waiting

    def test_now_and_then(self) -> None:
        """A replica that is alone and fails every other request is never ejected."""
        world = alone()
        for _ in range(30):
            world.fail(world.submit("a"))
            world.answer(world.submit("a"))

        assert not world.of_kind(ReplicaEjected)

    def test_loaded_elsewhere(self) -> None:
        """The model is loaded on another node: into free memory at once, by eviction later."""
        free = World(setup({"ada": 10, "bob": 10}, {"a": 10}, {"ada": "a"}))
        self.eject(free)
        free.submit("a")
        assert ["load a on bob"] == free.started()

        full = World(setup({"ada": 10, "bob": 10}, {"a": 10, "b": 10}, {"ada": "a", "bob": "b"}))
        self.eject(full)
        waits = full.submit("a")
        full.wait(1)
        full.poll("bob")
        assert full.grants[waits].is_trial
        full.fail(waits)
        full.submit("a")
        assert ["unload b on bob"] == full.started()

    def test_loaded_anew(self) -> None:
        """A load makes a new engine, so that the faults of the last one are forgotten."""
        world = alone()
        self.eject(world)
        world.drift("ada", a=UNLOADED)
        assert not world.replica("ada", "a").is_ejected
        world.drift("ada", a=LOADED)

        assert world.submit("a") in world.leases
