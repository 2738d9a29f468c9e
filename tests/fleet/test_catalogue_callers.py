"""The catalogue for callers whose keys allow some models only."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import Caller, caller_with
from cortexd.access.keys import Key
from cortexd.access.sight import HIDDEN
from cortexd.errors import CortexError, Forbidden, ModelNotFound, ModelNotLoaded
from cortexd.fleet.catalogue import DEFAULT, Catalogue
from cortexd.fleet.states import ReplicaState
from tests.support.nodes import LOADED, UNLOADED, fleet_of

MODELS = {"org/z": LOADED, "org/a": UNLOADED, "lab/m": LOADED}
ALIASES = {"quick": "org/a", "small": "lab/m"}
NAMES = ("a", "b", "ab", "b/a", "a.b", DEFAULT)


def limited(*models: str) -> Caller:
    return caller_with(Key("alice", "id", "hash", models=models))


def catalogue_of(
    models: Mapping[str, ReplicaState] = MODELS,
    aliases: Mapping[str, str] = ALIASES,
    named: Sequence[str] = (),
) -> Catalogue:
    return Catalogue(fleet_of({"ada": models}), aliases, named)


def outcome(catalogue: Catalogue, name: str, caller: Caller) -> str | CortexError:
    try:
        return catalogue.resolve(name, caller)
    except CortexError as error:
        return error


class AllowedTests(SynchronousTestCase):
    def test_by_any_of_its_names(self) -> None:
        """A model whose alias is allowed is there under all of its names."""
        catalogue, caller = catalogue_of(), limited("quick", "lab/*")

        found = [catalogue.resolve(name, caller) for name in ("quick", "org/a", "small", "lab/m")]
        assert ["org/a", "org/a", "lab/m", "lab/m"] == found
        assert ["lab/m", "org/a"] == list(filter(catalogue.sight(caller), catalogue.ids))

    def test_a_name_of_no_model(self) -> None:
        """It is unknown where the key would allow it, and not allowed where it would not."""
        catalogue = catalogue_of()
        with self.assertRaises(ModelNotFound):
            catalogue.resolve("lab/none", limited("lab/*"))
        with self.assertRaises(Forbidden):
            catalogue.resolve("lab/none", limited("org/*"))

    def test_not_allowed(self) -> None:
        """The refusal is the same whether there is such a model or not."""
        catalogue, caller = catalogue_of(), limited("org/z")
        words = []
        for name in ("lab/m", "small", "lab/none"):
            error = outcome(catalogue, name, caller)
            assert isinstance(error, Forbidden)
            assert (403, "model") == (error.status, error.param)
            words.append(error.message.replace(name, "NAME"))
        assert [
            "the key 'alice' may not use model 'NAME'; GET /v1/models lists the models that it may "
            "use"
        ] * 3 == words

    def test_looking_for_a_hidden_one(self) -> None:
        """It is as unknown as a model that no node lists."""
        catalogue, caller = catalogue_of(named=["lab/m"]), limited("org/z")
        words = set()
        for name in ("lab/m", "small", "lab/none"):
            with self.assertRaises(ModelNotFound) as caught:
                catalogue.entry(name, caller)
            words.add(caught.exception.message.replace(name, "NAME"))
        assert {"no node lists model 'NAME'; GET /v1/models lists the models"} == words

    def test_default(self) -> None:
        """It is one of the allowed models, whatever its alias and the preferred models are."""
        catalogue = catalogue_of(aliases={**ALIASES, DEFAULT: "lab/m"}, named=["lab/m"])
        assert "lab/m" == catalogue.resolve(DEFAULT)
        assert "org/z" == catalogue.resolve(DEFAULT, limited("org/*"))
        assert "org/z" == catalogue.default(lambda replica: True, limited("org/*"))
        with self.assertRaises(ModelNotLoaded):
            catalogue.resolve(DEFAULT, limited("org/a"))

    def test_an_alias_that_is_an_id_of_another(self) -> None:
        """It means that model, so that allowing it does not show the one behind the alias."""
        catalogue = catalogue_of({"x": LOADED, "y": LOADED}, {"x": "y"})
        assert ["x"] == list(filter(catalogue.sight(limited("x")), catalogue.ids))
        assert () == catalogue.entry("y", limited("y")).aliases

    def test_words_of_a_node(self) -> None:
        """Other models are taken out of them; its own, and all of them without a limit, stay."""
        catalogue = catalogue_of()
        words = "'org/z' is not available. Available models: lab/m, org/z, small."
        shown = words.replace("lab/m", HIDDEN).replace("small", HIDDEN)
        assert shown == catalogue.concealed(words, limited("org/*"))
        assert words == catalogue.concealed(words, limited("*"))

    @given(
        st.dictionaries(st.sampled_from(NAMES[:-1]), st.sampled_from([LOADED, UNLOADED])),
        st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES[:-1])),
        st.lists(st.sampled_from(["a", "b*", "*b", "[!a]*", "a.b", DEFAULT]), max_size=2),
        st.lists(st.sampled_from(NAMES[:-1]), max_size=2),
    )
    def test_nothing_names_a_hidden_model(
        self,
        models: Mapping[str, ReplicaState],
        aliases: Mapping[str, str],
        globs: Sequence[str],
        named: Sequence[str],
    ) -> None:
        """For all catalogues and globs: what is found is allowed, and no text names another."""
        catalogue, caller = catalogue_of(models, aliases, named), limited(*globs)
        is_there = catalogue.sight(caller)
        for model in models:
            names = {model, *(name for name in aliases if catalogue.target(name) == model)}
            assert is_there(model) == any(fnmatchcase(n, glob) for n in names for glob in globs)
        for name in (*NAMES, "unknown"):
            found = outcome(catalogue, name, caller)
            if isinstance(found, str):
                assert is_there(found)
                entry = catalogue.entry(name, caller)
                assert found == entry.id
                assert all(catalogue.target(alias) == found for alias in entry.aliases)
                continue
            others = [m for m in models if not is_there(m) and m != name]
            assert not [other for other in others if repr(other) in found.message]
        hidden = [model for model in models if not is_there(model)]
        shown = catalogue.concealed("; ".join(map(repr, models)), caller)
        assert not [model for model in hidden if repr(model) in shown]
