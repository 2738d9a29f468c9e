"""What is left of the limits of a client's key, in the headers of each dialect.

OpenAI's give the time until all of a limit is back, as ``120ms``, ``1s`` or ``6m0s``; Anthropic's
give the moment, in UTC, as RFC 3339 writes it (translation.md 5.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from cortexd.access.limits import Allowance, Standing

_KINDS: Final = ("requests", "tokens")

EXPOSED: Final = tuple(
    name
    for kind in _KINDS
    for part in ("limit", "remaining", "reset")
    for name in (f"x-ratelimit-{part}-{kind}", f"anthropic-ratelimit-{kind}-{part}")
)
"""The names of all these headers, which a page in a browser may read."""


def openai_headers(standing: Standing) -> dict[str, str]:
    """Return the headers of the OpenAI dialect."""
    headers = {}
    for kind, left in _known(standing):
        headers[f"x-ratelimit-limit-{kind}"] = str(left.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(left.remaining)
        headers[f"x-ratelimit-reset-{kind}"] = duration(left.resets_in)
    return headers


def anthropic_headers(standing: Standing) -> dict[str, str]:
    """Return the headers of the Anthropic dialect."""
    headers = {}
    for kind, left in _known(standing):
        headers[f"anthropic-ratelimit-{kind}-limit"] = str(left.limit)
        headers[f"anthropic-ratelimit-{kind}-remaining"] = str(left.remaining)
        headers[f"anthropic-ratelimit-{kind}-reset"] = moment(standing.at + left.resets_in)
    return headers


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds, or below one second in milliseconds.

    It is rounded up, so that it is never too early.
    """
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def moment(at: float) -> str:
    """Return a time in unix seconds as RFC 3339 writes it, rounded up to seconds."""
    return datetime.fromtimestamp(math.ceil(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _known(standing: Standing) -> Iterator[tuple[str, Allowance]]:
    for kind, left in zip(_KINDS, (standing.requests, standing.tokens), strict=True):
        if left is not None:
            yield kind, left
