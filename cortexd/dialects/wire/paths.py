"""The paths by which clients ask for a route, whatever base URL they were given.

Clients put their path behind a base URL in which people include ``/v1`` or leave it out, so that a
path may lack it or have it twice, and some clients add a slash at the end. Each of these paths
means the route of the canonical one.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = b"/v1"
_ROUTES: Final = frozenset(
    {
        b"agent",
        b"audio",
        b"chat",
        b"completions",
        b"containers",
        b"embeddings",
        b"files",
        b"images",
        b"messages",
        b"models",
        b"responses",
        b"sessions",
    }
)
"""The first segments of the routes below the prefix."""

_MODEL: Final = _PREFIX + b"/models/"
_UNLOADED: Final = b"/api/models/unload/"


def canonical(path: bytes) -> bytes:
    """Return the path of the route that a client means by ``path``; an unknown one is unchanged.

    An id of a model at the end of a path is left as it is: it may end in a slash.
    """
    found = b"/" + path.lstrip(b"/") if path.startswith(b"//") else path
    while found == _PREFIX + _PREFIX or found.startswith(_PREFIX + _PREFIX + b"/"):
        found = found[len(_PREFIX) :]
    if found[1:].partition(b"/")[0] in _ROUTES:
        found = _PREFIX + found
    names_model = any(found.startswith(start) and found != start for start in (_MODEL, _UNLOADED))
    if not names_model:
        found = found.rstrip(b"/") or b"/"
    return found
