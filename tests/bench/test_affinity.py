"""The table and the verdict of `python -m bench.affinity`."""

from twisted.trial.unittest import SynchronousTestCase

from bench.affinity.reading import SLACK_MS, missed, table
from tests.live.affinity.agents import Turn


def turn(number: int = 1, *, cached: int = 900, queued_ms: int = 0, node: str = "ada") -> Turn:
    """Return a turn that continues a prompt of 1,000 tokens."""
    return Turn(0, number, 1_500, 1_000 * bool(number), cached, node, queued_ms, "", 0.25)


class VerdictTests(SynchronousTestCase):
    def test_a_tenth_may_be_read_again(self) -> None:
        """Of what is read again without affinity, and not a token more."""
        without = [turn(0, cached=0), turn(cached=0)]
        self.assertEqual([], missed(without, [turn(cached=900)]))
        self.assertIn("10% is read again", missed(without, [turn(cached=899)])[0])

    def test_a_comparison_needs_tokens_that_are_read_again(self) -> None:
        """Without any, the run shows nothing."""
        self.assertIn("nothing is compared", missed([turn(cached=1_000)], [turn()])[0])

    def test_no_queue_may_grow(self) -> None:
        """Beyond what a busy machine adds."""
        without, grown = [turn(cached=0, queued_ms=7)], 7 + SLACK_MS
        self.assertEqual([], missed(without, [turn(queued_ms=grown)]))
        self.assertIn("the queue has grown", missed(without, [turn(queued_ms=grown + 1)])[0])


class TableTests(SynchronousTestCase):
    def test_both_runs_stand_side_by_side(self) -> None:
        """A first turn has sent nothing before, so it reads nothing again."""
        rows = table(
            [turn(0, cached=0), turn(cached=0, node="bob")], [turn(0, cached=0), turn(queued_ms=8)]
        )
        self.assertEqual(["", "without affinity", "with affinity"], rows[0])
        figures = {row[0]: list(row[1:]) for row in rows[1:]}
        self.assertEqual(["1,000", "100"], figures["of these read again"])
        self.assertEqual(["1 / 1", "2"], figures["requests by copy"])
        self.assertEqual(["0 / 0 / 0", "0 / 8 / 8"], figures["queue ms, p50 / p95 / sum"])
