"""Large requests, one at a time: each has the other process for itself until it is translated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from cortexd.bulk.frames import Parcel
from cortexd.bulk.process import Crashed, Helper
from cortexd.errors import CortexError, Overloaded, internal_error
from cortexd.logs import get_logger
from cortexd.store.worker import Worker

JOB_SECONDS: Final = 60.0
"""The longest time for one job: the largest bodies take some 3 s on a slow machine."""

MAX_WAITING: Final = 64
RETRY_SECONDS: Final = 5.0

log = get_logger("cortexd.bulk")


class Translator(Service):
    """Has a ``helper`` work on large requests, in the thread of ``worker``."""

    name = "translator"

    def __init__(self, helper: Helper, worker: Worker, clock: IReactorTime) -> None:
        self._helper = helper
        self._worker = worker
        self._clock = clock
        self._lock = DeferredLock()

    def reconfigure(self, most_bytes: int) -> None:
        """Take bodies up to another length from now on."""
        self._helper.reconfigure(most_bytes)

    def startService(self) -> None:
        """Begin to accept requests."""
        super().startService()
        self._worker.start()

    def stopService(self) -> None:
        """End the other process, also in the middle of a job."""
        super().stopService()
        self._helper.end()
        self._worker.stop()
        self._helper.close()

    @asynccontextmanager
    async def visit(self, request_id: str) -> AsyncIterator[Visit]:
        """Wait until no other request is worked on, and then work on one.

        Cancelling leaves the queue. Raises Overloaded where too many requests wait.
        """
        if len(self._lock.waiting) >= MAX_WAITING:
            raise Overloaded(
                "too many large requests and answers wait to be translated",
                retry_after=RETRY_SECONDS,
            )
        await self._lock.acquire()
        visit = Visit(self._helper, self._worker, self._clock, request_id)
        try:
            yield visit
        finally:
            visit.leave().addBoth(lambda _: self._lock.release())


class Visit:
    """The work on one request."""

    def __init__(
        self, helper: Helper, worker: Worker, clock: IReactorTime, request_id: str
    ) -> None:
        self._helper = helper
        self._worker = worker
        self._clock = clock
        self._request_id = request_id
        self._last: Deferred[None] | None = None

    async def do(self, job: Callable[..., Any], *arguments: object) -> Any:
        """Do one job, with the texts of parcels; see ``cortexd.bulk.jobs``. Raises CortexError.

        Cancelling does not end the job, but the next request waits for its end.
        """
        timer = self._clock.callLater(JOB_SECONDS, self._helper.end)
        ended: Deferred[None] = Deferred()
        answered: Deferred[Any] = Deferred()
        self._last = ended

        def take(result: Any) -> None:
            if timer.active():
                timer.cancel()
            ended.callback(None)
            if not answered.called:
                answered.callback(result)

        self._worker.run(partial(self._work, job, arguments)).addBoth(take)
        try:
            return await answered
        except (CortexError, CancelledError):
            raise
        except Crashed as crash:
            request_id = self._request_id
            log.error("translation_crashed", request_id=request_id, traceback=str(crash))  # noqa: TRY400 - the traceback is of the other process
            raise internal_error(request_id) from None

    def _work(self, job: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        given = [each.take() if isinstance(each, Parcel) else each for each in arguments]
        return self._helper.do(job, given)

    def leave(self) -> Deferred[None]:
        """Take the request off the desk; the Deferred fires once the next one may come."""
        left: Deferred[None] = Deferred()

        def clear(_: object) -> None:
            self._worker.run(self._helper.clear).addBoth(lambda _: left.callback(None))

        if self._last is None:
            left.callback(None)
        elif self._last.called:
            clear(None)
        else:
            self._last.addBoth(clear)
        return left
