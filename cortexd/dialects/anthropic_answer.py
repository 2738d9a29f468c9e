"""Anthropic Messages: the maker of responders, and the answer that is given whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cortexd.dialects.anthropic_blocks import BlockDelta, BlockEvent, BlockStarted, Kind
from cortexd.dialects.anthropic_calls import BLANKS
from cortexd.dialects.anthropic_reading import AnswerReader, AnswerTerms
from cortexd.dialects.anthropic_stream import SIGNATURE, MessageStream, Opening
from cortexd.dialects.exchange import Responder
from cortexd.dialects.json_values import NOT_JSON, JsonObject, decode, encode
from cortexd.dialects.openai_answer import InOnePiece, read_choices, read_chunk
from cortexd.dialects.profile import Profile, ThinkingWish
from cortexd.sse import ServerSentEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a Messages request its answers depend on, on whatever node it is answered.

    ``model`` is the name the client asked by, ``prompt_estimate`` is in tokens. ``opening`` is what
    the responders of the request share. ``edits_context`` is as in AnswerTerms.
    """

    model: str
    streams: bool
    message_id: str
    prompt_estimate: int
    opening: Opening
    request_id: str | None = None
    edits_context: bool = False


def answer_factory(
    asked: Asked,
    *,
    stop_sequences: tuple[str, ...],
    thinking: ThinkingWish,
    one_tool_call: bool,
    profile: Profile,
) -> Callable[[], Responder]:
    """Return the maker of the responders of one request to nodes that chat.

    Each attempt takes its own, and so does the wait in the queue; each goes on from what the
    client of a stream was told by those before. The arguments are those of AnswerTerms.
    """
    terms = AnswerTerms(
        model=asked.model,
        message_id=asked.message_id,
        prompt_estimate=asked.prompt_estimate,
        stop_sequences=stop_sequences,
        thinking=thinking,
        one_tool_call=one_tool_call,
        profile=profile,
        request_id=asked.request_id,
        edits_context=asked.edits_context,
    )
    if not asked.streams:
        return lambda: MessageAggregate(terms)
    opening = asked.opening
    return lambda: MessageStream(terms, opening)


class MessageAggregate(InOnePiece, AnswerReader):
    """Gathers a node's answer, streamed or whole, into one message."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(terms)
        self._blocks = terms.blocks()
        self._content: list[JsonObject] = []
        self._started = BlockStarted(0, Kind.TEXT)
        self._texts: list[str] = []
        self._message: bytes | None = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Gather one event; nothing goes downstream yet."""
        chunk = self.take_chunk(event)
        if chunk is not None:
            self._gather(self.read(self._blocks, chunk))
            self.done = self.cut_short
        if self.done and self._message is None:
            self._message = self._whole()  # where it cannot be made, the node's event is at fault
        return b""

    def finish(self) -> bytes:
        """Return the whole message; see Responder."""
        return self._whole() if self._message is None else self._message

    def _whole(self) -> bytes:
        events, reason, counts = self.close(self._blocks)
        self._gather(events)
        return encode(self.terms.message(self._content, reason, counts))

    def take_body(self, body: bytes) -> bytes:
        """Return the message of an answer that the node gave whole; see Responder."""
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
                self._content.append(_block(self._started, "".join(self._texts)))


def _block(started: BlockStarted, text: str) -> JsonObject:
    if started.kind is Kind.THINKING:
        return {"type": "thinking", "thinking": text, "signature": SIGNATURE}
    if started.kind is Kind.TEXT:
        return {"type": "text", "text": text}
    return {
        "type": "tool_use",
        "id": started.call_id,
        "name": started.name,
        "input": read_input(text),
    }


def read_input(arguments: str) -> JsonObject | msgspec.Raw:
    """Return the arguments of a call as an object, in the very bytes in which they came."""
    if not arguments.strip(BLANKS):
        return {}
    written = arguments.encode()
    try:
        is_object = isinstance(decode(written), dict)
    except NOT_JSON:
        is_object = False
    return msgspec.Raw(written) if is_object else {"_raw_arguments": arguments}
