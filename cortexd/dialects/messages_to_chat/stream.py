"""Anthropic Messages: the answer as a stream of events, made from a node's chunks.

The responders of a request share an Opening: see ``dialects.wire.asked``.

========  =================================  =====================================================
phase     ends with                          output to the client
========  =================================  =====================================================
waiting   the first chunk                    none, until a keep-alive begins the message; then
                                             pings, and after a while an empty thinking block
running   a finish reason, or an early end   the beginning of the message, if it was not sent yet,
          of the answer                      and content blocks (``blocks``)
finished  ``[DONE]`` or the end of the       none: the usage may still arrive
          stream
ended     --                                 the end of the last block, the stop reason, the end of
                                             the message; no more after that
failed    --                                 the error; no more after that, and the open block is
                                             never stopped, so that no client takes it as complete
========  =================================  =====================================================

A stream that ends while its answer is waiting or running has failed.
"""

from __future__ import annotations

from cortexd import sse
from cortexd.dialects.messages_to_chat.blocks import (
    BlockDelta,
    BlockEvent,
    Blocks,
    BlockStarted,
    Kind,
)
from cortexd.dialects.messages_to_chat.reading import (
    TEXT_KEYS,
    AnswerReader,
    AnswerTerms,
    read_delta,
)
from cortexd.dialects.nodes.chat_stream import InPieces
from cortexd.dialects.wire.anthropic_errors import error_event
from cortexd.dialects.wire.anthropic_events import (
    MESSAGE_DELTA,
    MESSAGE_START,
    MESSAGE_STOPPED,
    PING,
    PINGS_SUFFICE_SECONDS,
    block_delta,
    block_started,
    block_stopped,
    encode_event,
    thinking_started,
    thinking_stopped,
)
from cortexd.dialects.wire.frames import learn
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent


class MessageStream(InPieces, AnswerReader):
    """Makes the events of a Messages stream from a node's chunks, for one attempt."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(terms)
        self._opening = terms.asked.opening
        self._blocks: Blocks | None = None
        self.mould = None
        self._has_failed = False

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the events for a node's event; see Responder."""
        if self.done or self._has_failed:
            return b""
        mould = self.mould
        if mould is not None and event.name == b"message":
            cast = mould.cast(sse.encode(event.data))
            if cast is not None:
                self.content_chunks += 1
                return cast
        chunk = self.take_chunk(event)
        if chunk is None:
            return self._end() if self.done else b""
        begun, blocks = self._begin()
        events = self.read(blocks, chunk)
        out = begun + _rendered(events)
        if self.cut_short:
            return out + self._end()
        self._learn(event.data, chunk, events)
        return out

    def finish(self) -> bytes:
        """Return the end of the stream, unless ``[DONE]`` has already caused it."""
        return b"" if self.done or self._has_failed else self._end()

    def fail(self, error: CortexError) -> bytes:
        """Return the error as an event, unless the message has ended; see Responder."""
        if self.done or self._has_failed:
            return b""
        self._has_failed = True
        return error_event(error, self.terms.asked.request_id)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return a keep-alive, after the beginning of the message; see Responder."""
        if self.done or self._has_failed:
            return b""
        begun, blocks = self._begin()
        self._opening.has_begun = True
        is_long = elapsed >= PINGS_SUFFICE_SECONDS and self.finish_reason is None
        events = blocks.keep_alive() if is_long else []
        if any(isinstance(event, BlockStarted) for event in events):
            self._opening.thinking_is_open = True
        return begun + (_rendered(events) or PING)

    def _begin(self) -> tuple[bytes, Blocks]:
        """Return the beginning of the message, if it was not sent yet, and the blocks."""
        if self._blocks is not None:
            return b"", self._blocks
        opening, terms = self._opening, self.terms
        self._blocks = terms.blocks(thinking_is_open=opening.thinking_is_open)
        if opening.has_begun:
            return b"", self._blocks
        message = terms.message(
            [],
            {"stop_reason": None, "stop_sequence": None},
            TokenCounts(terms.asked.prompt_estimate, 0, 0, 0),
        )
        return encode_event({"type": MESSAGE_START, "message": message}), self._blocks

    def _end(self) -> bytes:
        begun, blocks = self._begin()
        events, reason, counts = self.close(blocks)
        delta = {
            "type": MESSAGE_DELTA,
            "delta": reason,
            "usage": counts.rendered(),
            **self.terms.asked.edits,
        }
        return begun + _rendered(events) + encode_event(delta) + MESSAGE_STOPPED

    def _learn(self, data: bytes, chunk: JsonObject, events: list[BlockEvent]) -> None:
        """Learn the frame of a chunk that has only text for the open block."""
        if self.finished or len(events) != 1 or not isinstance(events[0], BlockDelta):
            self.mould = None  # another block needs another mould
            return
        if self.mould is not None and not self.mould.has_fitted:
            return  # the last mould fitted no chunk, and neither would the next
        index, kind, text = events[0]
        keys = TEXT_KEYS[kind]
        if not keys or not self._is_alone(chunk, kind, text):
            return

        def render(chunk: JsonObject) -> bytes:
            delta = read_delta(chunk["choices"][0]["delta"])
            return block_delta(index, kind.value, delta.text or delta.thinking)

        for key in keys:
            self.mould = learn(data, key, text, render)
            if self.mould is not None:
                return

    def _is_alone(self, chunk: JsonObject, kind: Kind, text: str) -> bool:
        """Return whether a chunk has only this text, and similar chunks may follow."""
        if self.node_usage is not None or len(chunk["choices"]) != 1:
            return False
        thinking, said, calls = chunk["choices"][0]["delta"]
        if kind is Kind.TEXT:
            # Text must be parsed to search it for stop sequences.
            return said == text and not (thinking or calls or self.terms.scanned_sequences)
        return thinking == text and not (said or calls)


def _rendered(events: list[BlockEvent]) -> bytes:
    return b"".join([_block_event(event) for event in events])


def _block_event(event: BlockEvent) -> bytes:
    if isinstance(event, BlockDelta):
        # ``_value_`` is faster than ``value``, and there are many deltas.
        return block_delta(event.block_index, event.kind._value_, event.text)
    index, kind = event.block_index, event.kind
    if not isinstance(event, BlockStarted):
        is_thinking = kind is Kind.THINKING
        return thinking_stopped(index, event.hidden) if is_thinking else block_stopped(index)
    if kind is Kind.THINKING:
        return thinking_started(index)
    if kind is Kind.TEXT:
        return block_started(index, {"type": "text", "text": ""})
    # Claude Code reads arguments only from deltas, and ignores those of the start
    # (translation.md 1.2.11).
    call = {"type": "tool_use", "id": event.call_id, "name": event.name, "input": {}}
    return block_started(index, call)
