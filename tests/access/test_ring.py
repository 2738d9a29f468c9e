"""All keys of the gateway."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.keys import Key
from cortexd.access.ring import KeyRing


class KeyRingTests(SynchronousTestCase):
    def test_without_a_file_no_key_is_required(self) -> None:
        """A file without keys requires one that nobody has."""
        assert not KeyRing(None).is_required
        assert KeyRing([]).is_required

    def test_a_rotated_key_is_found_by_both_ids(self) -> None:
        """The former one ends at its own time, and not after the key itself."""
        key = Key("a", "new", "h2", former_id="old", former_hash="h1", former_until=50.0)
        ring = KeyRing([key])

        assert ring.find("new") == (key, "h2", None)
        assert ring.find("old") == (key, "h1", 50.0)
        assert ring.find("other") is None

        brief = Key("a", "n", "h", expires=9.0, former_id="o", former_hash="g", former_until=50.0)
        assert KeyRing([brief]).find("o") == (brief, "g", 9.0)

    def test_a_replaced_key_is_gone(self) -> None:
        """The generation shows that what was learned of the keys is out of date."""
        ring = KeyRing([Key("a", "1", "h")])
        before = ring.generation
        ring.take([Key("b", "2", "h")])

        assert ring.generation > before
        assert list(ring.keys) == ["b"]
        assert ring.find("1") is None
        assert ring.caller("b").name == "b"

    def test_the_same_keys_replace_nothing(self) -> None:
        """A reload that changes no key lets all that was learned of them stand."""
        ring = KeyRing([Key("a", "1", "h")])
        before = ring.generation
        ring.take([Key("a", "1", "h")])
        assert ring.generation == before
        ring.take(None)
        assert ring.generation > before
        assert not ring.is_required
