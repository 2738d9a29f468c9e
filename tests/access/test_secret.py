"""The text of a key and its hash."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.secret import decoy, hashed, id_of, is_hash, matches, new_key

CHEAP = 4


class SecretTests(SynchronousTestCase):
    def test_a_key_matches_its_hash_and_no_other(self) -> None:
        """Each hash has a salt of its own, and none contains the key."""
        key, other = new_key(), new_key()
        one, two = hashed(key, CHEAP), hashed(key, CHEAP)

        assert one != two
        assert matches(key, one)
        assert matches(key, two)
        assert not matches(other, one)
        assert key not in one

    def test_the_id_is_part_of_the_key(self) -> None:
        """An entry is found by it; a text of another shape has none."""
        key = new_key()

        assert id_of(key) == key.split("-")[2]
        assert [None] * 4 == list(map(id_of, ("", "unused", key + "x", key[:-1] + "ä")))

    def test_a_known_hash(self) -> None:
        """The hash is that of RFC 7914 (section 12, the third vector), in the PHC format."""
        known = (
            "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRd"
            "ofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
        )

        assert matches("pleaseletmein", known)
        assert not matches("pleaseletmeout", known)
        with self.assertRaises(ValueError):
            matches("pleaseletmein", "$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA")

    def test_terms_that_would_take_too_much_memory_are_no_hash(self) -> None:
        """A keys file cannot make the daemon take gigabytes."""
        wanted = hashed(new_key(), CHEAP)

        assert is_hash(wanted)
        assert not is_hash(wanted.replace("ln=4", "ln=20"))
        assert not is_hash(wanted.replace("ln=4", "ln=0"))

    @settings(max_examples=50, deadline=None)
    @given(st.text(max_size=120))
    def test_no_text_is_a_fault(self, text: str) -> None:
        """Any text is either a key or not, a hash or not."""
        assert id_of(text) is None
        assert not is_hash(text)

    def test_a_decoy(self) -> None:
        """No key has its hash, and it takes as long to compare as the dearest of the others."""
        dearest, cheapest = hashed(new_key(), CHEAP + 1), hashed(new_key(), CHEAP)
        found = decoy([cheapest, dearest])
        assert found.split("$")[2] == dearest.split("$")[2]
        assert not matches(new_key(), found)
        assert found != decoy([dearest])
        assert is_hash(decoy())
        assert decoy().split("$")[2] == "ln=14,r=8,p=1"
