"""Response objects in each status, with all fields of today's OpenAI SDK.

A response repeats what its request said, with OpenAI's defaults for what it left out
(translation.md 10.3). Each function returns a new object and leaves its argument as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject
from cortexd.errors import CortexError

_DEFAULTS: Final[JsonObject] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
"""The fields that a response repeats, with the value of each if the request has none."""

_NESTED: Final = ("reasoning", "text")
"""The fields whose missing parts have defaults too."""

_SERVED_AS: Final = "default"
"""The tier of service: nodes have no other."""

_KNOWN_CODES: Final = frozenset(
    {"context_length_exceeded", "insufficient_quota", "invalid_image", "rate_limit_exceeded"}
)
"""The codes of ours that clients know, and act on."""


def begun(fields: JsonObject, response_id: str, created_at: int, model: str) -> JsonObject:
    """Return the response to a request of ``fields``, in progress and without output.

    ``created_at`` is in unix seconds, ``model`` the id in the catalogue.
    """
    repeated = {
        name: default if fields.get(name) is None else fields[name]
        for name, default in _DEFAULTS.items()
    }
    for name in _NESTED:
        if isinstance(repeated[name], dict):
            repeated[name] = {**_DEFAULTS[name], **repeated[name]}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": fields.get("background") is True,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "service_tier": _SERVED_AS,
        "usage": None,
        **repeated,
    }


def queued(response: JsonObject) -> JsonObject:
    """Return the response before its work begins."""
    return {**response, "status": "queued"}


def in_progress(response: JsonObject) -> JsonObject:
    """Return the response while its work runs."""
    return {**response, "status": "in_progress"}


def completed(response: JsonObject, output: Sequence[JsonObject], usage: JsonObject) -> JsonObject:
    """Return the response with its whole output."""
    return {**response, "status": "completed", "output": list(output), "usage": usage}


def incomplete(
    response: JsonObject, output: Sequence[JsonObject], usage: JsonObject, reason: str
) -> JsonObject:
    """Return the response that ended early; ``reason`` is the dialect's."""
    ended = completed(response, output, usage)
    return {**ended, "status": "incomplete", "incomplete_details": {"reason": reason}}


def failed(
    response: JsonObject, error: CortexError, output: Sequence[JsonObject] = ()
) -> JsonObject:
    """Return the response that failed, with the items of its output that were complete."""
    described = {"code": code_of(error), "message": error.message}
    if error.code is not None:
        described["type"] = error.code
    if error.param is not None:
        described["param"] = error.param
    return {**response, "status": "failed", "error": described, "output": list(output)}


def cancelled(response: JsonObject) -> JsonObject:
    """Return the response whose work a client has cancelled."""
    return {**response, "status": "cancelled"}


def code_of(error: CortexError) -> str:
    """Return the dialect's code of an error; Codex repeats the request after ``server_error``."""
    if error.code in _KNOWN_CODES:
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"
