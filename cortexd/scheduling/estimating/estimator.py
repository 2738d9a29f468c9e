"""When a request for a model will get a lease, by what is known of loads and leases: pure.

A question costs as much as the model has replicas and the asked request has requests before it; it
never looks at the rest of the fleet.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cortexd.errors import RETRY_WHEN_DOWN, RETRY_WHEN_FULL
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.estimating.expectation import Expectation, Phase
from cortexd.scheduling.placement import ASSUMED_LOAD_SECONDS
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.waiting import Waiting

OVERDUE_SHARE: Final = 0.1
"""The part of its usual time that a load is still expected to take once that time is over."""


class Estimator:
    """Answers when requests will get their leases, over the parts of a scheduler."""

    def __init__(self, fleet: Fleet, waiting: Waiting, swaps: Swaps) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._swaps = swaps

    def expect(self, model: str, request_id: str | None, now: float) -> Expectation:
        """Return what a request that waits may expect, with ``None`` one that would come now."""
        only, place = self._place(model, request_id)
        replicas = [
            each for each in self._fleet.replicas(model) if only is None or each.node.name in only
        ]
        answering = [each for each in replicas if each.answers and not each.is_ejected]
        if place == 1 and any(each.has_slot for each in answering):
            return Expectation(Phase.READY, 0, now)
        found = [self._load(each, now) for each in replicas if self._may_load(each)]
        if found:
            best = min(found, key=lambda each: each.ends_at)
            if not answering or best.phase is Phase.LOADING:
                return Expectation(best.phase, place, best.ends_at, best.is_measured)
        if answering:
            return Expectation(Phase.QUEUED, place, now + place * RETRY_WHEN_FULL)
        return Expectation(Phase.FAILED, 0, now + RETRY_WHEN_DOWN, is_measured=False)

    def _place(self, model: str, request_id: str | None) -> tuple[Collection[str] | None, int]:
        """Return the nodes that a request is bound to, and its place in the queue."""
        queue = self._waiting.of(model)
        for place, waiter in enumerate(queue, start=1):
            if waiter.request_id == request_id:
                return waiter.only, place
        return None, len(queue) + 1

    def _may_load(self, replica: Replica) -> bool:
        return replica.node.takes_work and replica.state in (
            ReplicaState.UNLOADED,
            ReplicaState.LOADING,
        )

    def _load(self, replica: Replica, now: float) -> Expectation:
        """Return when the load of a replica is expected to end."""
        known = self._fleet.footprints.load_seconds(*replica.key)
        seconds = ASSUMED_LOAD_SECONDS if known is None else known
        if replica.state is ReplicaState.LOADING:
            end = max(replica.load_began_at + seconds, now + OVERDUE_SHARE * seconds)
            return Expectation(Phase.LOADING, 1, end, known is not None)
        swap = self._swaps.on(replica.node.name)
        phase = Phase.EVICTING if swap is not None and swap.target is replica else Phase.QUEUED
        return Expectation(phase, 1, now + seconds, known is not None)
