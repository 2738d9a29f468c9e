"""What reverse proxies send, as recorded from those of contrib/proxies by ``make proxies``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NAME: Final = "gpu.example.com"
"""The name that clients ask for."""

VIA_NGINX: Final = """\
{line} HTTP/1.1
Host: {host}
X-Forwarded-For: {forwarded}{client}
X-Forwarded-Host: {host}
X-Forwarded-Proto: https
Content-Length: {length}
Accept-Encoding: identity
Content-Type: application/json

"""
"""nginx 1.22: it appends the client to the client's own X-Forwarded-For."""

VIA_CADDY: Final = """\
{line} HTTP/1.1
Host: {host}
Content-Length: {length}
Accept-Encoding: identity
Content-Type: application/json
Via: 1.1 Caddy
X-Forwarded-For: {client}
X-Forwarded-Host: {host}
X-Forwarded-Proto: https

"""
"""Caddy 2.11: it drops the client's own X-Forwarded-For, and adds Via."""

RECORDED: Final[Mapping[str, str]] = {"nginx": VIA_NGINX, "caddy": VIA_CADDY}


def passed_on(
    recorded: str, line: str, client: str, body: bytes = b"", forwarded: str = ""
) -> bytes:
    """Return the request of a client as a proxy passes it on; ``line`` is method and path.

    ``forwarded`` is the client's own X-Forwarded-For. All requests go over the same connections.
    """
    words = f"{forwarded}, " if forwarded else ""
    head = recorded.format(line=line, host=NAME, client=client, forwarded=words, length=len(body))
    return head.replace("\n", "\r\n").encode() + body
