"""A node's answer in the Messages dialect, read and checked event by event.

The reader accepts only valid streams of the dialect: one block is open at a time, and the answer is
complete at ``message_stop``, before which a ``message_delta`` must have a stop reason. The event
and the current phase determine the next phase:

===================  =========  =========  ==========  ========
event                WAITING    BETWEEN    IN_BLOCK    ENDING
===================  =========  =========  ==========  ========
message_start        BETWEEN
content_block_start             IN_BLOCK
content_block_delta                        IN_BLOCK
content_block_stop                         BETWEEN
message_delta                   ENDING*                ENDING
message_stop                                           ENDED
===================  =========  =========  ==========  ========

``*`` a ``message_delta`` without a stop reason does not change the phase. An event that is not in
the table is an error, and so is the end of the stream in any phase but ENDED. A ``ping`` is
ignored, and so is an event that the dialect does not have.

We number the blocks ourselves, so that the indexes have no gaps, whatever the node's indexes.
Unknown blocks, deltas and fields pass unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from cortexd.dialects.nodes.answers import (
    DONE,
    broken_off,
    read_event,
    read_id,
    unknown_shape,
)
from cortexd.dialects.nodes.errors import read_error_event
from cortexd.dialects.wire.anthropic_events import (
    BLOCK_DELTA,
    BLOCK_START,
    BLOCK_STOP,
    DELTAS,
    MESSAGE_DELTA,
    MESSAGE_START,
    MESSAGE_STOP,
)
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_extent import BLANKS
from cortexd.dialects.wire.json_values import JsonObject, integer, rendered
from cortexd.dialects.wire.token_counts import TokenCounts
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent

DISCONNECTED: Final = "upstream_disconnected"
"""The code of the error for a stream that ended too early (translation.md 4.4)."""


class Phase(Enum):
    """The phase of a stream; see the table above."""

    WAITING = "waiting"
    BETWEEN = "between"
    IN_BLOCK = "in_block"
    ENDING = "ending"
    ENDED = "ended"


NEXT: Final = {
    (Phase.WAITING, MESSAGE_START): Phase.BETWEEN,
    (Phase.BETWEEN, BLOCK_START): Phase.IN_BLOCK,
    (Phase.IN_BLOCK, BLOCK_DELTA): Phase.IN_BLOCK,
    (Phase.IN_BLOCK, BLOCK_STOP): Phase.BETWEEN,
    (Phase.BETWEEN, MESSAGE_DELTA): Phase.ENDING,
    (Phase.ENDING, MESSAGE_DELTA): Phase.ENDING,
    (Phase.ENDING, MESSAGE_STOP): Phase.ENDED,
}

_KINDS: Final = frozenset(kind for _, kind in NEXT)
_NAMES: Final = frozenset(kind.encode() for kind in _KINDS) | {b"error", b"message"}

TEXTS_OF_DELTAS: Final = {name: (block, field) for block, (name, field) in DELTAS.items()} | {
    "signature_delta": ("thinking", "signature")
}
"""By known delta with text: the block that it belongs to, and the field with the text."""

_STRICT_BLOCKS: Final = frozenset({"text", "thinking", "tool_use"})
"""The blocks that accept no other block's deltas. Claude Code drops an answer that mixes them
(translation.md 1.3.5). The deltas of other blocks are unknown."""


def disconnected() -> BadGateway:
    """Return the error for a stream that ended before its answer was complete."""
    error = broken_off()
    error.code = DISCONNECTED
    return error


def out_of_turn(kind: str) -> BadGateway:
    """Return the error for an event or a delta that the dialect does not allow here."""
    return BadGateway(f"the node sent a {kind} out of order", elsewhere=True)


@dataclass(slots=True)
class Block:
    """A block: its ``start`` from the node, and our ``index``.

    ``has_arguments`` means that a delta had arguments of a tool call.
    """

    index: int
    node_index: int
    kind: str
    start: JsonObject
    has_arguments: bool = False

    @property
    def arguments_at_start(self) -> bytes:
        """The arguments in the start of a call, empty if they come in deltas.

        Clients read arguments from deltas (translation.md 1.2.11), so these arguments must become a
        delta. Raises BadGateway.
        """
        given = None if self.has_arguments else self.start.get("input")
        return rendered(given) if given else b""


class MessagesReader:
    """Reads a node's stream, and has the attributes of a responder.

    ``message`` is the message in ``message_start``. ``ending`` merges all ``message_delta`` events
    into one; later fields replace earlier ones. ``node_usage`` merges all token counts of the node
    in the same way. ``stop_reason`` is the node's, once the answer has ended. ``block`` is the last
    started block, which is open as long as ``phase`` is IN_BLOCK; before the first block its index
    is -1.
    """

    def __init__(self) -> None:
        self.done = False
        self.content_chunks = 0
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self.phase = Phase.WAITING
        self.message: JsonObject = {}
        self.ending: JsonObject = {"type": MESSAGE_DELTA, "delta": {}, "usage": {}}
        self.node_usage: JsonObject = {}
        self.stop_reason: str | None = None
        self.block = Block(-1, -1, "", {})

    def take_event(self, event: ServerSentEvent) -> JsonObject | None:
        """Return the checked data of an event, or ``None`` if the event is ignored.

        The ``type`` of the data is one of those in the table, and the ``index`` is ours. Raises
        CortexError.
        """
        if self.done or event.name not in _NAMES:
            return None
        if event.data == DONE:
            raise disconnected()
        data = read_event(event)
        kind = _read_kind(event, data)
        if kind == "error":
            raise read_error_event(event.data)
        if kind not in _KINDS:
            return None
        phase = NEXT.get((self.phase, kind))
        if phase is None:
            raise out_of_turn(kind)
        data["type"] = kind
        if kind == BLOCK_DELTA:
            self._take_delta(data)
        elif kind == BLOCK_START:
            self._take_start(data)
        elif kind == BLOCK_STOP:
            self._check_index(data)
        elif kind == MESSAGE_START:
            self.message = _object(data, "message")
            self.upstream_id = read_id(self.message)
            self._take_usage(self.message.get("usage"))
        elif kind == MESSAGE_DELTA:
            self._take_ending(data)
            phase = self.phase if self.stop_reason is None else phase
        else:
            self.done = True
        self.phase = phase
        return data

    def counts(self) -> TokenCounts:
        """Return the node's token counts so far; missing counts are 0."""
        usage = self.node_usage
        details = usage.get("output_tokens_details")
        thinking = details.get("thinking_tokens") if isinstance(details, dict) else None
        return TokenCounts(
            input=integer(usage.get("input_tokens")),
            cache_creation=integer(usage.get("cache_creation_input_tokens")),
            cache_read=integer(usage.get("cache_read_input_tokens")),
            output=integer(usage.get("output_tokens")),
            thinking=None if thinking is None else integer(thinking),
        )

    def counts_or(self, prompt_estimate: int) -> TokenCounts:
        """Return the counts, with our estimate of the prompt if the node does not count it.

        mistral.rs reports 0 at the start and no count at the end (nodes.md 5.5).
        """
        counts = self.counts()
        return counts if counts.prompt else replace(counts, input=prompt_estimate)

    def _take_start(self, data: JsonObject) -> None:
        block = _object(data, "content_block")
        kind = block.get("type")
        if not isinstance(kind, str):
            raise unknown_shape("content_block")
        if kind == "tool_use":
            _check_call(block)
        brings_content = True
        if kind in ("text", "thinking"):
            # Clients append the deltas to the text of the start, so the start must have one.
            block[kind] = _text(block, kind)
            brings_content = bool(block[kind])
        self.block = Block(self.block.index + 1, _index(data), kind, block)
        self.content_chunks += brings_content
        data["index"] = self.block.index

    def _take_delta(self, data: JsonObject) -> None:
        self._check_index(data)
        block = self.block
        delta = _object(data, "delta")
        kind = delta.get("type")
        if not isinstance(kind, str):
            raise unknown_shape("delta")
        home, field = TEXTS_OF_DELTAS.get(kind, (block.kind, ""))
        if home != block.kind and block.kind in _STRICT_BLOCKS:
            raise out_of_turn(kind)
        if field:
            delta[field] = _text(delta, field)
        if kind == "input_json_delta" and delta[field].strip(BLANKS):
            block.has_arguments = True
        self.content_chunks += kind != "signature_delta" and bool(not field or delta[field])

    def _check_index(self, data: JsonObject) -> None:
        """Check that an event belongs to the open block, and set our index."""
        if _index(data) != self.block.node_index:
            raise out_of_turn(f"{data['type']} for a block that is not open")
        data["index"] = self.block.index

    def _take_ending(self, data: JsonObject) -> None:
        delta = {} if data.get("delta") is None else _object(data, "delta")
        self.stop_reason = _text(delta, "stop_reason") or self.stop_reason
        self._take_usage(data.get("usage"))
        self.ending = {
            **self.ending,
            **_said(data),
            "delta": {**self.ending["delta"], **_said(delta)},
            "usage": {**self.ending["usage"], **_said(data.get("usage"))},
        }

    def _take_usage(self, usage: object) -> None:
        given = _said(usage)
        if given:
            self.node_usage |= given
            counts = self.counts()
            cached = counts.cache_read if "cache_read_input_tokens" in self.node_usage else None
            self.usage = Usage(counts.prompt, counts.output, cached_tokens=cached)


def _said(fields: object) -> JsonObject:
    """Return the fields that are not null."""
    if not isinstance(fields, dict):
        return {}
    return {key: value for key, value in fields.items() if value is not None}


def _read_kind(event: ServerSentEvent, data: JsonObject) -> str:
    """Return the type of an event: that of its data, or else its name."""
    if data.get("error") is not None:
        return "error"
    kind = data.get("type")
    if isinstance(kind, str):
        return kind
    if kind is None and event.name != b"message":
        return event.name.decode()
    raise unknown_shape("type")


def _index(data: JsonObject) -> int:
    index = data.get("index")
    if not isinstance(index, int) or isinstance(index, bool):
        raise unknown_shape("index")
    return index


def _object(parent: JsonObject, field: str) -> JsonObject:
    value = parent.get(field)
    if not isinstance(value, dict):
        raise unknown_shape(field)
    return value


def _text(parent: JsonObject, field: str) -> str:
    """Return a text, empty if it is absent or null."""
    value = parent.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise unknown_shape(field)
    return value


def _check_call(block: JsonObject) -> None:
    for field in ("id", "name"):
        value = block.get(field)
        if not (isinstance(value, str) and value):
            raise unknown_shape(field)
    if block.get("input") is not None:
        _object(block, "input")
