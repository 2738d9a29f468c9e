"""When a request for a model will get a lease, by what is known of loads and leases: pure.

A lease comes from one of two sides: a slot of a replica that answers comes free, or a replica comes
that does not answer yet (``coming``). What happens first is expected.

A question costs as much as the model has replicas, and the asked request requests before it; it
never looks at the rest of the fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cortexd.errors import RETRY_WHEN_DOWN
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.learning.load_times import LoadEstimate
from cortexd.fleet.nodes import Replica
from cortexd.scheduling.estimating.coming import Coming, Steps
from cortexd.scheduling.estimating.expectation import Expectation, Phase
from cortexd.scheduling.repairs.restarts import Restarts
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import Waiter, Waiting

MOST_CONSIDERED: Final = 8
"""On how many nodes a load is expected that has not begun yet."""

MOST_AHEAD: Final = 8
"""How many models are looked at that wait longer for the same nodes."""

MOST_AGES: Final = 64
"""How many leases are looked at one by one for the next free slot."""


class Estimator:
    """Answers when requests will get their leases, over the parts of a scheduler."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        restarts: Restarts,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._steps = Steps(fleet, swaps, restarts, terms.eviction)

    def take_terms(self, terms: SchedulingTerms) -> None:
        """Expect what other terms bring from now on."""
        self._terms = terms
        self._steps.eviction = terms.eviction

    def load(self, replica: Replica, at: float) -> LoadEstimate:
        """Return how long the load of a replica is expected to take that begins at some time."""
        return self._fleet.load_estimate(replica, at)

    def expect(self, model: str, request_id: str | None, now: float) -> Expectation:
        """Return what a request that waits may expect, with ``None`` one that would come now."""
        waiter = self._waiting.find(request_id) if request_id is not None else None
        if waiter is not None and waiter.model == model:
            place, only = self._waiting.place(waiter), waiter.only
        else:
            waiter, place, only = None, self._waiting.count(model) + 1, None
        replicas = [
            each for each in self._fleet.replicas(model) if only is None or each.node.name in only
        ]
        answering = [each for each in replicas if each.answers and not each.is_ejected]
        if place == 1 and any(each.has_slot for each in answering):
            return Expectation(Phase.READY, 0, now)
        coming = self._under_way(replicas, now)
        if answering:
            return self._from_either(answering, coming, model, place, now)
        if coming is None:
            coming = self._would_come(replicas, waiter, now)
        if coming is None:
            at = self._retry_at(replicas, now)
            return Expectation(Phase.FAILED, 0, at, is_measured=False)
        rest = self._turns(model, place - coming.slots, coming.slots)
        return Expectation(coming.phase, place, coming.at + rest, coming.is_measured)

    def _from_either(
        self,
        answering: Sequence[Replica],
        coming: Coming | None,
        model: str,
        place: int,
        now: float,
    ) -> Expectation:
        """Return what is expected where replicas answer, and perhaps one more comes."""
        queued_at = now + self._slot_seconds(answering, model, place, now)
        queued = Expectation(Phase.QUEUED, place, queued_at)
        if coming is None or queued_at <= coming.at:
            return queued
        slots = sum(each.terms.capacity for each in answering)
        mean = self._fleet.lessons.leases.of(model).mean
        served = int(slots * (coming.at - now) / mean) if mean else place
        rest = self._turns(model, place - served - coming.slots, slots + coming.slots)
        if coming.at + rest >= queued_at:
            return queued
        return Expectation(coming.phase, place, coming.at + rest, coming.is_measured)

    def _turns(self, model: str, behind: int, slots: int) -> float:
        """Return how many seconds so many requests wait for others that have got the slots."""
        if behind <= 0:
            return 0.0
        return behind * self._fleet.lessons.leases.of(model).mean / slots

    def _slot_seconds(
        self, answering: Sequence[Replica], model: str, place: int, now: float
    ) -> float:
        """Return in how many seconds the replicas that answer will have served the place before."""
        slots = sum(each.terms.capacity for each in answering)
        free = sum(max(0, each.terms.capacity - each.leases + each.probes) for each in answering)
        lasting = self._fleet.lessons.leases.of(model)
        wanted = place - free
        if wanted <= 0:
            return 0.0
        ages = [now - at for each in answering for at in self._fleet.granted_at(each)]
        ages = sorted(ages, reverse=True)[:MOST_AGES]
        if wanted <= len(ages):
            return lasting.next_end(ages, wanted)
        # Each slot is freed once for those that hold it now, and then by those that wait.
        return lasting.mean * (wanted - 0.5) / slots

    def _under_way(self, replicas: Sequence[Replica], now: float) -> Coming | None:
        """Return which replica comes first of those that something brings already."""
        found = [
            coming
            for each in replicas
            if each.node.takes_work and (coming := self._steps.under_way(each, now)) is not None
        ]
        return min(found, key=lambda coming: coming.at, default=None)

    def _would_come(
        self, replicas: Sequence[Replica], waiter: Waiter | None, now: float
    ) -> Coming | None:
        """Return which replica would come first where nothing brings one yet."""
        head = waiter if waiter is None else self._waiting.line_head(waiter.model, waiter.only)
        since = now if head is None else head.since
        is_held_back = head is not None and head.held_back
        ahead = self._ahead(waiter.model, since) if waiter is not None else ()
        best: Coming | None = None
        considered = 0
        for each in replicas:
            coming = self._steps.would_come(
                each, since + self._terms.max_wait, ahead, now, is_held_back=is_held_back
            )
            if coming is not None:
                considered += 1
                if best is None or coming.at < best.at:
                    best = coming
                if considered == MOST_CONSIDERED:
                    break
        return best

    def _ahead(self, model: str, since: float) -> Sequence[str]:
        """Return the models that have waited longer to be loaded, the longest wait first."""
        heads = [
            head
            for head in self._waiting.heads()
            if head.since < since and head.model != model and not self._swaps.brings(head.model)
        ]
        heads.sort(key=lambda head: head.since)
        return list(dict.fromkeys(head.model for head in heads))[:MOST_AHEAD]

    def _retry_at(self, replicas: Sequence[Replica], now: float) -> float:
        """Return when a model may be tried again that cannot be had now."""
        times = [each.retry_at for each in replicas if each.retry_at > now]
        times += [
            breaker.alone_until
            for each in replicas
            if (breaker := each.breaker) is not None and breaker.is_ejected
        ]
        later = [at for at in times if at > now]
        return min(later, default=now + RETRY_WHEN_DOWN)
