"""One request at one node: backpressure, silence, failure.

Until the first event of a stream, or ``hold_seconds``, no status goes out, so that an error can
still have its own. After that a silent stream gets the dialect's sign of life.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.nodes.mistralrs_state import kept_by_body, kept_by_event
from cortexd.dialects.wire.exchange import EVENT_STREAM, Exchange, Responder, Translation
from cortexd.downstream.response import Downstream
from cortexd.errors import BadGateway, CortexError, NodeTimeout, internal_error
from cortexd.fleet.affinity import Kept, StateKind
from cortexd.fleet.nodes import Lease
from cortexd.gateway.kept_state import KeptState
from cortexd.headers import header_text
from cortexd.logs import get_logger
from cortexd.sse import EventTooLarge, SseDecoder
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.client import NodeClient, Response, collect, describe

log = get_logger("cortexd.relay")

MAX_ERROR_BYTES = 1024 * 1024
"""How much of a node's error is read: a partial answer may hang on it (nodes.md 4.4.2)."""

_SANE_ID = re.compile(r"[!-~]{1,128}")
"""What of a node's ids goes into a header: any that real servers give."""

LEFTOVER_SECONDS = 3.0
"""How long a node may take to tell its counts and say ``[DONE]`` after it has said why its answer
ended, and then to end its body before the connection is closed."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits, in seconds, and for what.

    ``hold`` for the first event before the status goes out; ``keepalive`` in silence before a
    sign of life; ``upstream`` for any byte from the node, or for the client to read.
    """

    hold: float
    keepalive: float
    upstream: float


@implementer(IPushProducer)
class Attempt(Protocol):
    """One request at one node: the protocol of the upstream body, and its timer."""

    transport: Any

    def __init__(
        self,
        client: NodeClient,
        kept: KeptState,
        clock: IReactorTime,
        patience: Patience,
        exchange: Exchange,
        translation: Translation,
        downstream: Downstream,
        record: RequestRecord,
        lease: Lease,
    ) -> None:
        self.responder: Responder = translation.make_responder()
        self._clock = clock
        self._patience = patience
        self._client = client
        self._kept = kept
        self._awaits_id = exchange.is_kept
        self._follows = exchange.follows
        self._keeps, self._goes_with_model = exchange.keeps, exchange.goes_with_model
        self._translation = translation
        self._downstream = downstream
        self._record = record
        self._lease = lease
        self._decoder = SseDecoder()
        self.spoke = False
        self._failure: CortexError | None = None
        self._waiting_for: Deferred[Any] | None = None
        self._over: Deferred[None] = Deferred(lambda _: None)
        self._timer: IDelayedCall | None = None
        self._began_at = record.started_at
        self._heard_at = self._wrote_at = self._clock.seconds()
        if record.signed_at is not None:
            self._wrote_at = record.signed_at
        self._paused_at: float | None = None
        self._finished_at: float | None = None
        self._is_late_noted = False
        self._release_pace = lambda: None

    # The course of an attempt.

    async def run(self) -> None:
        """Ask the node and relay its answer. Raises CortexError."""
        translation, lease = self._translation, self._lease
        self._rearm()
        if self._follows:
            checking = self._kept.check(self._follows, lease.node, self._record.request_id)
            await self._await(Deferred.fromCoroutine(checking))
        response = await self._await(
            self._client.open(
                translation.path,
                translation.body,
                {**dict(translation.headers), "X-Request-ID": self._record.request_id},
                translation.method,
            )
        )
        self._heard_at = self._clock.seconds()
        if response.code != 200:
            said = await self._await(collect(response, MAX_ERROR_BYTES))
            raise read_error(response.code, said, header_text(response.headers, "retry-after"))
        if translation.streams:
            await self._relay_stream(response)
        else:
            body = await self._await(collect(response))
            self._record.note_content(self._clock.seconds())
            if translation.keeps_content_type:
                given = header_text(response.headers, "content-type")
                self.responder.content_type = given or self.responder.content_type
            answer = self.responder.take_body(body)
            self._note_id()
            self._note((*self._keeps, *kept_by_body(body)))
            self._respond(answer)

    async def _await(self, waiting_for: Deferred[Any]) -> Any:
        """Await something of the node's; what goes wrong on the way there is a BadGateway."""
        self._waiting_for = waiting_for
        try:
            return await waiting_for
        except CortexError:
            raise
        except Exception as error:
            # What was cancelled may fail in another way than by saying so.
            if self._failure is not None:
                raise self._failure from None
            if self._downstream.gone or isinstance(error, CancelledError):
                raise CancelledError from None
            words = f"node {self._lease.node}: {describe(error)}"
            raise BadGateway(words, elsewhere=True) from error
        finally:
            self._waiting_for = None

    async def _relay_stream(self, response: Response) -> None:
        content_type = header_text(response.headers, "content-type")
        if content_type is None or not content_type.startswith(EVENT_STREAM):
            body = await self._await(collect(response, MAX_ERROR_BYTES))
            raise read_error(500, body)
        response.deliverBody(self)
        await self._await(self._over)

    def _respond(self, body: bytes) -> None:
        self.spoke = True
        self._downstream.respond(self.responder.content_type, self._headers(), body)

    def _note_id(self) -> None:
        """Take note of who keeps the answer once it has an id, by which it may be asked for."""
        if self._awaits_id and self.responder.upstream_id:
            self._awaits_id = False
            self._note([Kept(StateKind.RESPONSE, self.responder.upstream_id)])

    def _note(self, kept: Sequence[Kept]) -> None:
        """Take note that the node keeps this for the client, which may ask for it at once."""
        if kept:
            model = self._lease.model if self._goes_with_model else None
            self._kept.remember(kept, self._lease.node, model)

    def _headers(self) -> dict[str, str]:
        record = self._record
        return {
            **translation_headers(self._translation),
            "X-Cortex-Node": self._lease.node,
            "X-Cortex-Model": self._lease.model,
            "X-Cortex-Decision": record.decision,
            "X-Cortex-Queue-Ms": str(round(record.queued_seconds * 1000)),
            "X-Cortex-Load-Ms": str(round(record.load_seconds * 1000)),
            **upstream_id_headers(self.responder.upstream_id),
        }

    def fail(self, error: CortexError) -> None:
        """End the attempt with this error, wherever it is; an answer that has finished is whole."""
        if self.responder.finished and not self._over.called:
            self._end()
            return
        self._failure = error
        if self._waiting_for is not None:
            self._waiting_for.cancel()

    def close(self) -> None:
        """Let go of everything: the timer, the client's pacing, the upstream connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.release_pace()
        self._record.usage = self.responder.usage
        self._record.upstream_id = self.responder.upstream_id
        if self.transport is not None and (self.responder.cut_short or not self.responder.done):
            self.transport.loseConnection()
        elif self.transport is not None:
            # The connection serves again once its last chunk is in, which is now or never.
            self._timer = self._clock.callLater(LEFTOVER_SECONDS, self._drop_leftover)

    def release_pace(self) -> None:
        """Let the client pace the node no more, before its answer is ended."""
        self._release_pace()
        self._release_pace = lambda: None

    def _drop_leftover(self) -> None:
        self._timer = None
        self.transport.loseConnection()

    # The upstream body, as a protocol.

    def connectionMade(self) -> None:
        """Let the client pace the node, where the client takes pieces."""
        if self.responder.streams:
            self._release_pace = self._downstream.pace(self)

    def dataReceived(self, data: bytes) -> None:
        """Turn the node's bytes into the client's."""
        if self._over.called:
            return
        now = self._heard_at = self._clock.seconds()
        responder = self.responder
        mould = responder.mould
        if mould is not None and self._decoder.is_between_events and self._finished_at is None:
            cast = mould.cast(data)
            if cast is not None:
                responder.content_chunks += 1
                self._record.note_content(now)
                self._wrote_at = now
                self._downstream.write(cast)
                return
        content_chunks = responder.content_chunks
        out = b""
        error: CortexError | None = None
        try:
            for event in self._decoder.feed(data):
                out += responder.feed(event)
                # Of chunks only the last tells, the one with the token counts (nodes.md 4.3.4).
                if event.name != b"message" or responder.usage is not None:
                    self._note(kept_by_event(event))
        except Exception as failure:
            error = self._told(failure)
        if responder.content_chunks != content_chunks:
            self._record.note_content(now)
            if self._finished_at is not None and not self._is_late_noted:
                self._is_late_noted = True
                log.info(
                    "content_after_finish",
                    request_id=self._record.request_id,
                    node=self._lease.node,
                )
        if self._awaits_id:
            self._note_id()
        if responder.done and error is None:
            if responder.streams:
                self._complete(out)
            else:
                self._end()
            return
        if out:
            if self.spoke:
                self._wrote_at = now
                self._downstream.write(out)
            elif error is None:  # else nothing has gone out yet: the error can have its status
                self._write(out, now)
        if error is not None:
            self._over.errback(error)
        elif responder.finished and self._finished_at is None:
            self._finished_at = now
            self._hasten()

    def _hasten(self) -> None:
        """Set the timer anew: something is due before what it waits for."""
        if self._timer is not None:
            self._timer.cancel()
            self._rearm()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - a constant
        """Take the end of the node's body, which is not always the end of its answer."""
        self.transport = None
        if self._timer is not None and self.responder.done:
            self._timer.cancel()
            self._timer = None
        if self._over.called:
            return
        if not (self.responder.finished or reason.check(ResponseDone, PotentialDataLoss)):
            words = f"node {self._lease.node}: {describe(reason.value or ResponseDone())}"
            self._over.errback(BadGateway(words, elsewhere=True))
            return
        self._end()

    def _end(self) -> None:
        """Take that nothing more comes of the answer."""
        try:
            last = self.responder.finish()
        except Exception as failure:
            self._over.errback(self._told(failure))
        else:
            self._complete(last)

    def _told(self, failure: Exception) -> CortexError:
        """Return what the client is told of an error of its responder; a mistake is logged."""
        if isinstance(failure, CortexError):
            return failure
        if isinstance(failure, EventTooLarge):
            return BadGateway(f"node {self._lease.node}: {failure}", elsewhere=True)
        log.exception("responder_crashed", request_id=self._record.request_id)
        return internal_error(self._record.request_id)

    def _complete(self, last: bytes) -> None:
        if self.responder.streams:
            if last:
                self.spoke = True
                self._begin()
            self.release_pace()
            self._downstream.finish(last)
        else:
            self._respond(last)
        self._over.callback(None)

    def _write(self, data: bytes, now: float) -> None:
        self.spoke = True
        self._send(data, now)

    def _begin(self) -> None:
        if not self._downstream.started:
            self._downstream.begin(self.responder.content_type, self._headers())

    def _send(self, data: bytes, now: float) -> None:
        self._begin()
        self._wrote_at = now
        self._downstream.write(data)

    # The client's pace, as a producer.

    def pauseProducing(self) -> None:
        """Stop reading from the node: the client does not keep up."""
        if self._paused_at is None:
            self._paused_at = self._clock.seconds()
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the node again."""
        self._paused_at = None
        self._heard_at = self._wrote_at = self._clock.seconds()
        if self._finished_at is not None:
            self._finished_at = self._heard_at
        if not self._over.called:
            # It waits for the reader's end of patience; the next sign of life is due before.
            self._hasten()
        if self.transport is not None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nothing: that the client left is heard elsewhere."""

    # Silence.

    def _rearm(self) -> None:
        patience = self._patience
        since = self._heard_at if self._paused_at is None else self._paused_at
        due = since + patience.upstream
        if self.responder.streams and self._paused_at is None:
            started = self._downstream.started
            sign = (
                self._wrote_at + patience.keepalive if started else self._began_at + patience.hold
            )
            due = min(due, sign)
        if self._finished_at is not None and self._paused_at is None:
            due = min(due, self._finished_at + LEFTOVER_SECONDS)
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._look)

    def _look(self) -> None:
        """See what has come due; most often nothing has, for bytes only move the times."""
        self._timer = None
        now, patience = self._clock.seconds(), self._patience
        if self._paused_at is not None:
            if now >= self._paused_at + patience.upstream:
                self._downstream.drop()
                return
        elif self._finished_at is not None and now >= self._finished_at + LEFTOVER_SECONDS:
            self._end()
            return
        elif now >= self._heard_at + patience.upstream:
            self.fail(
                NodeTimeout(
                    f"node {self._lease.node} sent nothing for {patience.upstream:g} s "
                    "(gateway.upstream_timeout)"
                )
            )
            return
        elif self.responder.streams:
            started = self._downstream.started
            if now >= (
                self._wrote_at + patience.keepalive if started else self._began_at + patience.hold
            ):
                try:
                    sign = self.responder.waiting(now - self._began_at)
                except Exception as failure:
                    self.fail(self._told(failure))
                    return
                self._send(sign, now)
                self._record.signed_at = now
        self._rearm()


def upstream_id_headers(upstream_id: str | None) -> dict[str, str]:
    """Return the header with the id that the node gave its answer, once it gave a sane one."""
    if upstream_id is None or not _SANE_ID.fullmatch(upstream_id):
        return {}
    return {"X-Cortex-Upstream-Id": upstream_id}


def translation_headers(translation: Translation) -> dict[str, str]:
    """Return the header that names what a translation could only approximate, if anything."""
    if not translation.approximations:
        return {}
    return {"X-Cortex-Translation": "approx=" + ",".join(translation.approximations)}
