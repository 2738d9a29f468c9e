"""Headers as text: Twisted itself raises UnicodeDecodeError for a header that is not UTF-8."""

from __future__ import annotations

from twisted.web.http_headers import Headers


def header_text(headers: Headers, name: str) -> str | None:
    """Return the last value of a header, or ``None`` if the header is missing.

    Bytes that are not UTF-8 are replaced.
    """
    values = headers.getRawHeaders(name.encode("ascii"))
    return values[-1].decode("utf-8", "replace") if values else None


def header_list(headers: Headers, name: str) -> str:
    """Return all values of a list header joined by commas (RFC 9110 5.3); "" if it is missing."""
    values = headers.getRawHeaders(name.encode("ascii"), [])
    return b",".join(values).decode("utf-8", "replace")
