"""`python -m bench.estimates` for an hour of virtual time."""

from twisted.trial.unittest import SynchronousTestCase

from bench.estimates.telling import share_near, tell
from bench.simulator.traces import TRACES, Size


class EstimateTests(SynchronousTestCase):
    def test_nine_loads_of_ten_are_told_within_a_fifth(self) -> None:
        """What a load takes is told as it begins, and so is a wait for one that has begun."""
        record, world = tell(TRACES["zipf"](Size(hours=1.5)), seed=3)

        assert len(record.loads) > 100
        assert world.warm > 10
        assert share_near(record.loads) >= 0.9
        assert share_near(each for each in record.waits if each.is_begun) >= 0.9
