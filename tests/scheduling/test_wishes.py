from collections.abc import Collection

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.scheduling.decisions import Candidate
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.wishes import Plan, check_pin, check_unload, node_named, plan_load
from tests.support.nodes import (
    DRAIN,
    LOAD,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOADED,
    fleet_of,
    replica_on,
)

SIZES = {"m": 8_000, "a": 10_000, "b": 12_000, "large": 30_000}
FULL = {"m": UNLOADED, "a": LOADED, "b": LOADED}
NOW = 1_000.0


def plan(
    fleet: Fleet, model: str = "m", node: str | None = None, swapping: Collection[str] = ()
) -> Plan:
    return plan_load(fleet, EvictionTerms(), swapping, model, node, NOW)


def unloads(
    fleet: Fleet, model: str = "m", node: str | None = None, swapping: Collection[str] = ()
) -> list[str]:
    """Return the nodes on which a model would be unloaded."""
    return [replica.node.name for replica in check_unload(fleet, swapping, model, node)]


class RefusalTestCase(SynchronousTestCase):
    def assert_refused(self, words: str, refusal: OperationRefused) -> None:
        assert words == str(refusal)


class NameTests(RefusalTestCase):
    def test_node(self) -> None:
        """A node is found by its name, and who gives another is told which there are."""
        fleet = fleet_of({"ada": {}, "bob": {}})
        assert fleet.nodes["ada"] is node_named(fleet, "ada")

        with self.assertRaises(OperationRefused) as caught:
            node_named(fleet, "eve")
        self.assert_refused("no node is called 'eve'; the nodes are ada, bob", caught.exception)

    def test_model(self) -> None:
        """A model that no node lists, or not the one asked for, is refused everywhere alike."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": UNLOADED}, "cyd": {}})
        for ask in (plan, unloads):
            for model, node, words in (
                ("x", None, "no node lists a model 'x'; `cortexctl models` shows the models"),
                ("m", "cyd", "node cyd does not list model 'm'; ada, bob do"),
                ("m", "eve", "no node is called 'eve'; the nodes are ada, bob, cyd"),
            ):
                with self.assertRaises(OperationRefused) as caught:
                    ask(fleet, model, node)
                self.assert_refused(words, caught.exception)


class LoadTests(RefusalTestCase):
    def assert_no_load(self, words: str, fleet: Fleet, node: str | None = None) -> None:
        with self.assertRaises(OperationRefused) as caught:
            plan(fleet, node=node)
        self.assert_refused(words, caught.exception)

    def test_where_it_costs_least(self) -> None:
        """A plan says where, for what, for how long, and what else there was."""
        found = plan(fleet_of({"ada": FULL, "bob": {"m": UNLOADED}}, sizes=SIZES))

        assert ("bob", (), 30.0) == (found.node, found.victims, found.seconds)
        assert "fits into 24000 free MiB of 24000" == found.cost
        assert (
            Candidate("bob", True, found.cost, ()),
            Candidate("ada", True, "evicts a (10000 MiB, not used yet)", ("a",)),
        ) == found.candidates

    def test_as_it_was(self) -> None:
        """A plan goes on saying what it said, whatever becomes of its node."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES)
        found = plan(fleet)
        fleet.begin(replica_on(fleet, "ada", "m"), LOAD, NOW)

        assert "fits into 24000 free MiB of 24000" == found.cost
        assert [found.cost] == [candidate.cost for candidate in found.candidates]

    def test_on_a_certain_node(self) -> None:
        """A node that is named is the only one that counts."""
        found = plan(fleet_of({"ada": FULL, "bob": {"m": UNLOADED}}, sizes=SIZES), node="ada")

        assert ("ada", ("a",)) == (found.node, found.victims)
        assert 1 == len(found.candidates)

    def test_what_is_in_use(self) -> None:
        """What answers is given up for an operator, but only where nothing idle suffices."""
        fleet = fleet_of({"ada": FULL}, sizes=SIZES)
        fleet.grant(replica_on(fleet, "ada", "a"), "request", 900)
        assert ("b",) == plan(fleet).victims

        fleet.grant(replica_on(fleet, "ada", "b"), "request", 900)
        assert ("a",) == plan(fleet).victims

    def test_loaded(self) -> None:
        """What is loaded is not loaded again, unless on another node that is named."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}}, sizes=SIZES)
        self.assert_no_load("model 'm' is already loaded on ada", fleet)
        self.assert_no_load("model 'm' is already loaded on ada", fleet, "ada")

        assert "bob" == plan(fleet, node="bob").node

    def test_loaded_where_it_cannot_answer(self) -> None:
        """What is loaded on a node that is down or cordoned is not there to be used."""
        for out_of_reach in ("down", "cordoned"):
            fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}}, sizes=SIZES)
            if out_of_reach == "down":
                fleet.fail("ada", REFUSED, 1)
            else:
                fleet.set_cordon(fleet.nodes["ada"], cordoned=True)

            assert "bob" == plan(fleet).node

    def test_nowhere(self) -> None:
        """Where it cannot be loaded, what is in the way is told for each node."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED}, "bob": {"m": LOADING}, "cyd": {"m": UNLOADED}},
            sizes=SIZES,
            now=NOW,
        )
        fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
        fleet.fail("cyd", REFUSED, 1)
        self.assert_no_load(
            "model 'm' cannot be loaded now: ada is cordoned; bob is already loading it; "
            "cyd does not answer: connection refused",
            fleet,
        )

    def test_swapping(self) -> None:
        """A node that is changing models already is left to end that."""
        fleet = fleet_of({"ada": {"m": UNLOADED}}, sizes=SIZES)

        with self.assertRaises(OperationRefused) as caught:
            plan(fleet, swapping=["ada"])
        self.assert_refused(
            "model 'm' cannot be loaded now: ada is loading or unloading another model",
            caught.exception,
        )


class UnloadTests(RefusalTestCase):
    def assert_no_unload(
        self, words: str, fleet: Fleet, node: str | None = None, swapping: Collection[str] = ()
    ) -> None:
        with self.assertRaises(OperationRefused) as caught:
            unloads(fleet, "m", node, swapping)
        self.assert_refused(words, caught.exception)

    def test_where(self) -> None:
        """It goes from the node that is named, or from all that have it, in use or not."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}, "cyd": {"m": LOADED}})
        fleet.grant(replica_on(fleet, "cyd", "m"), "request", 1)

        assert ["ada", "cyd"] == unloads(fleet)
        assert ["cyd"] == unloads(fleet, node="cyd")

    def test_not_loaded(self) -> None:
        """What is not loaded cannot go."""
        fleet = fleet_of({"ada": {"m": UNLOADED}, "bob": {"m": LOADING}})

        self.assert_no_unload("model 'm' is not loaded on any node", fleet)
        self.assert_no_unload("model 'm' is not loaded on bob", fleet, "bob")

    def test_pinned(self) -> None:
        """What is pinned stays until it is unpinned, and how to do that is told."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": LOADED}}, pinned={"bob": ("m",)})

        self.assert_no_unload(
            "model 'm' is pinned on bob; run `cortexctl unpin m --node bob` first", fleet
        )
        assert ["ada"] == unloads(fleet, node="ada")

    def test_unmanaged(self) -> None:
        """What a node has that loads and unloads as it likes stays; what others have goes."""
        listings = {"ada": {"m": LOADED}, "bob": {"m": LOADED}}

        self.assert_no_unload(
            "model 'm' is loaded on ada, which loads and unloads models by itself",
            fleet_of(listings, unmanaged=("ada",)),
            "ada",
        )
        assert ["bob"] == unloads(fleet_of(listings, unmanaged=("ada",)))

    def test_stuck(self) -> None:
        """What is stuck stays, for it could never come back."""
        self.assert_no_unload(
            "model 'm' is stuck on ada: after an unload it could not be loaded again until the "
            "node is restarted",
            fleet_of({"ada": {"m": STUCK}}),
        )

    def test_swapping(self) -> None:
        """A node that is changing models is left to end that, also where it is this one's end."""
        fleet = fleet_of({"ada": {"m": LOADED}})
        fleet.begin(replica_on(fleet, "ada", "m"), DRAIN, 1)

        self.assert_no_unload(
            "a model is being loaded or unloaded on ada; try again after that "
            "(`cortexctl events -f` shows when)",
            fleet,
            swapping=["ada"],
        )

    def test_silent_node(self) -> None:
        """A node that does not answer can unload nothing; the others can."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": LOADED}})
        fleet.fail("ada", REFUSED, 1)
        assert ["bob"] == unloads(fleet)

        fleet.fail("bob", REFUSED, 1)
        self.assert_no_unload(
            "model 'm' is loaded only on nodes that do not answer: ada: connection refused; "
            "bob: connection refused",
            fleet,
        )

    def test_cordoned_node(self) -> None:
        """A cordon keeps nobody from emptying a node."""
        fleet = fleet_of({"ada": {"m": LOADED}})
        fleet.set_cordon(fleet.nodes["ada"], cordoned=True)

        assert ["ada"] == unloads(fleet)


class PinTests(RefusalTestCase):
    def assert_no_pin(
        self, words: str, fleet: Fleet, model: str = "m", pinned: bool = True
    ) -> None:
        with self.assertRaises(OperationRefused) as caught:
            check_pin(fleet, fleet.nodes["ada"], model, pinned)
        self.assert_refused(words, caught.exception)

    def test_change(self) -> None:
        """A pin that changes something is taken."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, pinned={"ada": ("a",)})

        check_pin(fleet, fleet.nodes["ada"], "m", pinned=True)
        check_pin(fleet, fleet.nodes["ada"], "a", pinned=False)

    def test_no_change(self) -> None:
        """A pin that is there already, or the end of one that is not, is told as what it is."""
        fleet = fleet_of({"ada": {"m": UNLOADED, "a": LOADED}}, pinned={"ada": ("a",)})

        self.assert_no_pin("model 'a' is already pinned on ada", fleet, "a")
        self.assert_no_pin("model 'm' is not pinned on ada", fleet, pinned=False)

    def test_unpin_what_is_not_listed(self) -> None:
        """A pin can be ended though its model is gone, but not made."""
        fleet = fleet_of({"ada": {}, "bob": {"m": LOADED}}, pinned={"ada": ("a",)})

        check_pin(fleet, fleet.nodes["ada"], "a", pinned=False)
        self.assert_no_pin("node ada does not list model 'm'; bob does", fleet)

    def test_unmanaged(self) -> None:
        """A node that loads and unloads as it likes has nothing pinned; what is can be unpinned."""
        listings = {"ada": {"m": LOADED, "n": LOADED}}
        fleet = fleet_of(listings, unmanaged=("ada",), pinned={"ada": ("n",)})

        self.assert_no_pin(
            "no model can be pinned on ada: it loads and unloads models by itself", fleet
        )
        check_pin(fleet, fleet.nodes["ada"], "n", pinned=False)

    def test_too_much(self) -> None:
        """What is pinned must fit together, to the last MiB."""
        for size, fits in ((14_000, True), (14_001, False)):
            fleet = fleet_of(
                {"ada": {"m": UNLOADED, "a": UNLOADED}},
                sizes={"m": size, "a": 10_000},
                pinned={"ada": ("a",)},
            )
            if fits:
                check_pin(fleet, fleet.nodes["ada"], "m", pinned=True)
            else:
                self.assert_no_pin(
                    "model 'm' needs 14001 MiB, but the models pinned on ada take 10000 of its "
                    "24000 MiB; unpin one of them first",
                    fleet,
                )

    def test_too_many(self) -> None:
        """Where the number of loaded models is limited, no more than that can be pinned."""
        fleet = fleet_of(
            {"ada": {"m": UNLOADED, "a": LOADED}}, max_resident=1, pinned={"ada": ("a",)}
        )

        self.assert_no_pin(
            "max_resident of ada is 1, and as many models are pinned there; "
            "unpin one of them first",
            fleet,
        )
