"""Leases and rejections: the answer to each request, kept for ``cortexctl why``.

Leases and loads are charged here too, to the requesters that they were for.
"""

from __future__ import annotations

from collections.abc import Iterable

from cortexd.access.requesters import Requester
from cortexd.errors import CortexError
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Lease, Replica, ReplicaKey
from cortexd.fleet.shares import Shares, by_requester
from cortexd.scheduling.affinity.leaning import Affinity
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import (
    LOADED,
    PROBED,
    QUEUED,
    RESIDENT,
    SWAPPED,
    Decisions,
    RequestTrail,
)
from cortexd.scheduling.events import Charged, Grant, Reject
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.scheduling.swaps import Swap
from cortexd.scheduling.turns import Standings
from cortexd.scheduling.waiting import Waiter, is_stand_in
from cortexd.values import value


@value
class _OwnLoad:
    """A load of ours that ended well ``at`` some time, by the decision of this number."""

    at: float
    decision: int
    has_evicted: bool


class Granter:
    """Grants leases on the replicas of ``fleet``, rejects requests, and records both."""

    def __init__(
        self,
        fleet: Fleet,
        shares: Shares,
        standings: Standings,
        decisions: Decisions,
        agenda: Agenda,
        affinity: Affinity,
    ) -> None:
        self._fleet = fleet
        self._shares = shares
        self._standings = standings
        self._decisions = decisions
        self._agenda = agenda
        self._affinity = affinity
        self._last_loads: dict[ReplicaKey, _OwnLoad] = {}

    def note_loaded(self, replica: Replica, swap: Swap, now: float) -> None:
        """Remember that a swap has loaded a replica, so that a grant can name its decision."""
        self._last_loads[replica.key] = _OwnLoad(now, swap.number, bool(swap.evicted))

    def grant(
        self,
        replica: Replica,
        request_id: str,
        now: float,
        requester: Requester,
        hints: Hints = NO_HINTS,
        waiter: Waiter | None = None,
    ) -> None:
        """Give a request a lease; ``waiter`` is its entry in the queue, if it had to wait."""
        lease = self._fleet.grant(replica, request_id, now, requester)
        self._standings.granted(replica.model, requester, now)
        self._shares.begin(lease, now)
        is_trial = replica.breaker is not None and replica.breaker.trial == lease.number
        fits = ""
        if hints is not NO_HINTS:
            replicas = self._fleet.replicas(replica.model)
            fits = self._affinity.granted(lease, replica, replicas, hints, now)
        outcome, since, load_seconds, load = RESIDENT, now, 0.0, None
        by_class = by_share = 0
        if waiter is not None:
            by_class, by_share = waiter.passed_by_class, waiter.passed_by_share
            outcome, since = QUEUED, waiter.since
            ours = self._last_loads.get((lease.node, lease.model))
            if ours is not None and since <= ours.at == replica.loaded_at:
                outcome, load = SWAPPED if ours.has_evicted else LOADED, ours.decision
            elif since < replica.loaded_at:
                outcome = LOADED
            if outcome is not QUEUED:
                load_seconds = replica.loaded_at - max(replica.load_began_at, since)
        queued = now - since
        trail = RequestTrail(
            request_id,
            lease.model,
            now,
            outcome,
            lease.node,
            queued,
            load,
            by_class,
            by_share,
            fits,
        )
        self._decisions.note_request(trail)
        self._agenda.effects.append(Grant(lease, queued, load_seconds, outcome, is_trial, fits))

    def charge_lease(self, lease: Lease, now: float) -> None:
        """Charge a lease that ends to its requester."""
        seconds = self._shares.end(lease, now)
        if seconds is not None:
            name = lease.requester.name
            self._agenda.effects.append(Charged(name, lease.model, lease.node, seconds))

    def charge_load(
        self, replica: Replica, seconds: float, waiters: Iterable[Waiter], now: float
    ) -> None:
        """Charge a load that has ended to the requesters whose requests waited for it."""
        node = replica.node.name
        served = [
            waiter.requester for waiter in waiters if waiter.only is None or node in waiter.only
        ]
        shares = {served[0].name: 1.0} if len(served) == 1 else by_requester(served)
        for name, share in shares.items():
            self._shares.charge(name, seconds * share, now)
            charged = Charged(name, replica.model, node, 0.0, seconds * share, share)
            self._agenda.effects.append(charged)

    def lend(self, replica: Replica, request_id: str, now: float) -> None:
        """Give a question of our own a lease; no request of a client, so it leaves no record."""
        lease = self._fleet.grant(replica, request_id, now, is_probe=True)
        self._agenda.effects.append(Grant(lease, 0.0, 0.0, PROBED))

    def reject(
        self, request_id: str, model: str, error: CortexError, since: float, now: float
    ) -> None:
        """Reject a request that has waited since ``since``; a stand-in gets no answer."""
        if is_stand_in(request_id):
            return
        words = f"rejected: {error.message}"
        trail = RequestTrail(request_id, model, now, words, None, now - since, None)
        self._decisions.note_request(trail)
        self._agenda.effects.append(Reject(request_id, error))
