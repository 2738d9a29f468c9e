"""What was found out about the keys that clients sent."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import ANYBODY
from cortexd.access.verdicts import MOST_WRONG, WRONG, Verdict, Verdicts


class VerdictsTests(SynchronousTestCase):
    def test_a_flood_of_wrong_keys(self) -> None:
        """The oldest wrong ones are forgotten, the right ones never."""
        verdicts = Verdicts()
        right = verdicts.digest("right")
        verdicts.learn(right, Verdict(ANYBODY))
        digests = [verdicts.digest(f"wrong {i}") for i in range(MOST_WRONG + 1)]
        for digest in digests:
            verdicts.learn(digest, WRONG)

        assert verdicts.find(right) == Verdict(ANYBODY)
        assert verdicts.find(digests[0]) is None
        assert verdicts.find(digests[1]) is WRONG

    def test_digests(self) -> None:
        """They differ from key to key and from process to process, and have no part of the key."""
        one, other = Verdicts(), Verdicts()
        assert one.digest("a") == one.digest("a")
        assert len({one.digest("a"), one.digest("b"), other.digest("a")}) == 3

    def test_nothing_is_left(self) -> None:
        """After other keys came, each key is looked at anew."""
        verdicts = Verdicts()
        digest = verdicts.digest("a")
        verdicts.learn(digest, WRONG)
        verdicts.forget()
        assert verdicts.find(digest) is None
