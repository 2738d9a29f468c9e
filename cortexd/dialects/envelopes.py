"""Errors in the envelope of the client's own route."""

from __future__ import annotations

import math

from cortexd.dialects import anthropic_errors, openai_errors
from cortexd.dialects.exchange import JSON
from cortexd.errors import CortexError, ModelDoesNotFit

_MESSAGES = "/v1/messages"


def _is_anthropic(path: str) -> bool:
    return path == _MESSAGES or path.startswith(f"{_MESSAGES}/")


def error_status(path: str, error: CortexError) -> int:
    """Return the HTTP status that an error has for a request for ``path``."""
    return anthropic_errors.status_of(error) if _is_anthropic(path) else error.status


def request_id_headers(path: str, request_id: str) -> dict[str, str]:
    """Return the headers by which a client of the path's dialect finds the id of its request."""
    headers = {"X-Request-ID": request_id}
    if _is_anthropic(path):
        headers["Request-Id"] = request_id
    return headers


def error_response(
    path: str, error: CortexError, request_id: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a request for ``path`` that failed.

    The path decides the dialect even where nothing is served at it. ``request_id`` is for the
    dialect that has it in the body.
    """
    headers = {"Content-Type": JSON}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.allow:
        headers["Allow"] = ", ".join(error.allow)
    if isinstance(error, ModelDoesNotFit):
        headers["X-Should-Retry"] = "false"  # to the SDKs a 503 else means to try again
    if _is_anthropic(path):
        body = anthropic_errors.error_body(error, request_id)
    else:
        body = openai_errors.error_body(error)
    return error_status(path, error), headers, body
