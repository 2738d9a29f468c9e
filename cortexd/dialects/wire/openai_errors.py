"""The OpenAI error envelope: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from cortexd import sse
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.errors import CortexError


def envelope(error: CortexError) -> JsonObject:
    """Return the error in the OpenAI dialect."""
    return {
        "error": {
            "message": error.message,
            "type": error.openai_type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_body(error: CortexError) -> bytes:
    """Return the body of an error response."""
    return encode(envelope(error))


def error_event(error: CortexError) -> bytes:
    """Return the error as an event inside a stream that has begun.

    The SDKs raise an exception for data with an ``error`` key; no ``[DONE]`` may follow it.
    """
    return sse.encode(encode(envelope(error)))
