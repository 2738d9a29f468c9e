"""The target of a request, as HTTP/1.1 allows clients to write it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def without_authority(target: bytes) -> bytes:
    """Return the path of a target: a server must accept the absolute form too (RFC 9112 3.2.2)."""
    if target.startswith(b"/"):
        return target
    return _ABSOLUTE.sub(b"", target) or b"/"


def is_text(path: bytes) -> bool:
    """Return whether a path is UTF-8 once its percent-encoding is undone."""
    if b"%" not in path and path.isascii():
        return True
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
