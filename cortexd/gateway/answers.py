"""The course of each request: it opens a record, is answered or refused, and closes the record.

A stopping gateway refuses new requests, and gives those in progress a grace period.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.wire.envelopes import error_status
from cortexd.dialects.wire.exchange import JSON
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import ClientDownstream, Downstream
from cortexd.errors import CortexError, Overloaded, Unauthenticated, internal_error
from cortexd.logs import get_logger
from cortexd.metering.meters import Meters
from cortexd.telemetry.accounting import Accountant, RequestRecord

OTHER_ROUTE = "other"
PROBE_ROUTES = frozenset({"/", "/health", "/ready"})

log = get_logger("cortexd.gateway")

T = TypeVar("T")


class Answers:
    """Answers requests. ``stop_relayed`` fails the requests that the relay is serving.

    ``meters`` admits each request under the limits of its key.

    While ``is_stopping`` is set, the gateway refuses new requests.
    """

    def __init__(
        self,
        accountant: Accountant,
        clock: IReactorTime,
        stop_relayed: Callable[[CortexError], None],
        meters: Meters,
    ) -> None:
        self._accountant = accountant
        self._clock = clock
        self._stop_relayed = stop_relayed
        self._meters = meters
        self._in_flight = 0
        self.is_stopping = False
        self._is_cut = False
        self._asking: set[Deferred[Any]] = set()
        self._idle: Deferred[None] | None = None

    async def drain(self, grace: float, *, refuses: bool = True) -> None:
        """Wait until the requests in progress have ended; refuse new ones unless told otherwise.

        After ``grace`` seconds the remaining requests fail, each in its own dialect.
        """
        self.is_stopping = refuses
        if self._in_flight:
            log.info("draining", requests=self._in_flight, grace=grace)
            self._idle = Deferred()
            timer = self._clock.callLater(grace, self.cut)
            await self._idle
            if timer.active():
                timer.cancel()

    def cut(self) -> None:
        """Fail every request in progress."""
        log.warning("cutting", requests=self._in_flight)
        self._stop_relayed(_stopping_error())
        self._is_cut = True
        for asking in list(self._asking):
            asking.cancel()

    @property
    def in_flight(self) -> int:
        """How many requests are in progress."""
        return self._in_flight

    def _enter(self) -> None:
        self._in_flight += 1

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0 and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def at_once(
        self,
        request: GatewayRequest,
        route: str,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = JSON,
    ) -> None:
        """Answer a request with a body that is ready."""
        record = self._open(request, route)
        record.status, record.bytes_out = status, len(body)
        request.respond(status, {"Content-Type": content_type}, body)
        self._accountant.close(record, is_probe=route in PROBE_ROUTES)

    async def later(
        self,
        request: GatewayRequest,
        route: str,
        answer: Callable[[RequestRecord, Downstream], Coroutine[Any, Any, None]],
    ) -> None:
        """Await ``answer``, which answers the request.

        The client receives an error that it raises in the client's dialect. Once the response has
        started, an internal error closes the connection instead.
        """
        record = self._open(request, route)
        self._enter()
        downstream = ClientDownstream(request)
        try:
            if self.is_stopping:
                raise _stopping_error()
            request.admission = self._meters.begin(request, route)
            await answer(record, downstream)
        except CancelledError:
            record.client_gone = True
        except CortexError as error:
            self._refuse(request, record, error)
            error.forget_frames()
        except Exception:
            log.exception("request_crashed", request_id=request.request_id)
            record.broken = downstream.started
            if downstream.started:
                downstream.break_off()
            else:
                self._refuse(request, record, internal_error(request.request_id))
        finally:
            record.client_gone = record.client_gone or downstream.gone
            if request.admission is not None:
                self._meters.end(request.admission, record)
            self._accountant.close(record)
            self._leave()

    async def apart(
        self,
        request: GatewayRequest,
        route: str,
        work: Callable[[RequestRecord], Coroutine[Any, Any, None]],
    ) -> CortexError | None:
        """Await ``work`` that goes on after ``request``, which ordered it, was answered.

        It counts as a request of ``route`` in progress, and against the limits of the key in place
        of ``request``. Returns the error that ended it. Raises
        CancelledError.
        """
        request_id = request.request_id
        admission, request.admission = request.admission, None
        record = self._accountant.open(request_id, route, request.client_host, request.caller)
        self._enter()
        try:
            await work(record)
        except CancelledError:
            record.client_gone = True
            raise
        except CortexError as error:
            record.error = error
        except Exception:
            log.exception("request_crashed", request_id=request_id)
            record.error = internal_error(request_id)
        finally:
            if record.error is not None:
                record.status = record.error.status
            if admission is not None:
                self._meters.end(admission, record)
            self._accountant.close(record)
            self._leave()
        return record.error

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Await a node's answer, and cancel the wait when a stopping gateway fails its requests."""
        asking = Deferred.fromCoroutine(question)
        self._asking.add(asking)
        try:
            return await asking
        except CancelledError:
            if self._is_cut:
                raise _stopping_error() from None
            raise
        finally:
            self._asking.discard(asking)
            del asking  # its failure holds this frame

    async def admit(self, request: GatewayRequest) -> None:
        """Await the proof of a request's key; meanwhile the request is in progress."""
        if not request.is_unproven:
            return
        self._enter()
        try:
            await self.ask(request.prove())
        finally:
            self._leave()

    def refuse(self, request: GatewayRequest, error: CortexError) -> None:
        """Refuse a request that has no route, or that its route rejected at once.

        Strangers may cause as many refusals as they like, so the gate writes the lines for those
        without a valid key.
        """
        record = self._open(request, OTHER_ROUTE)
        self._refuse(request, record, error)
        self._accountant.close(record, is_probe=isinstance(error, Unauthenticated))

    def _open(self, request: GatewayRequest, route: str) -> RequestRecord:
        if self.is_stopping:
            request.close_after_response()
        return self._accountant.open(request.request_id, route, request.client_host, request.caller)

    def _refuse(self, request: GatewayRequest, record: RequestRecord, error: CortexError) -> None:
        record.error = error
        has_version = request.has_anthropic_version
        record.status = error_status(request.text_path, error, has_version=has_version)
        request.respond_error(error)


def _stopping_error() -> Overloaded:
    return Overloaded("the gateway is stopping; try again shortly", retry_after=5.0)
