from collections.abc import Mapping, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import CortexError, ModelNotFound, ModelNotLoaded, Overloaded
from cortexd.fleet.catalogue import Catalogue, CatalogueEntry, ModelStatus
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.states import Observation
from tests.support.nodes import (
    DRAIN,
    LOAD,
    LOADED,
    LOADING,
    REFUSED,
    STUCK,
    UNLOAD,
    UNLOADED,
    fleet_of,
    make_fleet,
    replica_on,
)


def make_catalogue(
    fleet: Fleet, aliases: Mapping[str, str] | None = None, named: Sequence[str] = ()
) -> Catalogue:
    return Catalogue(fleet, aliases or {}, named)


def refusal(catalogue: Catalogue, name: str) -> CortexError:
    try:
        found = catalogue.resolve(name)
    except CortexError as error:
        return error
    raise AssertionError(f"{name} is {found}")


class EntryTests(SynchronousTestCase):
    def test_merged(self) -> None:
        """Each model is there once, sorted by id, with its nodes and its names."""
        catalogue = make_catalogue(
            fleet_of(
                {
                    "ada": {"org/z": LOADED, "org/a": UNLOADED},
                    "bob": {"org/a": LOADED, "org/m": LOADING},
                }
            ),
            aliases={"small": "org/a", "quick": "org/a", "gone": "org/x"},
        )

        assert (
            CatalogueEntry("org/a", ModelStatus.LOADED, ("ada", "bob"), ("quick", "small")),
            CatalogueEntry("org/m", ModelStatus.LOADING, ("bob",), ()),
            CatalogueEntry("org/z", ModelStatus.LOADED, ("ada",), ()),
        ) == catalogue.entries()
        assert catalogue.entries()[0] == catalogue.entry("quick")

    def test_best_status(self) -> None:
        """A model is as good as its best replica on a node that answers."""
        for states, expected in (
            ((UNLOADED, LOADING, LOADED), ModelStatus.LOADED),
            ((UNLOADED, STUCK), ModelStatus.LOADED),
            ((UNLOADED, LOADING), ModelStatus.LOADING),
            ((UNLOADED, UNLOADED), ModelStatus.UNLOADED),
        ):
            nodes = {f"node{number}": {"m": state} for number, state in enumerate(states)}

            assert expected is make_catalogue(fleet_of(nodes)).entry("m").status

    def test_node_that_went_down(self) -> None:
        """A model whose nodes are all down is listed, as unavailable."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}})
        fleet.fail("ada", REFUSED, 1)
        assert ModelStatus.UNLOADED is make_catalogue(fleet).entry("m").status
        fleet.fail("bob", REFUSED, 1)

        assert (
            CatalogueEntry("m", ModelStatus.UNAVAILABLE, ("ada", "bob"), ()),
        ) == make_catalogue(fleet).entries()

    def test_on_its_way_out(self) -> None:
        """A model that is being given up takes no more requests: it would have to be loaded."""
        for operation in (DRAIN, UNLOAD):
            fleet = fleet_of({"ada": {"m": LOADED}})
            fleet.begin(replica_on(fleet, "ada", "m"), operation, 1)

            assert ModelStatus.UNLOADED is make_catalogue(fleet).entry("m").status

    def test_load_of_ours(self) -> None:
        """A model that is being loaded is so before any poll has seen it."""
        fleet = fleet_of({"ada": {"m": UNLOADED}})
        fleet.begin(replica_on(fleet, "ada", "m"), LOAD, 1)

        assert ModelStatus.LOADING is make_catalogue(fleet).entry("m").status

    def test_cordoned_node(self) -> None:
        """What only a cordoned node has cannot be had."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": UNLOADED}})
        fleet.set_cordon(fleet.nodes["ada"], cordoned=True)
        assert ModelStatus.UNLOADED is make_catalogue(fleet).entry("m").status

        fleet.set_cordon(fleet.nodes["bob"], cordoned=True)
        assert ModelStatus.UNAVAILABLE is make_catalogue(fleet).entry("m").status

    def test_label(self) -> None:
        """Only the ids of listed models become labels of metrics."""
        catalogue = make_catalogue(fleet_of({"ada": {"m": LOADED}}), aliases={"alias": "m"})

        assert ["m", "unknown", "unknown", "unknown"] == [
            catalogue.label(name) for name in ("m", "alias", "made-up", None)
        ]


class ResolveTests(SynchronousTestCase):
    def test_id_and_alias(self) -> None:
        """An id means itself, an alias its model, and an id wins over an alias of its name."""
        catalogue = make_catalogue(
            fleet_of({"ada": {"m": UNLOADED, "n": LOADED}}), aliases={"alias": "m", "n": "m"}
        )

        assert ["m", "m", "n"] == [catalogue.resolve(name) for name in ("m", "alias", "n")]

    def test_default_follows_the_configuration(self) -> None:
        """``default`` is the first loaded model the configuration names, else the first by id."""
        fleet = fleet_of({"ada": {"a": LOADED, "b": LOADED, "c": LOADED, "d": UNLOADED}})

        assert "c" == make_catalogue(fleet, named=["x", "d", "c", "b"]).resolve("default")
        assert "a" == make_catalogue(fleet).resolve("default")
        assert "a" == make_catalogue(fleet, named=["d"]).resolve("default")

    def test_default_as_an_alias(self) -> None:
        """An alias of the name ``default`` says what it means, loaded or not."""
        fleet = fleet_of({"ada": {"a": LOADED, "d": UNLOADED}})

        assert "d" == make_catalogue(fleet, aliases={"default": "d"}).resolve("default")

    def test_default_on_a_node_that_is_down(self) -> None:
        """A model that cannot answer is no default."""
        fleet = fleet_of({"ada": {"a": LOADED}, "bob": {"b": LOADED}})
        fleet.fail("ada", REFUSED, 1)

        assert "b" == make_catalogue(fleet, named=["a"]).resolve("default")

    def test_default_is_not_what_drains(self) -> None:
        """What is on its way out is no default."""
        fleet = fleet_of({"ada": {"a": LOADED, "b": LOADED}})
        fleet.begin(replica_on(fleet, "ada", "a"), DRAIN, 1)

        assert "b" == make_catalogue(fleet, named=["a"]).resolve("default")

    def test_default_where_not_every_node_will_do(self) -> None:
        """It is loaded on a node that will do, or what ``default`` means where there is none."""
        fleet = fleet_of({"ada": {"a": LOADED, "b": LOADED}, "bob": {"a": UNLOADED, "c": LOADED}})

        def default(*nodes: str, **terms: Any) -> str:
            catalogue = make_catalogue(fleet, **terms)
            return catalogue.default(lambda replica: replica.node.name in nodes)

        assert ["a", "c", "a"] == [default("ada", "bob"), default("bob"), default()]
        assert "b" == default("ada", named=["c", "b"])
        for target, expected in (("b", "c"), ("a", "a"), ("none", "c")):
            assert expected == default("bob", aliases={"default": target})
        fleet.begin(replica_on(fleet, "bob", "c"), DRAIN, 1)
        with self.assertRaises(ModelNotLoaded):
            default("bob")

    def test_no_default(self) -> None:
        """Where nothing is loaded ``default`` means nothing, for now."""
        error = refusal(make_catalogue(fleet_of({"ada": {"a": UNLOADED}})), "default")

        assert ModelNotLoaded is type(error)
        assert error.retry_after

    def test_unknown(self) -> None:
        """A name that nobody knows is not found; the error names it and the field."""
        error = refusal(make_catalogue(fleet_of({"ada": {"m": LOADED}})), "org/none")

        assert ModelNotFound is type(error)
        assert "'org/none'" in error.message
        assert "model" == error.param

    def test_alias_of_nothing(self) -> None:
        """An alias whose model is gone is not found, with both names in the error."""
        error = refusal(make_catalogue(fleet_of({"ada": {}}), aliases={"alias": "org/x"}), "alias")

        assert ModelNotFound is type(error)
        assert "'org/x' (requested as 'alias')" in error.message

    def test_model_that_a_silent_node_may_have(self) -> None:
        """A model the configuration names may be on a node that is down: that will pass."""
        fleet = fleet_of({"ada": {"m": LOADED}, "bob": None})
        catalogue = make_catalogue(fleet, aliases={"alias": "org/x"}, named=["org/x"])

        for name in ("org/x", "alias"):
            error = refusal(catalogue, name)
            assert Overloaded is type(error)
            assert "bob" in error.message
            assert "ada" not in error.message
            assert error.retry_after
        assert ModelNotFound is type(refusal(catalogue, "made-up"))

    def test_before_the_first_polls(self) -> None:
        """While a node was not heard of yet, no model is called unknown: that would be final."""
        fleet = make_fleet("ada", "bob")
        fleet.observe("ada", Observation(100, {"m": LOADED}), 0)
        catalogue = make_catalogue(fleet)

        error = refusal(catalogue, "org/x")
        assert Overloaded is type(error)
        assert "bob" in error.message
        assert error.retry_after
        assert "m" == catalogue.resolve("m")
