"""Times and spans of time, as operators write them."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Final

SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)")
SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST: Final = 100 * 366 * 86400
SPANS: Final = "a span such as 90s, 30m, 12h, 7d or 2w"
MOMENTS: Final = f"a date such as 2027-01-31, a time such as 2027-01-31T18:00, or {SPANS}"


def span(text: str) -> float:
    """Return a span of time in seconds, at most LONGEST. Raises ArgumentTypeError."""
    found = SPAN.fullmatch(text)
    seconds = float(found[1]) * SECONDS[found[2]] if found else math.inf
    if seconds > LONGEST:
        raise ArgumentTypeError(f"found {text}, expected {SPANS}")
    return seconds


def moment(text: str) -> float:
    """Return a time in unix seconds, which may be written as a span from now.

    A time without a zone is in that of this machine, and a date is its first moment. Raises
    ArgumentTypeError.
    """
    if SPAN.fullmatch(text):
        return datetime.now(UTC).timestamp() + span(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"found {text}, expected {MOMENTS}") from None


def written(seconds: float) -> str:
    """Return a time in UTC, to the second: ``2027-01-31T18:00:00Z``."""
    try:
        found = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return f"{seconds:g}"
    return f"{found:%Y-%m-%dT%H:%M:%SZ}"


def duration(seconds: float) -> str:
    """Write a time span in its two largest units: ``2d3h``, ``5m10s``, ``12s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if parts or count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
