"""A request that waits for a replica, and its client meanwhile.

A client that takes a stream gets its status and the dialect's sign of life once ``hold`` seconds
are over, so that neither it nor a proxy before us gives up while a model is loaded. One that
wants a whole answer gets nothing before it, and can still be told an error with its own status.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.dialects.wire.exchange import Responder
from cortexd.downstream.response import Downstream
from cortexd.errors import CortexError, internal_error
from cortexd.logs import get_logger
from cortexd.scheduling.events import Grant
from cortexd.telemetry.accounting import RequestRecord

log = get_logger("cortexd.queueing")


class Queued:
    """One such request: the ``record`` says when it came, and its stream wears ``headers``.

    ``hold`` and ``keepalive`` are in seconds, as in ``cortexd.gateway.attempt.Patience``.
    """

    def __init__(
        self,
        acquiring: Deferred[Grant],
        responder: Responder,
        downstream: Downstream,
        record: RequestRecord,
        clock: IReactorTime,
        headers: dict[str, str],
        *,
        hold: float,
        keepalive: float,
    ) -> None:
        self._acquiring: Deferred[Any] = acquiring
        self._responder = responder
        self._downstream = downstream
        self._record = record
        self._clock = clock
        self._headers = headers
        self._hold = hold
        self._keepalive = keepalive
        self._failure: CortexError | None = None
        self._timer: IDelayedCall | None = None

    async def granted(self) -> Grant:
        """Return the lease once there is one. Raises the CortexError that ends the wait.

        Cancelling leaves the queue.
        """
        if self._responder.streams:
            held = self._clock.seconds() - self._record.started_at
            self._rearm(max(0.0, self._hold - held))
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

    def _rearm(self, delay: float) -> None:
        self._timer = self._clock.callLater(delay, self._give_sign)

    def _give_sign(self) -> None:
        now = self._clock.seconds()
        try:
            sign = self._responder.waiting(now - self._record.started_at)
        except Exception:
            log.exception("responder_crashed", request_id=self._record.request_id)
            self.fail(internal_error(self._record.request_id))
            return
        self._rearm(self._keepalive)
        if not self._downstream.started:
            self._downstream.begin(self._responder.content_type, self._headers)
        self._downstream.write(sign)
        self._record.signed_at = now
