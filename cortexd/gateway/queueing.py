"""A request that waits for a replica, and its client meanwhile.

A client that takes a stream gets its status and the dialect's keep-alives once ``hold`` seconds
are over, so that neither the client nor a proxy before us gives up while a model is loaded. A
client that wants a whole answer gets nothing before it, so that an error can still have its own
status.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.dialects.wire.exchange import Responder
from cortexd.downstream.response import Downstream
from cortexd.errors import CortexError, internal_error
from cortexd.gateway.patience import Patience, Verdict, Wait, due, verdict
from cortexd.logs import get_logger
from cortexd.scheduling.events import Grant
from cortexd.telemetry.accounting import RequestRecord

log = get_logger("cortexd.queueing")


class Queued:
    """One request in the queue: the ``record`` has when it came; its stream gets ``headers``.

    ``words`` returns a line about the wait for a client to see, empty if it shall see none.
    """

    def __init__(
        self,
        acquiring: Deferred[Grant],
        responder: Responder,
        downstream: Downstream,
        record: RequestRecord,
        patience: Patience,
        clock: IReactorTime,
        headers: dict[str, str],
        words: Callable[[], str] = str,
    ) -> None:
        self._acquiring: Deferred[Any] = acquiring
        self._responder = responder
        self._downstream = downstream
        self._record = record
        self._clock = clock
        self._headers = headers
        self._words = words
        self._wait = Wait(patience, record.started_at, responder.streams, record.signed_at)
        self._failure: CortexError | None = None
        self._timer: IDelayedCall | None = None

    async def granted(self) -> Grant:
        """Return the lease once there is one. Raises the CortexError that ends the wait.

        Cancelling leaves the queue.
        """
        self._rearm()
        try:
            grant: Grant = await self._acquiring
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
        return grant

    def fail(self, error: CortexError) -> None:
        """End the wait with this error."""
        self._failure = error
        self._acquiring.cancel()

    def _rearm(self) -> None:
        when = due(self._wait)
        if when < inf:
            delay = max(0.0, when - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        if verdict(self._wait, now) is Verdict.SIGN_DUE:
            self._give_sign(now)
        else:
            self._rearm()

    def _give_sign(self, now: float) -> None:
        try:
            elapsed, words = now - self._wait.began_at, self._words()
            waiting = self._responder.waiting
            sign = waiting(elapsed, words) if words else waiting(elapsed)
        except Exception:
            log.exception("responder_crashed", request_id=self._record.request_id)
            self.fail(internal_error(self._record.request_id))
            return
        self._wait.wrote_at = self._record.signed_at = now
        self._rearm()
        if not self._downstream.started:
            self._downstream.begin(self._responder.content_type, self._headers)
        self._downstream.write(sign)
