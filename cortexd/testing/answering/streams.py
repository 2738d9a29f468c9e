"""Answers on the wire: a stream of events, or one object at the end of a generation."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.web.server import Request
from zope.interface import implementer

from cortexd.testing.answering.answers import Answer, Token
from cortexd.testing.answering.generation import Generation
from cortexd.testing.answering.requests import EngineFailedError
from cortexd.testing.answering.wire import Cause, Json, Shape, Timings, event
from cortexd.testing.faults import Faults

StreamEnding = Literal["finished", "client_gone", "cut", "fault"]


def abort(request: Request) -> None:
    """Close the request's connection at once, even in the middle of an answer."""
    if request.channel is not None:
        cast(ITCPTransport, request.channel.transport).abortConnection()


def read_body(request: Request) -> bytes:
    """Return the request's whole body, and leave it readable."""
    content = request.content
    assert content is not None  # noqa: S101 - Twisted renders a request after its body has arrived
    content.seek(0)
    body: bytes = content.read()
    content.seek(0)
    return body


@implementer(IPushProducer)
class EventStream:
    """One open stream of server-sent events, fed by a generation.

    It pauses the generation while the client does not read. It ends when the generation ends, when
    the client disconnects, or when one of the `faults` takes effect. `on_end` is called once, with
    this stream and the reason. `closed` fires when the answer must be closed; the caller cancels it
    when the client has disconnected.
    """

    def __init__(
        self,
        clock: IReactorTime,
        request: Request,
        *,
        shape: Shape,
        answers: Sequence[Answer],
        faults: Faults,
        keepalive_seconds: float,
        on_end: Callable[["EventStream", StreamEnding], None],
    ) -> None:
        self.chunks = 0
        self.closed: Deferred[None] = Deferred(lambda _: self._client_gone())
        self._clock = clock
        self._request = request
        self._shape = shape
        self.answers = answers
        self._faults = faults
        self._keepalive_seconds = keepalive_seconds
        self._on_end = on_end
        self._generation: Generation | None = None
        self._timer: IDelayedCall | None = None
        self._paused = False
        self._finish_sent = False
        self._ended = False

    def open(self) -> None:
        """Send the headers, before the prompt is processed."""
        self._request.setHeader(b"content-type", b"text/event-stream")
        self._request.setHeader(b"cache-control", b"no-cache")
        self._request.write(b"")
        for data in self._shape.opening():
            self._request.write(event(data))
        self._timer = self._clock.callLater(self._keepalive_seconds, self._keep_alive)
        self._request.registerProducer(self, True)
        self._strike()

    def feed_from(self, generation: Generation) -> None:
        """Receive tokens from `generation`; call this before it starts."""
        self._generation = generation
        if self._paused:
            generation.pause()
        if self._ended:
            generation.abandon()

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended."""
        return self._ended

    def tell(self, name: str, data: Json) -> None:
        """Send a named event that is not a chunk of the answer."""
        if not self._ended:
            self._request.write(event(data, name))

    def fail(self, message: str, cause: Cause) -> None:
        """Send an engine's error inside the stream, and end the stream as after such an error."""
        if self._ended:
            return
        self._send_error(message, cause)
        self._end("finished")

    def token_made(self, position: int) -> None:
        """Send the chunks for token number `position` of each choice, if any."""
        several = list(enumerate(self.answers))
        # mistral.rs sends several choices in no particular order.
        for index, answer in reversed(several) if position % 2 else several:
            if self._ended or position >= len(answer.tokens):
                continue
            token = answer.tokens[position]
            is_cut_here = answer.finish_reason == "length" and position == len(answer.tokens) - 1
            if is_cut_here and index == 0:
                self._send_last(index, answer, token)
            elif token.text or (self._shape.spells_calls and token.call is not None):
                self._send(self._shape.chunk(index, token))

    def all_made(self, timings: Timings) -> None:
        """Send the finish chunk, unless the last token was in it, and end.

        Only the first of several choices gets one, because mistral.rs streams them wrongly.
        """
        if not (self._ended or self._finish_sent):
            self._send_last(0, self.answers[0], None, timings)
        if not self._ended:
            self._request.write(self._shape.end)
            self._end("finished")

    def leave(self) -> None:
        """End because the client has disconnected, before anything waits for `closed`."""
        self._client_gone()

    def cut_off(self) -> bool:
        """End the stream without finish reason and end event, because the engine was dropped."""
        awaited = not self._ended
        self._end("cut")
        return awaited

    def pauseProducing(self) -> None:
        """Stop the generation while the client does not read."""
        self._paused = True
        if self._generation is not None and not self._ended:
            self._generation.pause()

    def resumeProducing(self) -> None:
        """Resume the generation."""
        self._paused = False
        if self._generation is not None and not self._ended:
            self._generation.resume()

    def stopProducing(self) -> None:
        """Do nothing: the request's own notification reports the disconnect."""

    def _send_last(
        self, index: int, answer: Answer, token: Token | None, timings: Timings | None = None
    ) -> None:
        self._finish_sent = True
        if timings is None:
            assert self._generation is not None  # noqa: S101 - tokens come from a generation
            timings = self._generation.timings()
        self._send(self._shape.last_chunk(index, answer, token, timings))

    def _send_error(self, message: str, cause: Cause = "model") -> None:
        self._request.write(event(self._shape.failure(message, cause)))
        self._request.write(self._shape.end)

    def _send(self, data: Json | list[Json]) -> None:
        for each in data if isinstance(data, list) else [data]:
            self._request.write(event(each))
        self.chunks += 1
        if self._timer is not None:
            self._timer.reset(self._keepalive_seconds)
        self._strike()

    def _strike(self) -> None:
        """Trigger a fault that is due after the chunks sent so far."""
        faults = self._faults
        if _due(faults.error_after_chunks, self.chunks):
            self._send_error(faults.error_message)
            self._end("fault")
        elif _due(faults.eof_after_chunks, self.chunks):
            self._end("fault")
        elif _due(faults.reset_after_chunks, self.chunks):
            self._end("fault", reset=True)

    def _keep_alive(self) -> None:
        if not self._paused:
            self._request.write(self._shape.keep_alive)
        self._timer = self._clock.callLater(self._keepalive_seconds, self._keep_alive)

    def _client_gone(self) -> None:
        self._end("client_gone")

    def _end(self, reason: StreamEnding, *, reset: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if reason != "client_gone" and self._request.channel is not None:
            self._request.unregisterProducer()
        if self._generation is not None and reason not in ("finished", "cut"):
            self._generation.abandon()
        self._on_end(self, reason)
        if reset:
            self._reset()
        elif reason != "client_gone":
            self.closed.callback(None)

    def _reset(self) -> None:
        """Abort the connection; `closed` is cancelled when the disconnect is noticed."""
        channel = self._request.channel
        if channel is not None and isinstance(channel.transport, FileDescriptor):
            # Send the written data now: a socket would send it in the reactor's next turn.
            channel.transport.doWrite()
        abort(self._request)


def _due(after_chunks: int | None, chunks: int) -> bool:
    return after_chunks is not None and chunks >= after_chunks


class Collector:
    """The answer of a request that does not stream; `done` fires with its timings.

    The generation runs to its end even if nothing waits for `done` any more.
    """

    def __init__(self) -> None:
        self.done: Deferred[Timings] = Deferred()

    def token_made(self, position: int) -> None:
        """Ignore the token: only the end counts."""

    def all_made(self, timings: Timings) -> None:
        """Fire `done`."""
        self.done.callback(timings)

    def cut_off(self) -> bool:
        """Fail `done` with mistral.rs's message for a dropped engine."""
        # The disconnect of the client has cancelled it.
        awaited = not self.done.called
        self.done.errback(EngineFailedError(500, "No response received from the model."))
        return awaited
