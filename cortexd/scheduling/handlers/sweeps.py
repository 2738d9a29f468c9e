"""What follows from time that passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from math import inf
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.shares import Shares
from cortexd.scheduling import refusals
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.allocator import Allocator
from cortexd.scheduling.copying.copies import Copies
from cortexd.scheduling.copying.keeping import is_kept
from cortexd.scheduling.dues import Dues
from cortexd.scheduling.events import Sweep, Tick
from cortexd.scheduling.eviction import is_evictable
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.handlers.reconfiguring import Reconfiguring
from cortexd.scheduling.handlers.requests import Requests
from cortexd.scheduling.handlers.table import Handlers
from cortexd.scheduling.powering.powers import Powers
from cortexd.scheduling.prefetching.prefetches import Prefetches
from cortexd.scheduling.repairs.repairer import Repairer
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.turns import Standings
from cortexd.scheduling.waiting import Waiter, Waiting

NODES_AT_ONCE: Final = 2
"""How many nodes one event looks at."""

REPLICAS_AT_ONCE: Final = 32
"""One part of a sweep looks at queues whose models have so many replicas, but at one at least."""

DUE_AT_ONCE: Final = 64
"""The same for one part of a tick, which counts a queue as one where no replica is to be sought."""

COUNTED_AT_ONCE: Final = 48
"""Of how many models one part of a tick counts the requests that run and wait."""


def sweep_parts(
    names: Collection[str],
    at_once: int = NODES_AT_ONCE,
    goes_on: Callable[[], bool] = lambda: False,
) -> Iterator[Sweep]:
    """Return the events of one sweep, each of which looks at ``at_once`` nodes at most.

    So few nodes take one event. Else the queues come first, and parts follow as long as it
    ``goes_on`` with them.
    """
    if len(names) <= at_once:
        yield Sweep()
        return
    yield Sweep(())
    nodes = tuple(names)
    for start in range(0, len(nodes), at_once):
        yield Sweep(nodes[start : start + at_once])
    while goes_on():
        yield Sweep((), goes_on=True)


def tick_parts(goes_on: Callable[[], bool]) -> Iterator[Tick]:
    """Return the events of one tick: more of them follow as long as it ``goes_on``."""
    yield Tick()
    while goes_on():
        yield Tick(goes_on=True)


class Sweeps:
    """Handles ticks and sweeps."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        shares: Shares,
        standings: Standings,
        allocator: Allocator,
        granter: Granter,
        swapper: Swapper,
        repairer: Repairer,
        powers: Powers,
        reconfiguring: Reconfiguring,
        requests: Requests,
        copies: Copies,
        prefetches: Prefetches,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._shares = shares
        self._standings = standings
        self._allocator = allocator
        self._granter = granter
        self._swapper = swapper
        self._repairer = repairer
        self._powers = powers
        self._reconfiguring = reconfiguring
        self._requests = requests
        self._copies = copies
        self._prefetches = prefetches
        self._agenda = agenda
        self._unswept: list[str] = []
        self._dues = Dues()
        self._uncounted: dict[str, None] = {}

    @property
    def goes_on(self) -> bool:
        """Whether a sweep in parts has not looked at all queues yet."""
        return bool(self._unswept)

    @property
    def tick_goes_on(self) -> bool:
        """Whether a tick has not looked at all that is due yet."""
        return bool(self._uncounted) or self._dues.goes_on

    @property
    def handlers(self) -> Handlers:
        """The handlers of its events."""
        return {Tick: self.tick, Sweep: self.sweep}

    def take_terms(self, terms: SchedulingTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms
        self._waiting.note_all_changed()

    def tick(self, event: Tick, now: float) -> None:
        """Look after the requests that wait: after some, where many are due at once."""
        if not event.goes_on:
            self._uncounted.update(self._copies.models())
            self._requests.give_up_ended(now)
            self._dues.begin(self._waiting.take_changed(), now)
        counted = list(islice(self._uncounted, COUNTED_AT_ONCE))
        for model in counted:
            del self._uncounted[model]
            self._copies.look_at(model, now)
        due = self._next_due(now)
        for model in due:
            # One that has waited longer may not be the head of its line, for its class is lower.
            oldest = self._waiting.head(model) if self._waiting.is_shared(model) else None
            if oldest is not None and now >= oldest.since + self._terms.queue_timeout:
                self._time_out(model, now)
        for head in [head for model in due for head in self._waiting.lines(model)]:
            if now >= head.since + self._terms.queue_timeout:
                self._time_out(head.model, now)
            elif self._is_due(head, now):
                self._agenda.look_for(head.model)
        for model in due:
            self._note_due(model, now)

    def _next_due(self, now: float) -> list[str]:
        """Return the models that are due and have so many replicas that one event can seek them.

        They come in the order in which their queues began.
        """
        due: dict[str, None] = {}
        left = DUE_AT_ONCE
        while left > 0:
            model = self._dues.next()
            if model is None:
                break
            if model in self._waiting and model not in due:
                due[model] = None
                is_sought = any(self._is_due(head, now) for head in self._waiting.lines(model))
                left -= len(self._fleet.replicas(model)) if is_sought else 1
        return sorted(due, key=self._waiting.began)

    def _is_due(self, head: Waiter, now: float) -> bool:
        """Whether a replica is to be sought again for a head that has not waited too long yet."""
        return head.held_back or (not head.pressed and now >= head.since + self._terms.max_wait)

    def _note_due(self, model: str, now: float) -> None:
        """Note when the queue of a model is to be looked at next, if it has not gone."""
        oldest = self._waiting.head(model)
        times = [] if oldest is None else [oldest.since + self._terms.queue_timeout]
        for head in self._waiting.lines(model):
            times.append(head.since + self._terms.queue_timeout)
            if not head.pressed:
                times.append(head.since + self._terms.max_wait)
            if head.held_back:
                times.append(now)
        at = min(times, default=inf)
        if at > now:
            self._dues.add(model, at)
        else:
            self._waiting.changed[model] = None

    def _time_out(self, model: str, now: float) -> None:
        """Reject the requests that have waited for a model for too long."""
        found = self._allocator.survey(model, now)
        for waiter in self._waiting.of(model):
            waited = now - waiter.since
            if waited < self._terms.queue_timeout:
                continue  # one behind it may have waited longer, in an earlier process
            self._waiting.remove(waiter.request_id)
            error = refusals.queue_timeout(model, waited, found, footprints=self._fleet.footprints)
            self._granter.reject(waiter.request_id, model, error, waiter.since, now)
        self._agenda.look_for(model)

    def sweep(self, event: Sweep, now: float) -> None:
        """Look at all nodes and queues, or at the nodes that the event names and some queues."""
        if not (event.nodes or event.goes_on):
            self.tick(Tick(), now)
            self._shares.forget(now)
            self._standings.forget(now)
            self._unswept = self._waiting.models()[::-1]
        self._look_for_unswept(REPLICAS_AT_ONCE if event.nodes is not None else inf)
        known = self._fleet.nodes
        names = known if event.nodes is None else event.nodes
        nodes = [known[name] for name in names if name in known]
        for node in nodes:
            self._agenda.look_at(node)
        self._allocator.settle(now)
        for node in nodes:
            self._reconfiguring.shrink(node, self._terms, now)
            self._expire(node, now)
            self._repairer.sweep(node, now)
            self._powers.sweep(node, now)
            self._prefetches.sweep(node, now)

    def _look_for_unswept(self, most: float) -> None:
        """Look for the models that come next in a sweep, until they have ``most`` replicas."""
        while self._unswept and most > 0:
            model = self._unswept.pop()
            if model in self._waiting:
                self._agenda.look_for(model)
                most -= len(self._fleet.replicas(model))

    def _expire(self, node: Node, now: float) -> None:
        """Unload what no request has used for its ``ttl``, one replica at a time."""
        if node.name in self._swaps or not node.takes_work:
            return
        for replica in node.residents:
            ttl = replica.terms.ttl
            idle_since = max(replica.last_used_at, replica.loaded_at) or replica.since
            if (
                ttl
                and is_evictable(replica)
                and not is_kept(self._fleet, replica)
                and not replica.leases
                and now >= max(idle_since + ttl, replica.keep_until)
            ):
                self._swapper.unload(replica, f"it was idle for {ttl:g} s", now)
                return
