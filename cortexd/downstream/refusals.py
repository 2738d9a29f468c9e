"""The response to a request that the server refuses before it has read the whole of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.errors import CortexError
from cortexd.logs import get_logger

_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    529: "Overloaded",
}
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

log = get_logger("cortexd.http")


def request_id_of(given: str | None) -> str:
    """Return the client's own request id where it is a plain one, else a new one."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return f"req_{os.urandom(16).hex()}"


def refusal(path: str, error: CortexError, request_id: str, more: Mapping[str, str]) -> bytes:
    """Return the whole response, in the envelope of the path, with ``more`` headers."""
    status, headers, body = error_response(path, error, request_id)
    headers |= {
        "Content-Length": str(len(body)),
        "Connection": "close",
        **request_id_headers(path, request_id),
        **more,
    }
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def log_refusal(request_id: str, error: CortexError, client: str) -> None:
    """Log that the request of the client at this host was refused before any route had it."""
    log.info(
        "request_refused",
        request_id=request_id,
        status=error.status,
        reason=error.code or error.openai_type,
        client=client,
    )
