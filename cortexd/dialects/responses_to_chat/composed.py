"""Responses clients on nodes that speak only Messages: two translations, one after the other.

The request becomes a chat and the chat a Messages request; the message becomes chunks of a chat,
and these become the response.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.frames import Mould
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent, SseDecoder


def composed_factory(
    make_inner: Callable[[], Responder], make_outer: Callable[[], Responder]
) -> Callable[[], Responder]:
    """Return the factory of responders that make chunks of a node's events, and our answer of them.

    ``make_inner`` makes responders that stream chunks with usage.
    """
    return partial(_compose, make_inner, make_outer)


def _compose(
    make_inner: Callable[[], Responder], make_outer: Callable[[], Responder]
) -> ComposedResponder:
    return ComposedResponder(make_inner(), make_outer())


class ComposedResponder:
    """Feeds the chunks that ``inner`` makes of a node's stream to ``outer``."""

    def __init__(self, inner: Responder, outer: Responder) -> None:
        self._inner = inner
        self._outer = outer
        self._decoder = SseDecoder()
        self.content_type = outer.content_type
        self.streams = outer.streams
        self.done = False
        self.cut_short = False
        self.fails_in_order = outer.fails_in_order
        self.finished = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self.mould: Mould | None = None  # the frames of both translations would have to fit

    def feed(self, event: ServerSentEvent) -> bytes:
        """Process one upstream event; see Responder."""
        return self._told(self._passed(self._inner.feed(event)))

    def take_body(self, body: bytes) -> bytes:
        """Raise BadGateway: the node must stream; see Responder."""
        return self._inner.take_body(body)

    def finish(self) -> bytes:
        """Process the end of the upstream stream; see Responder."""
        ended = self._passed(self._inner.finish())
        return self._told(ended + self._outer.finish())

    def fail(self, error: CortexError) -> bytes:
        """Return the error in the dialect's format; see Responder."""
        return self._outer.fail(error)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return the dialect's keep-alive; see Responder."""
        return self._outer.waiting(elapsed, words)

    def _passed(self, chunks: bytes) -> bytes:
        return b"".join([self._outer.feed(chunk) for chunk in self._decoder.feed(chunks)])

    def _told(self, downstream: bytes) -> bytes:
        inner, outer = self._inner, self._outer
        self.done, self.cut_short = outer.done or inner.done, outer.cut_short
        self.finished = outer.finished
        self.content_chunks, self.usage = outer.content_chunks, outer.usage
        self.upstream_id = inner.upstream_id
        return downstream
