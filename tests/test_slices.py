from collections.abc import Iterator

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.slices import in_slices


class SliceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.done = 0

    def steps(self, count: int) -> Iterator[int]:
        for number in range(count):
            self.done += 1
            yield number

    def test_little_work_is_done_at_once(self) -> None:
        """It ends in the turn in which it began."""
        working = Deferred.fromCoroutine(in_slices(self.steps(9), self.clock, 10))
        assert list(range(9)) == self.successResultOf(working)

    def test_much_work_has_several_turns(self) -> None:
        """None of them does more than it may, and the results keep their order."""
        working = Deferred.fromCoroutine(in_slices(self.steps(25), self.clock, 10))
        turns = [self.done]
        while not working.called:
            # A Clock would go on with all that is due, in one call.
            (call,) = self.clock.calls
            self.clock.calls.clear()
            call.func(*call.args, **call.kw)
            turns.append(self.done)
        assert [10, 20, 25] == turns
        assert list(range(25)) == self.successResultOf(working)

    def test_cancelled_work_ends(self) -> None:
        """Nothing is left behind."""
        working = Deferred.fromCoroutine(in_slices(self.steps(100), self.clock, 10))
        working.cancel()
        self.failureResultOf(working).trap(CancelledError)
        assert (10, []) == (self.done, self.clock.getDelayedCalls())
