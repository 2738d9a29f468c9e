"""The body of a node's streamed answer: its bytes become the client's, at the client's pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from zope.interface import implementer

from cortexd.dialects.wire.exchange import Responder
from cortexd.downstream.response import Downstream
from cortexd.errors import BadGateway, CortexError, internal_error
from cortexd.fleet.nodes import Lease
from cortexd.gateway.patience import LEFTOVER_SECONDS, Wait
from cortexd.logs import get_logger
from cortexd.sse import EventTooLarge, ServerSentEvent, SseDecoder
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.client import describe, is_cut

log = get_logger("cortexd.relay")


class Course(Protocol):
    """What the body uses of the attempt that it belongs to.

    ``spoke`` says that something of the answer has gone out, ``awaits_id`` that the node keeps the
    answer and has not stated its id yet. ``on_content`` is there until content has come, where
    that matters to anybody.
    """

    responder: Responder
    spoke: bool
    awaits_id: bool
    on_content: Callable[[Lease], None] | None

    def begin(self) -> None:
        """Begin the client's answer in pieces, unless it has begun."""

    def respond(self, body: bytes) -> None:
        """Send the client's answer whole."""

    def note_event(self, event: ServerSentEvent) -> None:
        """Note the things that the node keeps for the client, as an event of its stream states."""

    def note_content(self) -> None:
        """Note that content has come."""

    def note_id(self) -> None:
        """Note the id of an answer that the node keeps, once it is known."""

    def hasten(self) -> None:
        """Arm the timer anew: something may be due before it fires."""


@implementer(IPushProducer)
class UpstreamBody(TwistedProtocol):
    """Feeds the responder of a ``course`` and writes what it returns to ``downstream``.

    ``over`` fires once the answer has ended, and fails with the CortexError that ended it. ``wait``
    has the times; ``node`` is the node's name, for errors and the log.
    """

    transport: Any

    def __init__(
        self,
        course: Course,
        downstream: Downstream,
        record: RequestRecord,
        node: str,
        clock: IReactorTime,
        wait: Wait,
    ) -> None:
        self._course = course
        self._responder = course.responder
        self._downstream = downstream
        self._record = record
        self._node = node
        self._clock = clock
        self._wait = wait
        self._decoder = SseDecoder()
        self.over: Deferred[None] = Deferred(_keep_reading)
        self._release_pace: Callable[[], None] | None = None
        self._leftover: IDelayedCall | None = None
        self._is_late_noted = False

    # What comes from the node.

    def connectionMade(self) -> None:
        """Let the client pace the node, where the client takes pieces."""
        if self._responder.streams:
            self._release_pace = self._downstream.pace(self)

    def dataReceived(self, data: bytes) -> None:
        """Turn the node's bytes into the client's."""
        if self.over.called:
            return
        wait, responder = self._wait, self._responder
        now = wait.heard_at = self._clock.seconds()
        mould = responder.mould
        if mould is not None and self._decoder.is_between_events and wait.finished_at is None:
            cast = mould.cast(data)
            if cast is not None:
                responder.content_chunks += 1
                self._record.note_content(now)
                wait.wrote_at = now
                self._downstream.write(cast)
                return
        self._decode(data, now)

    def _decode(self, data: bytes, now: float) -> None:
        """Take bytes that hold more than one chunk of text, or less."""
        course, responder, wait = self._course, self._responder, self._wait
        content_chunks = responder.content_chunks
        pieces: list[bytes] = []
        error: CortexError | None = None
        try:
            for event in self._decoder.feed(data):
                pieces.append(responder.feed(event))
                # Only the last chunk, with the token counts, names kept things (nodes.md 4.3.4).
                if event.name != b"message" or responder.usage is not None:
                    course.note_event(event)
        except Exception as failure:
            error = as_error(failure, self._node, self._record.request_id)
        out = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if responder.content_chunks != content_chunks:
            self._record.note_content(now)
            if course.on_content is not None:
                course.note_content()
            if wait.finished_at is not None and not self._is_late_noted:
                self._is_late_noted = True
                log.info(
                    "content_after_finish", request_id=self._record.request_id, node=self._node
                )
        if course.awaits_id:
            course.note_id()
        if responder.done and error is None:
            if responder.streams:
                self._complete(out)
            else:
                self.end()
            return
        is_due_nearer = False
        # Before anything of the answer has gone out, an error can still have its own status.
        if out and (course.spoke or error is None):
            if not course.spoke:
                course.begin()
            if wait.wrote_at is None:
                # From the first byte on the keepalive counts, which may be shorter than the hold.
                is_due_nearer = wait.patience.keepalive < wait.patience.hold
            wait.wrote_at = now
            self._downstream.write(out)
        if error is not None:
            self.over.errback(error)
            return
        if responder.finished and wait.finished_at is None:
            wait.finished_at = now
            is_due_nearer = True
        if is_due_nearer:
            course.hasten()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - a constant
        """Take the end of the node's body, which is not always the end of its answer."""
        self.transport = None
        if self._leftover is not None:
            self._leftover.cancel()
            self._leftover = None
        if self.over.called:
            return
        if self._responder.finished or reason.check(ResponseDone, PotentialDataLoss):
            self.end()
        else:
            words = f"node {self._node}: {describe(reason.value or ResponseDone())}"
            gone = BadGateway(words, elsewhere=True)
            gone.is_cut = gone.ends_engine = is_cut(reason.value or ResponseDone())
            self.over.errback(gone)

    # The end of the answer.

    def end(self) -> None:
        """End the answer with what the node has sent: nothing more is awaited."""
        try:
            last = self._responder.finish()
        except Exception as failure:
            self.over.errback(as_error(failure, self._node, self._record.request_id))
        else:
            self._complete(last)

    def _complete(self, last: bytes) -> None:
        if self._responder.streams:
            if last and not self._course.spoke:
                self._course.begin()
            self.release_pace()
            self._downstream.finish(last)
        else:
            self._course.respond(last)
        self.over.callback(None)

    def close(self) -> None:
        """Let go of the client's pace and of the connection to the node."""
        self.release_pace()
        if self.transport is None:
            return
        if self._responder.cut_short or not self._responder.done:
            self.transport.loseConnection()
        else:
            # The connection can serve another request once the body has ended. After a complete
            # answer that takes one more read, or the node never ends it.
            self._leftover = self._clock.callLater(LEFTOVER_SECONDS, self._drop_leftover)

    def _drop_leftover(self) -> None:
        self._leftover = None
        self.transport.loseConnection()

    # The client's pace, as a producer.

    def release_pace(self) -> None:
        """Stop letting the client pace the node, which must precede the end of its answer."""
        if self._release_pace is not None:
            self._release_pace()
            self._release_pace = None

    def pauseProducing(self) -> None:
        """Stop reading from the node: the client does not keep up."""
        self._wait.pause(self._clock.seconds())
        if self.transport is not None:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the node again."""
        self._wait.resume(self._clock.seconds())
        if not self.over.called:
            self._course.hasten()
        if self.transport is not None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: ``Downstream`` reports a client that has left."""


def _keep_reading(over: Deferred[None]) -> None:
    """Leave the connection alone when ``over`` is cancelled: ``close`` follows."""


def as_error(failure: Exception, node: str, request_id: str) -> CortexError:
    """Return the error for the client of a responder's failure; a mistake of ours is logged."""
    if isinstance(failure, CortexError):
        return failure
    if isinstance(failure, EventTooLarge):
        return BadGateway(f"node {node}: {failure}", elsewhere=True)
    log.exception("responder_crashed", request_id=request_id)
    return internal_error(request_id)
