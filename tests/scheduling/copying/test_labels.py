"""Where a model may be, and where it is loaded of the nodes that it may be on."""

from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused, Overloaded
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.sleep.power import PowerTerms
from cortexd.scheduling.copying.labels import only_words
from cortexd.scheduling.events import LeaseEnded, LoadWanted, PinWanted
from tests.support.scheduling import LOADED, REFUSED, UNLOADED, Setup, World

LABELS = {"ada": ("big",), "bob": ("small", "quiet"), "cyd": ()}


def fleet(
    terms: ModelTerms,
    *,
    budgets: Mapping[str, int] | None = None,
    loaded: Mapping[str, str] | None = None,
    pinned: Mapping[str, tuple[str, ...]] | None = None,
    asleep: str = "",
) -> World:
    """Return nodes with ``LABELS``; model m has these terms and 10 MiB, as models a to c."""
    loaded, pinned = loaded or {}, pinned or {}
    nodes = [
        NodeTerms(
            name,
            f"http://{name}:1234",
            (budgets or {}).get(name, 10),
            pinned=pinned.get(name, ()),
            power=PowerTerms(True, 60.0, 60.0) if name == asleep else None,
            labels=labels,
        )
        for name, labels in LABELS.items()
    ]
    models = ("m", "a", "b", "c")
    listings = {
        name: {model: LOADED if model in loaded.get(name, "") else UNLOADED for model in models}
        for name in LABELS
    }
    sizes = dict.fromkeys(models, 10)
    return World(Setup(nodes, listings, sizes, {"m": terms}))


class OnlyOnTests(SynchronousTestCase):
    def test_loaded_where_allowed(self) -> None:
        """A model with only_on is loaded on a node with one of the labels, even at a price."""
        world = fleet(ModelTerms(1, only_on=("quiet", "other")), loaded={"bob": "b"})
        world.submit("m")
        assert ["unload b on bob"] == world.started()

    def test_used_where_allowed(self) -> None:
        """A copy that is loaded on another node gets no request, whoever loaded it."""
        world = fleet(ModelTerms(1, only_on=("big",)), loaded={"bob": "m"})
        world.submit("m")
        assert ["load m on ada"] == world.started()

    def test_no_node(self) -> None:
        """While no node with a label can serve the model, its requests are refused in words."""
        world = fleet(ModelTerms(1, only_on=("big",)))
        for _ in range(2):
            world.poll_failed("ada", REFUSED)
        error = world.errors[world.submit("m")]
        assert isinstance(error, Overloaded)
        assert (
            "no node with the label \"big\", which it needs, can serve model 'm' now: node ada "
            "does not answer"
        ) == error.message

    def test_nowhere(self) -> None:
        """A model that only nodes without its labels list is refused in words, too."""
        world = fleet(ModelTerms(1, only_on=("huge", "vast")))
        error = world.errors[world.submit("m")]
        assert (
            'model \'m\' may only be used on nodes with the label "huge" or "vast", and no such '
            "node lists it"
        ) == error.message

    def test_operator(self) -> None:
        """An operator can neither pin nor load it on a node without a label."""
        world = fleet(ModelTerms(1, only_on=("big",)))
        for event, words in (
            (
                PinWanted("m", "bob", pinned=True),
                "model 'm' cannot be pinned on bob, which lacks the label \"big\" of the model's "
                "only_on",
            ),
            (
                LoadWanted("m", "bob"),
                "model 'm' cannot be loaded now: bob lacks the label \"big\" of the model's "
                "only_on",
            ),
        ):
            with self.assertRaises(OperationRefused) as caught:
                world.scheduler.handle(event, world.now)
            assert words == str(caught.exception)

    def test_reload(self) -> None:
        """A reload that takes the label from a node ends its use there, and a pin's effect."""
        world = fleet(ModelTerms(1), loaded={"bob": "m"})
        world.tell(PinWanted("m", "bob", pinned=True))
        nodes = world.setup.nodes
        for only_on, pinned in ((("big",), False), ((), True)):
            world.reconfigure(nodes, models={"m": ModelTerms(1, only_on=only_on)})
            replica = world.fleet.nodes["bob"].replicas["m"]
            assert (pinned, pinned) == (replica.pinned, replica.answers)


class PreferTests(SynchronousTestCase):
    def loaded_on(self, world: World) -> str:
        world.submit("m")
        (started,) = world.started()
        return started

    def test_free_room(self) -> None:
        """Of several nodes with free room, that with the first label is taken."""
        assert "load m on ada" == self.loaded_on(fleet(ModelTerms(1)))
        world = fleet(ModelTerms(1, prefer=("quiet", "big")))
        assert "load m on bob" == self.loaded_on(world)
        world = fleet(ModelTerms(1, prefer=("other", "quiet")))
        assert "load m on bob" == self.loaded_on(world)

    def test_before_cost(self) -> None:
        """Where something must go anyway, the preferred node is taken, whatever goes there."""
        loaded = {"ada": "a", "bob": "b", "cyd": "c"}
        for terms, node in ((ModelTerms(1), "ada"), (ModelTerms(1, prefer=("quiet",)), "bob")):
            world = fleet(terms, loaded=loaded)
            for model in ("c", "b"):
                world.tell(LeaseEnded(world.leases[world.submit(model)]))
            victim = node[0]
            assert f"unload {victim} on {node}" == self.loaded_on(world)

    def test_not_before_free_room(self) -> None:
        """Nothing is evicted on the preferred node while another one has free room."""
        world = fleet(ModelTerms(1, prefer=("quiet",)), loaded={"bob": "b"})
        assert "load m on ada" == self.loaded_on(world)

    def test_asleep(self) -> None:
        """A preferred node is not woken while another one has free room."""
        world = fleet(ModelTerms(1, prefer=("quiet",)), asleep="bob")
        for _ in range(2):
            world.poll_failed("bob", REFUSED)
        assert "load m on ada" == self.loaded_on(world)


class MostCopiesTests(SynchronousTestCase):
    def test_no_second_one(self) -> None:
        """With max_copies = 1 requests wait for a slot of the one copy, even beside free room."""
        world = fleet(ModelTerms(1, max_copies=1), loaded={"ada": "m"})
        first, second = world.submit("m"), world.submit("m")
        assert [] == world.started()
        assert second in world.waiting

        world.tell(LeaseEnded(world.leases[first]))
        assert second in world.leases

    def test_second_one(self) -> None:
        """With max_copies = 2 there is no third one."""
        world = fleet(ModelTerms(1, max_copies=2), loaded={"ada": "m"})
        for _ in range(4):
            world.submit("m")
        assert ["load m on bob"] == world.started()

    def test_not_for_the_operator_either(self) -> None:
        """A load or a pin that would bring a copy beyond max_copies is refused, in words."""
        world = fleet(ModelTerms(1, max_copies=1), loaded={"ada": "m"})
        for wish, verb in (
            (LoadWanted("m", "bob"), "load"),
            (PinWanted("m", "bob", pinned=True), "pin"),
        ):
            error = self.assertRaises(OperationRefused, world.wish, wish)
            assert (
                "max_copies of model 'm' is 1, and it is loaded on ada; "
                f"run `cortexctl unload m --node ada` before you {verb} it elsewhere"
            ) == str(error)
        assert [] == world.started()

    def test_pin_of_a_copy(self) -> None:
        """A copy that is loaded can be pinned, and moves once it has been unloaded."""
        world = fleet(ModelTerms(1, max_copies=1), loaded={"ada": "m"})
        world.wish(PinWanted("m", "ada", pinned=True))
        world.wish(PinWanted("m", "ada", pinned=False))
        world.unload("m", "ada")
        world.finish("ada")
        world.wish(LoadWanted("m", "bob"))
        assert ["unload m on ada", "load m on bob"] == world.started()


class WordsTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Labels are named in quotes."""
        assert 'the label "a"' == only_words(["a"])
        assert 'the label "a" or "b"' == only_words(("a", "b"))
