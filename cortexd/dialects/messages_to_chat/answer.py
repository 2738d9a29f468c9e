"""Anthropic Messages: the factory of responders, and the answer without a stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from cortexd.dialects.messages_to_chat.blocks import BlockDelta, BlockEvent, BlockStarted, Kind
from cortexd.dialects.messages_to_chat.reading import AnswerReader, AnswerTerms
from cortexd.dialects.messages_to_chat.stream import MessageStream
from cortexd.dialects.nodes.answers import check_gathered
from cortexd.dialects.nodes.chat_stream import InOnePiece, read_choices, read_chunk
from cortexd.dialects.wire.arguments import RAW_ARGUMENTS
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.json_extent import BLANKS
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode, encode
from cortexd.dialects.wire.thoughts import signature_of
from cortexd.sse import ServerSentEvent


def answer_factory(terms: AnswerTerms) -> Callable[[], Responder]:
    """Return the factory of the responders of one request to nodes that speak chat.

    Each attempt needs its own responder, and so does the wait in the queue. In a stream, each of
    them continues the output of the previous ones.
    """
    return partial(MessageStream if terms.asked.streams else MessageAggregate, terms)


class MessageAggregate(InOnePiece, AnswerReader):
    """Collects a node's answer, streamed or whole, into one message."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(terms)
        self._blocks = terms.blocks()
        self._content: list[JsonObject] = []
        self._started = BlockStarted(0, Kind.TEXT)
        self._texts: list[str] = []
        self._size = 0
        self._message: bytes | None = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Collect one event; no bytes go downstream yet."""
        chunk = self.take_chunk(event)
        if chunk is not None:
            self._gather(self.read(self._blocks, chunk))
            self.done = self.cut_short
        if self.done and self._message is None:
            self._message = self._whole()  # if this fails, the node's event is at fault
        return b""

    def finish(self) -> bytes:
        """Return the whole message; see Responder."""
        return self._whole() if self._message is None else self._message

    def _whole(self) -> bytes:
        events, reason, counts = self.close(self._blocks)
        self._gather(events)
        return encode(self.terms.message(self._content, reason, counts))

    def take_body(self, body: bytes) -> bytes:
        """Return the message for a node's whole answer; see Responder."""
        answer = read_chunk(ServerSentEvent(body))
        for choice in read_choices(answer):
            choice["delta"] = choice.get("message")
        self.feed(ServerSentEvent(encode(answer)))
        return self.finish()

    def _gather(self, events: list[BlockEvent]) -> None:
        for event in events:
            if isinstance(event, BlockStarted):
                self._started = event
                self._texts = []
            elif isinstance(event, BlockDelta):
                self._texts.append(event.text)
            else:
                self._size = check_gathered(self._texts, self._size)
                self._content.append(_block(self._started, "".join(self._texts), event.hidden))


def _block(started: BlockStarted, text: str, hidden: str) -> JsonObject:
    if started.kind is Kind.THINKING:
        return {"type": "thinking", "thinking": text, "signature": signature_of(hidden)}
    if started.kind is Kind.TEXT:
        return {"type": "text", "text": text}
    return {
        "type": "tool_use",
        "id": started.call_id,
        "name": started.name,
        "input": read_input(text),
    }


def read_input(arguments: str) -> JsonObject | msgspec.Raw:
    """Return the arguments of a call as an object, with the node's own bytes."""
    if not arguments.strip(BLANKS):
        return {}
    written = arguments.encode()
    try:
        is_object = isinstance(decode(written), dict)
    except NOT_JSON:
        is_object = False
    return msgspec.Raw(written) if is_object else {RAW_ARGUMENTS: arguments}
