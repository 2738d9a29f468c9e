"""Reads a node's chat answer for a Messages answer: the content of each chunk, and the end.

In addition to the fields of nodes, it reads those of other upstreams: thinking as ``reasoning``,
the text of a ``refusal``, the old single ``function_call``, and vLLM's ``stop_reason``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cortexd.dialects.messages_to_chat.blocks import BlockEvent, Blocks, Delta, Kind
from cortexd.dialects.messages_to_chat.calls import CallDelta, read_index
from cortexd.dialects.messages_to_chat.inline_thinking import Passage, ThinkingSplitter
from cortexd.dialects.nodes.answers import broken_off, unknown_shape
from cortexd.dialects.nodes.chat_stream import NodeStream, read_finish_reason
from cortexd.dialects.wire.asked import Asked
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile, ThinkingWish
from cortexd.dialects.wire.token_counts import TokenCounts, ending, read_counts

TEXT_KEYS: Final = {
    Kind.THINKING: (b'"reasoning_content":"', b'"reasoning":"'),
    Kind.TEXT: (b'"content":"',),
    Kind.TOOL: (),
}
"""The beginning of the JSON of a text in a chunk, for the short way (``mould``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTerms:
    """The terms of an answer that are known before any attempt.

    We look for ``stop_sequences`` in the text, unless the profile forwards them. ``one_tool_call``
    ends the answer after the first call.
    """

    asked: Asked
    stop_sequences: tuple[str, ...]
    thinking: ThinkingWish
    one_tool_call: bool
    profile: Profile

    @property
    def scanned_sequences(self) -> tuple[str, ...]:
        """The stop sequences that we look for in the text."""
        return () if self.profile.forward_stop else self.stop_sequences

    def blocks(self, *, thinking_is_open: bool = False) -> Blocks:
        """Return the Blocks of one attempt."""
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

    ``cut_short`` means that the answer is complete although the node would continue, so that its
    connection cannot be reused.
    """

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(_brings_content)
        self.terms = terms
        self.finish_reason: str | None = None
        self.cut_short = False
        self._met_upstream: str | None = None
        self._splitter = ThinkingSplitter() if terms.profile.inline_thinking else None

    def read(self, blocks: Blocks, chunk: JsonObject) -> list[BlockEvent]:
        """Return the block events for a chunk; chunks after the end are ignored.

        Raises BadGateway.
        """
        if self.finish_reason is not None or blocks.is_over or not chunk["choices"]:
            return []
        choice = chunk["choices"][0]
        events = self._take(blocks, choice["delta"])
        self.finish_reason = read_finish_reason(choice)
        if choice.get("stop_reason") in self.terms.stop_sequences:
            self._met_upstream = choice["stop_reason"]
        # After its finish reason, the node still sends its usage.
        self.cut_short = blocks.is_over and not self.finished
        return events

    def _take(self, blocks: Blocks, delta: Delta) -> list[BlockEvent]:
        """Return the block events for a delta, with the thinking in its text separated."""
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
        """Return the remaining block events, the end of the answer, and its tokens.

        The reader is then done. Raises BadGateway if the answer is not complete.
        """
        self.done = False  # a finish reason of the node is not enough
        if self.finish_reason is None and not blocks.is_over:
            raise broken_off()
        events = []
        if self._splitter is not None:
            events += _take_passages(blocks, self._splitter.flush())
        events += blocks.end()
        counts = read_counts(self.node_usage or {})
        if self.usage is None or not counts.prompt:  # every prompt has tokens
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
    """Return the block events for passages of a text, until one of them ends the answer."""
    events: list[BlockEvent] = []
    for is_thinking, text in passages:
        if blocks.is_over:
            break
        events += blocks.take(Delta(text, "", ()) if is_thinking else Delta("", text, ()))
    return events


def _brings_content(choice: JsonObject) -> bool:
    """Replace a choice's delta by a Delta, and return whether it has content."""
    delta = choice["delta"] = read_delta(_object(choice, "delta"))
    return bool(delta.text or delta.thinking or delta.calls)


def read_delta(given: JsonObject) -> Delta:
    """Return the content of a chunk's delta. Raises BadGateway."""
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
        call_id = _string(call, "id")
        function = _object(call, "function")
        found.append(
            CallDelta(
                read_index(call.get("index"), call_id, place),
                call_id,
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
