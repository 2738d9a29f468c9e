"""Headers as text. Twisted's own access by text raises UnicodeDecodeError for other than UTF-8."""

from __future__ import annotations

from twisted.web.http_headers import Headers


def header_text(headers: Headers, name: str) -> str | None:
    """Return the last value of a header, ``None`` where the header is absent.

    Bytes that are not UTF-8 are replaced.
    """
    values = headers.getRawHeaders(name.encode("ascii"))
    return values[-1].decode("utf-8", "replace") if values else None


def header_list(headers: Headers, name: str) -> str:
    """Return all values of a list header as one (RFC 9110 5.3), ``""`` where it is absent."""
    values = headers.getRawHeaders(name.encode("ascii"), [])
    return b",".join(values).decode("utf-8", "replace")
