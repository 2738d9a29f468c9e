"""The Anthropic error envelope: ``{"type": "error", "error": {...}, "request_id"}``."""

from __future__ import annotations

from cortexd import sse
from cortexd.dialects.wire.contents import Unshowable
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.errors import CannotSee, ContextOverflow, CortexError

_KNOWN_OVERFLOW = "prompt is too long"
"""The words that make Claude Code compact its conversation."""

_KNOWN_OMISSION = "Could not process"
"""The words that make Claude Code retry without an image or a PDF."""


def status_of(error: CortexError) -> int:
    """Return the HTTP status of an error in this dialect, whose status for overload differs."""
    return error.status if error.anthropic_status is None else error.anthropic_status


def envelope(error: CortexError, request_id: str | None) -> JsonObject:
    """Return the error in the Anthropic dialect."""
    fields: JsonObject = {"type": error.anthropic_type, "message": _message(error)}
    if error.anthropic_code is not None:
        fields["details"] = {"error_code": error.anthropic_code}
    return {"type": "error", "error": fields, "request_id": request_id}


def error_body(error: CortexError, request_id: str | None) -> bytes:
    """Return the body of an error response."""
    return encode(envelope(error, request_id))


def error_event(error: CortexError, request_id: str | None) -> bytes:
    """Return the error as an event inside a stream that has begun; it must be the last event."""
    return sse.encode(encode(envelope(error, request_id)), b"error")


def _message(error: CortexError) -> str:
    """Return the message of an error, in the words that clients of the dialect react to.

    If the number of tokens of an overflowing prompt is unknown, the message has the minimum.
    """
    words = error.message
    if isinstance(error, Unshowable):
        return f"{_KNOWN_OMISSION} {error.medium}: {words}"
    if isinstance(error, CannotSee):
        return f"{_KNOWN_OMISSION} image: {words}"
    if not isinstance(error, ContextOverflow):
        return words
    limit = error.max_tokens
    if limit is None:
        return words if _KNOWN_OVERFLOW in words else f"{_KNOWN_OVERFLOW}: {words}"
    asked = max(error.prompt_tokens or 0, limit + 1)
    return f"{_KNOWN_OVERFLOW}: {asked} tokens > {limit} maximum"
