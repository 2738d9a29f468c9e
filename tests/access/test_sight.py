from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import ANYBODY, NOBODY, caller_with
from cortexd.access.keys import Key, Scope
from cortexd.access.sight import HIDDEN, is_limited, owns, without_names


def key(name: str, *models: str, scopes: frozenset[Scope] = frozenset((Scope.INFER,))) -> Key:
    return Key(name, "id", "hash", models=models or ("*",), scopes=scopes)


ALICE, BOB = caller_with(key("alice")), caller_with(key("bob"))
OPERATOR = caller_with(key("ops", scopes=frozenset((Scope.CONTROL,))))


class SightTests(SynchronousTestCase):
    def test_limited_callers(self) -> None:
        """Models can be hidden only from a key that does not allow all of them."""
        callers = [ANYBODY, NOBODY, ALICE, caller_with(key("x", "a*")), caller_with(key("y"))]
        assert [False, False, False, True, False] == [is_limited(caller) for caller in callers]

    def test_owners(self) -> None:
        """A key owns what it stored; what was stored without keys also goes to operators' keys."""
        callers = {"anybody": ANYBODY, "alice": ALICE, "bob": BOB, "ops": OPERATOR}
        owning = {
            owner: [name for name, caller in callers.items() if owns(caller, owner)]
            for owner in ("", "alice", "bob", "ops")
        }

        assert {
            "": ["anybody", "ops"],
            "alice": ["alice"],
            "bob": ["bob"],
            "ops": ["ops"],
        } == owning

    def test_names_in_a_text(self) -> None:
        """A name goes where it is a word, and stays within a longer name."""
        text = "model 'a/b' is not a/b-c, a/b:x or x.a/b; see a/b."
        shown = f"model '{HIDDEN}' is not a/b-c, a/b:x or x.a/b; see {HIDDEN}."

        assert shown == without_names(text, ["a/b"])

    @given(st.lists(st.text("ab/.-:", min_size=1, max_size=4), max_size=4))
    def test_no_quoted_name_stays(self, names: list[str]) -> None:
        """Whatever the names are, none stands in quotes or in a list any more."""
        text = f"models are: {', '.join(names)}; " + "; ".join(map(repr, names))
        shown = without_names(text, names)

        assert not [name for name in names if repr(name) in shown or f" {name}," in shown]
