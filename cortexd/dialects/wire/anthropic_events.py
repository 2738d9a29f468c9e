"""The events of a Messages stream: their names, and the encoding of the events that we make.

``dialects.nodes.messages_stream`` checks their order.
"""

from __future__ import annotations

from typing import Final

from cortexd import sse
from cortexd.dialects.wire.json_values import JsonObject, encode, rendered
from cortexd.dialects.wire.thoughts import signature_of

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
"""By type of block: the type of the delta with its text, and the delta's field for the text."""

_DELTA_NAME: Final = BLOCK_DELTA.encode()

PINGS_SUFFICE_SECONDS: Final = 120.0
"""How long pings are enough as keep-alives. They do not reset the timeout of Claude Code, which
retries after 300 s (translation.md 1.6.3)."""


def encode_event(data: JsonObject) -> bytes:
    """Return an event, whose name is the ``type`` in its data. Raises BadGateway."""
    return sse.encode(rendered(data), data["type"].encode())


PING: Final = encode_event({"type": "ping"})
MESSAGE_STOPPED: Final = encode_event({"type": MESSAGE_STOP})


def block_started(index: int, block: JsonObject) -> bytes:
    """Return the event that begins a block."""
    return encode_event({"type": BLOCK_START, "index": index, "content_block": block})


def thinking_started(index: int) -> bytes:
    """Return the event that begins a block of thinking."""
    return block_started(index, {"type": "thinking", "thinking": "", "signature": ""})


def block_delta(index: int, block_type: str, text: str) -> bytes:
    """Return the event with more of a block's text; an empty text is a keep-alive.

    The type must be one of DELTAS.
    """
    name, field = DELTAS[block_type]
    delta = {"type": name, field: text}
    data = {"type": BLOCK_DELTA, "index": index, "delta": delta}
    return sse.encode(encode(data), _DELTA_NAME)  # cheaper than encode_event: there are many deltas


def block_stopped(index: int) -> bytes:
    """Return the event that ends a block."""
    return encode_event({"type": BLOCK_STOP, "index": index})


def thinking_stopped(index: int, hidden: str = "") -> bytes:
    """Return the events that sign and end a block of thinking; the signature carries ``hidden``."""
    delta = {"type": "signature_delta", "signature": signature_of(hidden)}
    signed = encode_event({"type": BLOCK_DELTA, "index": index, "delta": delta})
    return signed + block_stopped(index)
