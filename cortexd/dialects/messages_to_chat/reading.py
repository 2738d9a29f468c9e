"""A node's chat answer, read for a Messages answer: what each chunk brings, and how it ends.

Beyond what nodes send this reads what other upstreams of the dialect do: thinking as ``reasoning``,
a refusal's words, the single ``function_call`` of old, and vLLM's ``stop_reason``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cortexd.dialects.messages_to_chat.blocks import BlockEvent, Blocks, Delta
from cortexd.dialects.messages_to_chat.calls import CallDelta
from cortexd.dialects.messages_to_chat.inline_thinking import Passage, ThinkingSplitter
from cortexd.dialects.nodes.answers import broken_off, unknown_shape
from cortexd.dialects.nodes.chat_stream import NodeStream, read_finish_reason
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile, ThinkingWish
from cortexd.dialects.wire.token_counts import TokenCounts, ending, read_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTerms:
    """What is known of a chat's answer before any attempt at it.

    ``stop_sequences`` are looked for in the text unless the profile has them sent upstream.
    ``one_tool_call`` ends the answer after the first call.
    """

    asked: Asked
    stop_sequences: tuple[str, ...]
    thinking: ThinkingWish
    one_tool_call: bool
    profile: Profile

    @property
    def scanned_sequences(self) -> tuple[str, ...]:
        """The stop sequences that are looked for in the text."""
        return () if self.profile.forward_stop else self.stop_sequences

    def blocks(self, *, thinking_is_open: bool = False) -> Blocks:
        """Return what makes the blocks of one attempt; see Blocks."""
        return Blocks(
            thinking=self.thinking,
            stop_sequences=self.scanned_sequences,
            one_tool_call=self.one_tool_call,
            call_id_stem="toolu_" + self.asked.message_id.removeprefix("msg_"),
            thinking_is_open=thinking_is_open,
        )

    def message(
        self, content: list[JsonObject], reason: JsonObject, counts: TokenCounts
    ) -> JsonObject:
        """Return the message as an object of the dialect."""
        return {
            **self.asked.head,
            "content": content,
            **reason,
            **self.asked.edits,
            "usage": {**counts.rendered(), "service_tier": "standard"},
        }


class AnswerReader(NodeStream):
    """Reads a node's answer for one attempt.

    ``cut_short`` says that the answer is complete though the node would go on: its connection is
    of no more use.
    """

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(_brings_content)
        self.terms = terms
        self.finish_reason: str | None = None
        self.cut_short = False
        self._met_upstream: str | None = None
        self._splitter = ThinkingSplitter() if terms.profile.inline_thinking else None

    def read(self, blocks: Blocks, chunk: JsonObject) -> list[BlockEvent]:
        """Return what a chunk means for the blocks; what follows the end means nothing.

        Raises BadGateway.
        """
        if self.finish_reason is not None or blocks.is_over or not chunk["choices"]:
            return []
        choice = chunk["choices"][0]
        events = self._take(blocks, choice["delta"])
        self.finish_reason = read_finish_reason(choice)
        if choice.get("stop_reason") in self.terms.stop_sequences:
            self._met_upstream = choice["stop_reason"]
        # A node that has said why it ended has its usage still to send.
        self.cut_short = blocks.is_over and not self.finished
        return events

    def _take(self, blocks: Blocks, delta: Delta) -> list[BlockEvent]:
        """Return what a delta means for the blocks, with the thinking in its text taken out."""
        splitter = self._splitter
        if splitter is None:
            return blocks.take(delta)
        events = blocks.take(delta._replace(text="", calls=())) if delta.thinking else []
        passages = splitter.feed(delta.text)
        if delta.calls:
            passages += splitter.flush()
        events += _take_passages(blocks, passages)
        return events + blocks.take(Delta("", "", delta.calls))

    def close(self, blocks: Blocks) -> tuple[list[BlockEvent], JsonObject, TokenCounts]:
        """Return what is left of the blocks, why the answer ended, and its tokens.

        From then on it is done. Raises BadGateway where the answer is not complete.
        """
        self.done = False  # the node's word for it is not enough
        if self.finish_reason is None and not blocks.is_over:
            raise broken_off()
        events = []
        if self._splitter is not None:
            events += _take_passages(blocks, self._splitter.flush())
        events += blocks.end()
        counts = read_counts(self.node_usage or {})
        if self.usage is None or not counts.prompt:  # no prompt is without tokens
            estimate = self.terms.asked.prompt_estimate
            counts = replace(counts, input=estimate, output=counts.output or self.content_chunks)
            self.usage = Usage(counts.prompt, counts.output, estimated=True)
        reason = ending(
            self.finish_reason,
            self.usage,
            has_calls=blocks.has_calls,
            stop_sequence=blocks.stop_sequence or self._met_upstream,
            context_window=self.terms.profile.context_window,
        )
        self.done = True
        return events, reason, counts


def _take_passages(blocks: Blocks, passages: list[Passage]) -> list[BlockEvent]:
    """Return what passages of a text mean for the blocks, until one of them ends the answer."""
    events: list[BlockEvent] = []
    for is_thinking, text in passages:
        if blocks.is_over:
            break
        events += blocks.take(Delta(text, "", ()) if is_thinking else Delta("", text, ()))
    return events


def _brings_content(choice: JsonObject) -> bool:
    """Put a Delta in the place of a choice's delta, and tell whether it brings content."""
    delta = choice["delta"] = read_delta(_object(choice, "delta"))
    return bool(delta.text or delta.thinking or delta.calls)


def read_delta(given: JsonObject) -> Delta:
    """Return what a chunk's delta brings. Raises BadGateway."""
    calls = given.get("tool_calls")
    if calls is None and given.get("function_call") is not None:
        calls = [{"function": given["function_call"]}]
    return Delta(
        _either_string(given, "reasoning_content", "reasoning"),
        _either_string(given, "content", "refusal"),
        () if calls is None else _read_calls(calls),
    )


def _read_calls(calls: object) -> tuple[CallDelta, ...]:
    if not isinstance(calls, list):
        raise unknown_shape("tool_calls")
    found = []
    for place, call in enumerate(calls):
        if not isinstance(call, dict):
            raise unknown_shape("tool_calls")
        index = call.get("index")
        function = _object(call, "function")
        found.append(
            CallDelta(
                index if isinstance(index, int) else place,
                _string(call, "id"),
                _string(function, "name"),
                _string(function, "arguments"),
            )
        )
    return tuple(found)


def _object(parent: JsonObject, field: str) -> JsonObject:
    value = parent.get(field)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise unknown_shape(field)


def _either_string(parent: JsonObject, field: str, other: str) -> str:
    """Return the first of two strings that is not empty."""
    value = parent.get(field)
    if value is None or value == "":
        field, value = other, parent.get(other)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise unknown_shape(field)


def _string(parent: JsonObject, field: str) -> str:
    value = parent.get(field)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise unknown_shape(field)
