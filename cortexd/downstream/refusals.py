"""The response to a request that the server refuses before it has read the whole of it."""

from __future__ import annotations

from collections.abc import Mapping

from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.errors import CortexError

_REASONS = {
    400: "Bad Request",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}


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
