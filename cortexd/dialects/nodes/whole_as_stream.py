"""A request that is asked whole because the model's stream fails, and its answer given in pieces.

The stream of some models cannot force a call of a tool (nodes.md 4.1.9). The whole answer of the
same request has the call. Only the node's side differs: the whole answer becomes the chunks that a
stream would have had, and the responder of the stream reads those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from cortexd.dialects.nodes.answers import DONE, read_whole, unknown_shape
from cortexd.dialects.wire.exchange import Responder, Translation, Usage
from cortexd.dialects.wire.frames import Mould
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.errors import BadGateway, CortexError
from cortexd.sse import ServerSentEvent

_PARTS: Final = ("reasoning_content", "reasoning", "content", "tool_calls")
"""The parts of a message, in the order in which a stream brings them."""

_OF_STREAMS: Final = frozenset({"stream", "stream_options"})


def with_whole(translation: Translation, upstream: JsonObject) -> Translation:
    """Return a translation that can also be asked whole, if it streams and forces a call.

    ``upstream`` are the fields of its body, a chat.
    """
    if not (translation.streams and _forces(upstream.get("tool_choice"))):
        return translation
    fields = {name: value for name, value in upstream.items() if name not in _OF_STREAMS}
    whole = dataclasses.replace(
        translation,
        body=encode(fields),
        streams=False,
        make_responder=partial(_make_whole, translation.make_responder),
    )
    return dataclasses.replace(translation, whole=whole)


def _forces(tool_choice: object) -> bool:
    return tool_choice == "required" or isinstance(tool_choice, dict)


def _make_whole(make_responder: Callable[[], Responder]) -> WholeAsStream:
    return WholeAsStream(make_responder())


class WholeAsStream:
    """Gives a node's whole answer to ``inner``, the responder of a stream, as chunks."""

    def __init__(self, inner: Responder) -> None:
        self._inner = inner
        self.content_type = inner.content_type
        self.streams = inner.streams
        self.done = inner.done
        self.cut_short = False
        self.fails_in_order = inner.fails_in_order
        self.finished = inner.finished
        self.mould: Mould | None = None
        self.content_chunks = inner.content_chunks
        self.usage: Usage | None = inner.usage
        self.upstream_id: str | None = inner.upstream_id

    def feed(self, event: ServerSentEvent) -> bytes:
        """Raise BadGateway: the request did not ask for a stream."""
        raise BadGateway("the node sent a stream that was not requested", elsewhere=True)

    def finish(self) -> bytes:
        """Raise BadGateway, as ``feed`` does."""
        raise BadGateway("the node sent a stream that was not requested", elsewhere=True)

    def take_body(self, body: bytes) -> bytes:
        """Return what ``inner`` makes of the answer in chunks; see Responder."""
        inner, pieces = self._inner, []
        for chunk in chunks_of(read_whole(body)):
            if not inner.done:
                pieces.append(inner.feed(ServerSentEvent(encode(chunk), b"message")))
        if not inner.done:
            pieces.append(inner.feed(ServerSentEvent(DONE, b"message")))
        if not (inner.streams and inner.done):
            pieces.append(inner.finish())
        self.content_chunks, self.usage = inner.content_chunks, inner.usage
        self.upstream_id, self.done, self.finished = inner.upstream_id, True, True
        return b"".join(pieces)

    def fail(self, error: CortexError) -> bytes:
        """Return the error in the dialect's format; see Responder."""
        return self._inner.fail(error)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return the dialect's keep-alive; see Responder."""
        return self._inner.waiting(elapsed, words)


def chunks_of(answer: JsonObject) -> Iterator[JsonObject]:
    """Yield the chunks of a stream that would have brought a node's whole answer.

    Each part of the message has a chunk, of which the last one has the finish reason and the usage.
    Raises BadGateway.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise unknown_shape("choices")
    parts = [part for part in _PARTS if message.get(part)]
    deltas = [{"role": "assistant", part: message[part]} for part in parts]
    *others, last = deltas or [{"role": "assistant"}]
    whole = {**answer, "object": "chat.completion.chunk"}
    bare: JsonObject = {"index": 0, "finish_reason": None, "logprobs": None}
    for delta in others:
        yield {**whole, "usage": None, "choices": [{**bare, "delta": delta}]}
    end = {**bare, "delta": last, "finish_reason": choice.get("finish_reason")}
    yield {**whole, "choices": [end]}
