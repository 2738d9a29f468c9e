"""Errors in the envelope of the client's own route.

If a path belongs to both dialects, the header ``anthropic-version`` identifies a client of
Anthropic's dialect; ``has_version`` says whether it was sent.
"""

from __future__ import annotations

import math

from cortexd.access.limits import Standing
from cortexd.dialects.wire import anthropic_errors, openai_errors
from cortexd.dialects.wire.exchange import JSON
from cortexd.dialects.wire.headers.rate_limits import anthropic_headers, openai_headers
from cortexd.dialects.wire.headers.waits import eta_headers
from cortexd.errors import (
    CortexError,
    EncodedBody,
    KeyOverBudget,
    LastingNodeError,
    ModelDoesNotFit,
    ModelLoading,
    RequestIsFatal,
    Unauthenticated,
)

IDENTITY = "identity"
"""The only Content-Encoding that a request's body may have: no encoding."""

_NEVER_OTHERWISE = (
    ModelDoesNotFit,
    LastingNodeError,
    RequestIsFatal,
    KeyOverBudget,
    Unauthenticated,
)
"""The errors that the same request meets for long; Claude Code would repeat a 401 for minutes
(translation.md 1.3.13)."""

_MESSAGES = "/v1/messages"
_OPENAI = (
    "/v1/audio",
    "/v1/chat",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images",
    "/v1/responses",
)


def _is_anthropic(path: str, has_version: bool) -> bool:
    if _is_at(path, _MESSAGES):
        return True
    return has_version and not any(_is_at(path, route) for route in _OPENAI)


def _is_at(path: str, route: str) -> bool:
    return path == route or path.startswith(f"{route}/")


def error_status(path: str, error: CortexError, *, has_version: bool = False) -> int:
    """Return the HTTP status of an error for a request for ``path``."""
    if _is_anthropic(path, has_version):
        return anthropic_errors.status_of(error)
    return error.status


def request_id_headers(path: str, request_id: str, *, has_version: bool = False) -> dict[str, str]:
    """Return the headers with the request's id, in the dialect of the path."""
    headers = {"X-Request-ID": request_id}
    if _is_anthropic(path, has_version):
        headers["Request-Id"] = request_id
    return headers


def limit_headers(path: str, standing: Standing, *, has_version: bool = False) -> dict[str, str]:
    """Return the headers with what is left of a key's limits, in the dialect of the path."""
    if _is_anthropic(path, has_version):
        return anthropic_headers(standing)
    return openai_headers(standing)


def error_response(
    path: str, error: CortexError, request_id: str | None = None, *, has_version: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a failed request for ``path``.

    The path determines the dialect, even if it has no route. ``request_id`` is needed for the
    dialect whose body contains it.
    """
    headers = {"Content-Type": JSON}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, ModelLoading):
        headers |= eta_headers(error.retry_after)
    if error.allow:
        headers["Allow"] = ", ".join(error.allow)
    if isinstance(error, EncodedBody):
        headers["Accept-Encoding"] = IDENTITY
    if isinstance(error, _NEVER_OTHERWISE):
        headers["X-Should-Retry"] = "false"
    if _is_anthropic(path, has_version):
        body = anthropic_errors.error_body(error, request_id)
    else:
        body = openai_errors.error_body(error)
    return error_status(path, error, has_version=has_version), headers, body
