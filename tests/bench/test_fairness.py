"""`python -m bench.lifecycle --fair` for a quarter of an hour of virtual time."""

from twisted.trial.unittest import SynchronousTestCase

from bench.figures import percentile
from bench.simulator.fairness import CASES, LONGEST_ANSWER, Outcome, measure

HOURS = 0.25


def outcomes(*, one_class: bool) -> list[Outcome]:
    return [
        measure(case, HOURS, seed=3)
        for case in CASES
        if (case.victim.requester.priority == case.flood.requester.priority) is one_class
        and case.nodes == 1
        and case.seats <= 4
    ]


class FloodTests(SynchronousTestCase):
    def test_one_class(self) -> None:
        """A flood delays a key of its class by one running answer more, at the 95th percentile."""
        for outcome in outcomes(one_class=True):
            assert outcome.passes, outcome.row()

    def test_interactive_beside_bulk(self) -> None:
        """And no interactive request by more, where each finds its model loaded."""
        for outcome in outcomes(one_class=False):
            assert outcome.passes, outcome.row()
            if percentile(outcome.alone, 1.0) == 0:
                assert max(outcome.beside) <= LONGEST_ANSWER, outcome.row()
