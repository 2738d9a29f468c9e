"""The effects of prefetches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A model that was prefetched on a node got its first request, or was lost without one."""

    node: str
    model: str
    is_used: bool
