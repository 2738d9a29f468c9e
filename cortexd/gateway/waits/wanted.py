"""How long a client will wait for a replica, as its request says; pure.

The header is for programs that set headers, the query for those that only know an address. A value
that cannot be read is an error rather than ignored: a client that would not wait must not wait.
"""

from __future__ import annotations

import re
from typing import Final

from cortexd.errors import BadRequest

WAIT_HEADER: Final = "X-Cortex-Wait"
WAIT_QUERY: Final = "wait"

_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def wanted_wait(header: str | None, query: str | None) -> float | None:
    """Return for how many seconds a client will wait, ``None`` where it does not say.

    ``header`` and ``query`` are the values of the request, ``None`` where it has none; the header
    counts before the query. Raises BadRequest, with the place of the faulty value as its ``param``.
    """
    for value, place in ((header, WAIT_HEADER), (query, WAIT_QUERY)):
        if value is not None:
            return _seconds(value.strip(), place)
    return None


def _seconds(value: str, place: str) -> float:
    if _SECONDS.fullmatch(value) is None:
        words = (
            f"{place} is how many seconds the client will wait for a replica, such as 0 or 2.5, "
            f"and not {value[:40]!r}"
        )
        raise BadRequest(words, param=place)
    return float(value)
