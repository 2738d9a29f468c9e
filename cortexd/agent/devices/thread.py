"""A thread for calls of a driver, which may hang for ever.

The reactor's own threads are waited for when it stops, so a call that hangs there would prevent the
agent's end. This thread is a daemon: the process ends without it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Hangs(Exception):
    """Raised when an earlier call has not returned yet, or this one does not within its limit."""


class DriverThread(Generic[T]):
    """Makes one call at a time, each with a limit in seconds."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_busy = False

    def call(self, function: Callable[[], T], limit: float) -> Deferred[T]:
        """Return what a function returns, or fail as it does. Fails with Hangs after the limit."""
        result: Deferred[T] = Deferred(lambda _: None)
        if self._is_busy:
            result.errback(Hangs("an earlier call of the driver has not returned"))
            return result
        self._is_busy = True

        def work() -> None:
            outcome: T | Failure
            try:
                outcome = function()
            except Exception:
                outcome = Failure()
            self._reactor.callFromThread(done, outcome)

        def done(outcome: T | Failure) -> None:
            self._is_busy = False
            if not result.called:
                result.callback(outcome)

        def timed_out(_: object, seconds: float) -> Any:
            raise Hangs(f"the driver does not answer within {seconds:g} s")

        self._start()
        self._calls.put(work)
        return result.addTimeout(limit, self._reactor, timed_out)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="driver", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            self._calls.get()()
