"""The queue before the process that translates large bodies."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.bulk import jobs
from cortexd.bulk.translator import JOB_SECONDS, MAX_WAITING, Translator, Visit
from cortexd.errors import InternalError, Overloaded
from tests.support.bulk import InlineHelper
from tests.support.stores import HeldWorker


class TranslatorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.helper = InlineHelper()
        self.worker = HeldWorker()
        self.translator = Translator(self.helper, self.worker, self.clock)
        self.translator.startService()
        self.worker.is_held = True

    def call(self, function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        """Visit the translator and call a function there."""

        async def work() -> Any:
            async with self.translator.visit("req_1") as visit:
                return await visit.do(jobs.call, function, *arguments)

        return Deferred.fromCoroutine(work())

    def test_one_request_at_a_time(self) -> None:
        """The next has the desk once the first has left it."""
        seen: list[str] = []

        async def work(name: str) -> None:
            async with self.translator.visit(name) as visit:
                for _ in range(2):
                    await visit.do(jobs.call, len, "a")
                    seen.append(name)

        for name in ("first", "second"):
            Deferred.fromCoroutine(work(name)).addErrback(self.fail)
        self.worker.release()

        assert ["first", "first", "second", "second"] == seen
        assert [] == self.clock.getDelayedCalls()

    def test_a_client_that_leaves_the_queue_is_not_worked_for(self) -> None:
        """And the next one is."""
        working, waiting, next_one = (self.call(len, "a" * n) for n in (1, 2, 3))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.worker.release()

        assert (1, 3) == (self.successResultOf(working), self.successResultOf(next_one))
        assert 2 == self.helper.jobs.count("call")

    def test_a_client_that_leaves_during_its_job_does_not_pull_the_desk_away(self) -> None:
        """The job goes on to its end, and only then the next one begins."""
        leaving, next_one = self.call(len, "a"), self.call(len, "aa")
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        assert [] == self.helper.jobs
        self.worker.release()

        assert 2 == self.successResultOf(next_one)
        assert [] == self.clock.getDelayedCalls()

    def test_a_job_without_end_is_ended(self) -> None:
        """The process is killed, so that its job fails."""
        working = self.call(len, "a")
        self.clock.advance(JOB_SECONDS)
        assert 1 == self.helper.ends
        self.worker.release()
        self.successResultOf(working)

    def test_the_queue_has_a_limit(self) -> None:
        """A request beyond it is refused with a time to retry."""
        waiting = [self.call(len, "a") for _ in range(MAX_WAITING + 1)]
        refused = self.failureResultOf(self.call(len, "a"), Overloaded).value
        assert refused.retry_after is not None
        for each in waiting[3:]:  # the double of the thread would nest as many jobs
            each.addErrback(lambda failure: None)
            each.cancel()
        self.worker.release()

        assert [1, 1, 1] == [self.successResultOf(each) for each in waiting[:3]]

    def test_a_mistake_of_ours_is_logged_and_not_sent(self) -> None:
        """The client gets the request's id; the traceback is in the log."""
        self.worker.release()
        error = self.failureResultOf(self.call(len, 1), InternalError).value

        assert "req_1" in error.message
        assert "TypeError" not in error.message

    def test_a_stop_ends_the_process_at_once(self) -> None:
        """Also in the middle of a job."""
        working = self.call(len, "a")
        self.worker.release()
        self.translator.stopService()
        self.successResultOf(working)

        assert 1 == self.helper.ends

    def test_leaving_without_a_job_frees_the_desk(self) -> None:
        """A request can fail before its first job."""

        async def nothing() -> Visit:
            async with self.translator.visit("req_1") as visit:
                return visit

        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(nothing()))
