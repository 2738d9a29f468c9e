"""Headers as text: Twisted raises UnicodeDecodeError where one that is asked for is not UTF-8."""

from __future__ import annotations

from twisted.web.http_headers import Headers


def header_text(headers: Headers, name: str) -> str | None:
    """Return the last value of a header, ``None`` where there is none.

    What is not UTF-8 in it is replaced.
    """
    values = headers.getRawHeaders(name.encode("ascii"))
    return values[-1].decode("utf-8", "replace") if values else None


def header_list(headers: Headers, name: str) -> str:
    """Return all values of a header that is a list, as one (RFC 9110 5.3); "" of none."""
    values = headers.getRawHeaders(name.encode("ascii"), [])
    return b",".join(values).decode("utf-8", "replace")
