"""What was found out about the keys that clients sent."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import ANYBODY
from cortexd.access.keys import Key
from cortexd.access.ring import KeyRing
from cortexd.access.verdicts import (
    DIGEST_BYTES,
    MOST_WRONG,
    WRONG,
    Verdict,
    Verdicts,
    verdict_on,
)


class VerdictsTests(SynchronousTestCase):
    def test_a_flood_of_wrong_keys(self) -> None:
        """The oldest wrong ones are forgotten, the right ones never."""
        verdicts = Verdicts()
        right = verdicts.digest(b"right")
        verdicts.learn(right, Verdict(ANYBODY))
        digests = [verdicts.digest(b"wrong %d" % i) for i in range(MOST_WRONG + 1)]
        for digest in digests:
            verdicts.learn(digest, WRONG)

        assert verdicts.find(right) == Verdict(ANYBODY)
        assert verdicts.find(digests[0]) is None
        assert verdicts.find(digests[1]) is WRONG

    def test_digests(self) -> None:
        """They differ from key to key and from process to process, and have no part of the key."""
        one, other = Verdicts(), Verdicts()
        assert one.digest(b"a") == one.digest(b"a")
        assert len({one.digest(b"a"), one.digest(b"b"), other.digest(b"a")}) == 3

    def test_other_keys(self) -> None:
        """Keys that are as they were stay right; revoked and wrong ones are looked at anew."""
        ring = KeyRing([Key("a", "1", "h"), Key("b", "2", "i")])
        verdicts = Verdicts()
        for key_id, key_hash in (("1", "h"), ("2", "i")):
            verdicts.learn(verdicts.digest(key_id.encode()), verdict_on(key_id, key_hash, ring))
        verdicts.learn(verdicts.digest(b"x"), WRONG)
        rotated = Key("a", "3", "j", former_id="1", former_hash="h", former_until=9.0)
        ring.take([rotated])
        verdicts.follow(ring)

        former = Verdict(ring.caller("a"), "1", "h", 9.0, is_former=True)
        assert former == verdicts.find(verdicts.digest(b"1"))
        assert verdicts.find(verdicts.digest(b"2")) is None
        assert verdicts.find(verdicts.digest(b"x")) is None

    def test_the_verdict_on_a_hash(self) -> None:
        """A key whose entry is gone, or has another hash by now, is wrong."""
        ring = KeyRing([Key("a", "1", "h", expires=5.0)])
        assert Verdict(ring.caller("a"), "1", "h", 5.0) == verdict_on("1", "h", ring)
        assert WRONG is verdict_on("1", "other", ring)
        assert WRONG is verdict_on("2", "h", ring)


class SuccessionTests(SynchronousTestCase):
    """What a process finds out goes to the next one."""

    def setUp(self) -> None:
        self.keys = [Key("a", "1", "h"), Key("b", "2", "i")]
        self.old = Verdicts()
        ring = KeyRing(self.keys)
        for each in self.keys:
            digest = self.old.digest(each.name.encode())
            self.old.learn(digest, verdict_on(each.id, each.hash, ring))
        self.old.learn(self.old.digest(b"x"), WRONG)

    def test_right_keys(self) -> None:
        """The next process, and the one after it, know them at once; wrong ones they do not."""
        proven, ring = self.old.proven(), KeyRing(self.keys)
        for _ in range(2):
            new = Verdicts()
            new.adopt(proven, ring)
            for each in self.keys:
                found = new.find(new.digest(each.name.encode()))
                assert found == Verdict(ring.caller(each.name), each.id, each.hash)
            assert new.find(new.digest(b"x")) is None
            proven = new.proven()

    def test_keys_that_changed_meanwhile(self) -> None:
        """An entry with another hash or id proves nothing; a rotated one is known as the former."""
        rotated = Key("b", "3", "j", former_id="2", former_hash="i", former_until=9.0)
        for ring, found in (
            (KeyRing([Key("a", "1", "other"), Key("b", "4", "i")]), [None, None]),
            (KeyRing([rotated]), [None, "2"]),
            (KeyRing(None), [None, None]),
        ):
            new = Verdicts()
            new.adopt(self.old.proven(), ring)
            verdicts = [new.find(new.digest(name)) for name in (b"a", b"b")]
            assert found == [verdict and verdict.id for verdict in verdicts]

    def test_what_is_handed_over_has_no_hash(self) -> None:
        """Neither a key nor its hash goes along, and its repr shows nothing."""
        proven = self.old.proven()
        assert all(len(part) == DIGEST_BYTES for pair in proven.keys for part in pair)
        assert "Proven()" == repr(proven)
