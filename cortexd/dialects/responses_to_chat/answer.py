"""A response made of a node's chat answer: what both ways of answering share, and the whole one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from cortexd.dialects.messages_to_chat.blocks import BlockEvent, Blocks, BlockStopped
from cortexd.dialects.messages_to_chat.reading import AnswerReader, AnswerTerms
from cortexd.dialects.nodes.chat_stream import InOnePiece, read_choices, read_chunk
from cortexd.dialects.openai.responses_stream import Opening
from cortexd.dialects.responses_to_chat import objects
from cortexd.dialects.responses_to_chat.output import Output
from cortexd.dialects.responses_to_chat.tools import ClientTool
from cortexd.dialects.wire.exchange import Outcome
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.sse import ServerSentEvent

_CUT_BY: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The reasons of an incomplete response, by the finish reason of the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTerms:
    """The parts of a request that its answer depends on.

    ``begun`` is the response in progress, ``stem`` makes our ids unique, and ``tools`` has the
    client's tools by the node's names. All responders of the request share ``opening`` and
    ``outcome``. ``answer`` are the terms of reading the node's answer.
    """

    begun: JsonObject
    stem: str
    tools: Mapping[str, ClientTool]
    shows_encrypted: bool
    opening: Opening
    outcome: Outcome
    answer: AnswerTerms


class ResponseReader(AnswerReader):
    """Reads a node's answer for one attempt, and makes the response of it."""

    def __init__(self, terms: ResponseTerms) -> None:
        super().__init__(terms.answer)
        self._response_terms = terms
        self._output = Output(terms.stem, terms.tools, shows_encrypted=terms.shows_encrypted)
        self._blocks = Blocks(
            thinking=ThinkingWish.SHOWN,
            stop_sequences=(),
            one_tool_call=terms.answer.one_tool_call,
            call_id_stem=f"call_{terms.stem}",
        )

    def read_events(self, chunk: JsonObject) -> list[BlockEvent]:
        """Return the block events for a chunk. Raises BadGateway."""
        return self.read(self._blocks, chunk)

    def close_response(self) -> tuple[list[JsonObject], JsonObject]:
        """Return the remaining events of items, and the response, which is the outcome.

        Raises BadGateway if the answer is not complete.
        """
        blocks, _, counts = self.close(self._blocks)
        reason = _CUT_BY.get(self.finish_reason or "")
        stops = [place for place, event in enumerate(blocks) if isinstance(event, BlockStopped)]
        cut = stops[-1] if stops and reason is not None else None
        self.done = False  # the output may be too large, and then a stream still has to fail
        events = [
            made
            for place, event in enumerate(blocks)
            for made in self._output.take(event, is_cut=place == cut)
        ]
        self.done = True
        usage, output = rendered_usage(counts), self._output.items
        begun = self._response_terms.begun
        if reason is None:
            response = objects.completed(begun, output, usage)
        else:
            response = objects.incomplete(begun, output, usage, reason)
        self._response_terms.outcome.response = response
        return events, response


class WholeResponse(InOnePiece, ResponseReader):
    """Collects a node's answer, streamed or whole, into one response."""

    def __init__(self, terms: ResponseTerms) -> None:
        super().__init__(terms)
        self._whole: bytes | None = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Collect one event; no bytes go downstream yet."""
        chunk = self.take_chunk(event)
        if chunk is not None:
            for block in self.read_events(chunk):
                self._output.take(block)
            self.done = self.cut_short
        if self.done and self._whole is None:
            self._whole = self._rendered()  # if this fails, the node's event is at fault
        return b""

    def finish(self) -> bytes:
        """Return the whole response; see Responder."""
        return self._rendered() if self._whole is None else self._whole

    def take_body(self, body: bytes) -> bytes:
        """Return the response for a node's whole answer; see Responder."""
        answer = read_chunk(ServerSentEvent(body))
        for choice in read_choices(answer):
            choice["delta"] = choice.get("message")
        self.feed(ServerSentEvent(encode(answer)))
        return self.finish()

    def _rendered(self) -> bytes:
        _, response = self.close_response()
        return encode(response)


def rendered_usage(counts: TokenCounts) -> JsonObject:
    """Return the dialect's ``usage``, always with all its counts."""
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {
            "cached_tokens": counts.cache_read,
            "cache_write_tokens": counts.cache_creation,
        },
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.thinking or 0},
        "total_tokens": counts.prompt + counts.output,
    }


def whole_factory(terms: ResponseTerms) -> Callable[[], WholeResponse]:
    """Return the factory of responders for a client without a stream."""
    return partial(WholeResponse, terms)
