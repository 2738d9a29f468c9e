"""Where the pictures and sounds of a request come from, and a node's words if it cannot have them.

The simulated node has no network: each remote address is one that no name server knows.
Checked against `media_source.rs` and `chat_completion.rs` of mistral.rs 9e922623 (nodes.md 4.1.10).
"""

import base64
import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_SIGNATURES: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"BM",
    b"II*\0",
    b"MM\0*",
)
"""The first bytes of the picture formats that the node recognises."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def picture_fault(url: str) -> str | None:
    """Return the node's words for a picture that it cannot have, None if it can."""
    fault = source_fault(url, "image")
    if fault is not None:
        return fault
    if not _decoded(url).startswith(_SIGNATURES):
        return "The image format could not be determined"
    return None


def source_fault(url: str, kind: str) -> str | None:
    """Return the node's words for an `image`, `audio` or `video` that it cannot fetch or decode."""
    expected = f"Invalid {kind} source: expected http, https, or data URL"
    if not _SCHEME.match(url):
        return f"{expected}: relative URL without a base"
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        try:
            _decoded(url)
        except ValueError:
            return f"Failed to parse {kind} resource: {url}"
        return None
    if scheme == "file":
        return f"Server request {kind} sources do not support file URLs."
    if scheme not in ("http", "https"):
        return f"Unsupported {kind} URL scheme: {scheme}"
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return f"{expected}: invalid IPv6 address"
    if _is_near(host):
        return "Remote media URLs must not target private or local IP addresses."
    return "failed to lookup address information: Name or service not known"


def _decoded(url: str) -> bytes:
    """Return the bytes of a data URL; ValueError if it has none."""
    _, comma, data = url.partition(",")
    if not comma:
        raise ValueError("a data URL needs a comma")
    text = re.sub(r"\s", "", data)
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _is_near(host: str) -> bool:
    """Return whether a host is this machine or in a private network."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
