"""The Anthropic error envelope: ``{"type": "error", "error": {...}, "request_id"}``."""

from __future__ import annotations

import re

from cortexd import sse
from cortexd.dialects.json_values import JsonObject, encode
from cortexd.errors import ContextOverflow, CortexError

_KNOWN_OVERFLOW = "prompt is too long"
"""The words by which Claude Code knows that it must compact its conversation."""

_LIMIT = re.compile(
    r"(?:maximum|context (?:size|length|window)|greater than|longer than|>)\D{0,24}(\d{1,12})",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,12}")


def status_of(error: CortexError) -> int:
    """Return the HTTP status of an error in this dialect, which has one of its own for overload."""
    return error.status if error.anthropic_status is None else error.anthropic_status


def envelope(error: CortexError, request_id: str | None) -> JsonObject:
    """Return the error as the Anthropic dialect says it."""
    return {
        "type": "error",
        "error": {"type": error.anthropic_type, "message": _message(error)},
        "request_id": request_id,
    }


def error_body(error: CortexError, request_id: str | None) -> bytes:
    """Return the body of an error response."""
    return encode(envelope(error, request_id))


def error_event(error: CortexError, request_id: str | None) -> bytes:
    """Return the error as an event inside a stream that has begun; nothing may follow it."""
    return sse.encode(encode(envelope(error, request_id)), b"error")


def _message(error: CortexError) -> str:
    """Return the words of an error; those of an overflow as the dialect's clients know them.

    A node may name the limit only: then the prompt has at least one token more.
    """
    words = error.message
    if not isinstance(error, ContextOverflow) or _KNOWN_OVERFLOW in words:
        return words
    found = _LIMIT.search(words)
    if found is None:
        return f"{_KNOWN_OVERFLOW}: {words}"
    limit = int(found[1])
    asked = max(int(number) for number in _NUMBER.findall(words))
    if asked > limit:
        return f"{_KNOWN_OVERFLOW}: {asked} tokens > {limit} maximum"
    return f"{_KNOWN_OVERFLOW}: at least {limit + 1} tokens > {limit} maximum"
