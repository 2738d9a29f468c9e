"""The response to a request that the server refuses before it has read the whole of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from twisted.web.http_headers import Headers

from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.errors import CortexError, Unauthenticated
from cortexd.headers import header_text
from cortexd.logs import get_logger

REASONS: Final[Mapping[int, bytes]] = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    529: b"Overloaded",
}
"""The words after each status in the status line; Twisted has none for 429, for example."""

_SANE_REQUEST_ID = re.compile(r"(?!.*sk-cortex-)[A-Za-z0-9._:/+=@-]{1,128}", re.IGNORECASE)

BEARER: Final = b'Bearer realm="cortex"'
BASIC: Final = b'Basic realm="cortex", charset="UTF-8"'

log = get_logger("cortexd.http")


def request_id_of(given: str | None) -> str:
    """Return the client's own request id where it is a plain one, else a new one.

    One with a key of ours in it would go to the log and to the nodes.
    """
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return f"req_{os.urandom(16).hex()}"


def challenges(method: bytes, asked: Headers) -> tuple[bytes, ...]:
    """Return how a client can send its key, for WWW-Authenticate (RFC 9110 11.6.1).

    A browser that opens a page asks for a password. One that runs a page must not, so that the
    page can.
    """
    mode = header_text(asked, "sec-fetch-mode")
    if mode is None:  # browsers send it to this machine and over TLS only
        accepts_pages = "text/html" in (header_text(asked, "accept") or "")
        opens_page = method in (b"GET", b"HEAD") and accepts_pages
    else:
        opens_page = mode == "navigate"
    return (BEARER, BASIC) if opens_page else (BEARER,)


def refusal(path: str, error: CortexError, request_id: str, more: Mapping[str, str]) -> bytes:
    """Return the whole response, in the envelope of the path, with ``more`` headers."""
    status, headers, body = error_response(path, error, request_id)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = BEARER.decode()
    headers |= {
        "Content-Length": str(len(body)),
        "Connection": "close",
        **request_id_headers(path, request_id),
        **more,
    }
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, b'Error').decode()}"]
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
