"""The events of a Messages stream: their names, and how those are written that we make ourselves.

The order in which they may come is in ``messages_reading``.
"""

from __future__ import annotations

from typing import Final

from cortexd import sse
from cortexd.dialects.wire.json_values import JsonObject, encode, rendered

MESSAGE_START: Final = "message_start"
BLOCK_START: Final = "content_block_start"
BLOCK_DELTA: Final = "content_block_delta"
BLOCK_STOP: Final = "content_block_stop"
MESSAGE_DELTA: Final = "message_delta"
MESSAGE_STOP: Final = "message_stop"

DELTAS: Final = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""Of each type of block: the delta that brings its text, and the field that this is in."""

_DELTA_NAME: Final = BLOCK_DELTA.encode()

SIGNATURE: Final = "cortex"
"""Stands where Anthropic signs thinking. Claude Code sends it back with the next turn
(translation.md 1.2.9)."""

PINGS_SUFFICE_SECONDS: Final = 120.0
"""How long pings are enough. Claude Code does not count them as life and after 300 s without any
asks a second time (translation.md 1.6.3)."""


def encode_event(data: JsonObject) -> bytes:
    """Return an event, which is named by the ``type`` in its data. Raises BadGateway."""
    return sse.encode(rendered(data), data["type"].encode())


PING: Final = encode_event({"type": "ping"})
MESSAGE_STOPPED: Final = encode_event({"type": MESSAGE_STOP})


def block_started(index: int, block: JsonObject) -> bytes:
    """Return the event with which a block begins."""
    return encode_event({"type": BLOCK_START, "index": index, "content_block": block})


def thinking_started(index: int) -> bytes:
    """Return the event with which a block of thinking begins."""
    return block_started(index, {"type": "thinking", "thinking": "", "signature": ""})


def block_delta(index: int, block_type: str, text: str) -> bytes:
    """Return the event that brings more of a block's text; an empty one keeps a client waiting.

    The type is one of those in DELTAS.
    """
    name, field = DELTAS[block_type]
    delta = {"type": name, field: text}
    data = {"type": BLOCK_DELTA, "index": index, "delta": delta}
    return sse.encode(encode(data), _DELTA_NAME)  # the short way, as there are so many


def block_stopped(index: int) -> bytes:
    """Return the event with which a block ends."""
    return encode_event({"type": BLOCK_STOP, "index": index})


def thinking_stopped(index: int) -> bytes:
    """Return the events with which a block of thinking ends, which is signed then."""
    delta = {"type": "signature_delta", "signature": SIGNATURE}
    signed = encode_event({"type": BLOCK_DELTA, "index": index, "delta": delta})
    return signed + block_stopped(index)
