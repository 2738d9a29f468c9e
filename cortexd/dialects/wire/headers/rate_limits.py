"""What is left of the limits of a client's key, in the headers of each dialect.

OpenAI's give the time until all of a limit is back, as ``120ms``, ``1s`` or ``6m0s``; Anthropic's
give the moment, in UTC, as RFC 3339 writes it (translation.md 5.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from cortexd.access.limits import Allowance, Standing

_PARTS: Final = ("limit", "remaining", "reset")
_KINDS: Final = ("requests", "tokens")

_OPENAI: Final = tuple(tuple(f"x-ratelimit-{part}-{kind}" for part in _PARTS) for kind in _KINDS)
_ANTHROPIC: Final = tuple(
    tuple(f"anthropic-ratelimit-{kind}-{part}" for part in _PARTS) for kind in _KINDS
)

EXPOSED: Final = tuple(name for names in (*_OPENAI, *_ANTHROPIC) for name in names)
"""The names of all these headers, which a page in a browser may read."""


def openai_headers(standing: Standing) -> dict[str, str]:
    """Return the headers of the OpenAI dialect."""
    return _headers(_OPENAI, standing, lambda left: duration(left.resets_in))


def anthropic_headers(standing: Standing) -> dict[str, str]:
    """Return the headers of the Anthropic dialect."""
    return _headers(_ANTHROPIC, standing, lambda left: moment(standing.at + left.resets_in))


def _headers(
    all_names: Sequence[tuple[str, ...]], standing: Standing, reset_of: Callable[[Allowance], str]
) -> dict[str, str]:
    headers = {}
    for names, left in zip(all_names, standing[:2], strict=True):
        if left is not None:
            limit, remaining, reset = names
            headers[limit] = str(left.limit)
            headers[remaining] = str(left.remaining)
            headers[reset] = reset_of(left)
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
