"""What a request for a model may expect: its phase, its place, and when it ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.StrEnum):
    """What a request for a model waits for now."""

    READY = "ready"
    QUEUED = "queued"
    EVICTING = "evicting"
    LOADING = "loading"
    WAKING = "waking"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Expectation:
    """When a request for a model is expected to get a lease; times in seconds.

    ``place`` is its place in the queue of the model, from 1 for the next one; 0 if it need not
    wait, or cannot. It is expected to get its lease at ``ends_at``, on the clock of the scheduler;
    in the phase FAILED that is when the model may be tried again. ``is_measured``: every load that
    it waits for has been seen before, on this or on another node.
    """

    phase: Phase
    place: int
    ends_at: float
    is_measured: bool = True

    def seconds(self, now: float) -> float:
        """Return how long it is expected to wait from now on."""
        return max(0.0, self.ends_at - now)
