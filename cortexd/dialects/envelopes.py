"""Errors in the envelope of the client's own route."""

from __future__ import annotations

import math

from cortexd.dialects import openai_errors
from cortexd.dialects.exchange import JSON
from cortexd.errors import CortexError


def error_response(path: str, error: CortexError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a request for ``path`` that failed.

    The path decides the dialect even where nothing is served at it.
    """
    headers = {"Content-Type": JSON}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.allow:
        headers["Allow"] = ", ".join(error.allow)
    return error.status, headers, openai_errors.error_body(error)
