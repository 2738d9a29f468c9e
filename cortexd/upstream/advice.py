"""What to look at where a node's answer hints at a wrong endpoint, in words."""

from __future__ import annotations

from typing import Final

from cortexd.text import printable

MAYBE_TLS: Final = "if it speaks TLS on this port, let its endpoint begin with https://"
"""What we add where a node has never answered: many TLS servers only close on plain HTTP."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def advice_on(status: int, location: str | None, prefix: str, is_listing: bool) -> str:
    """Return what to look at where an answer's status hints at a wrong endpoint, else "".

    ``location`` is the answer's header, and ``prefix`` the endpoint's path without its first slash.
    A listing is on a path that every server has.
    """
    if status in REDIRECTS and location:
        target = location.partition("?")[0].partition("#")[0]  # the rest may be a secret
        return f"; it redirects to {printable(target)}: is its endpoint right?"
    if status == 404 and is_listing:
        if prefix:
            return f"; is the path of its endpoint right, /{printable(prefix)}?"
        return "; if a proxy serves it under a path, add the path to its endpoint"
    return ""
