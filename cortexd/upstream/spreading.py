"""When each node of a fleet is polled within one round: pure.

A poll costs the reactor a millisecond or two, so a thousand polls at once would hold it for longer
than a second. Few nodes are polled at once; more are spread over the interval, always in the same
order, so that each node is polled once per interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

AT_ONCE: Final = 4
"""How many polls begin in one turn of the reactor."""

FIRST_GAP_SECONDS: Final = 0.01
"""The time between the polls of the first round: it is short, because requests may wait for it, and
leaves more than half of the time to others."""

LEAST_GAP_SECONDS: Final = 0.005
"""The least time between polls that begin in different turns, also when they are late."""

T = TypeVar("T")


def spread(nodes: Sequence[T], interval: float, *, is_first: bool) -> list[tuple[float, list[T]]]:
    """Return which nodes are polled together in one round, and how many seconds after its start."""
    batches = [list(nodes[start : start + AT_ONCE]) for start in range(0, len(nodes), AT_ONCE)]
    gap = interval / max(1, len(batches))
    if is_first:
        gap = min(gap, FIRST_GAP_SECONDS)
    return [(gap * number, batch) for number, batch in enumerate(batches)]
