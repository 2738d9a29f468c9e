"""Which request gets which replica, and which models are loaded and evicted for it.

A request for a loaded model with a free slot is granted it at once; it never waits behind a swap
for another model. Every other request waits in its model's queue for its turn
(``cortexd.scheduling.turns``), while the allocator seeks a replica for the model:

1. A load of it is under way: wait for that load.
2. It is loaded, but all its slots are in use: load a further copy where free memory holds one.
   Idle replicas are evicted for it only once the waits that it would have spared are three times
   what its load and those evictions cost (``cortexd.scheduling.copying``).
3. It is not loaded: load it where it fits into free memory, else where the idle replicas that must
   be evicted for it cost least.
4. Clients request the victims so often that the eviction would delay more requests than it serves:
   hold the queue back until more requests wait or the first has waited ``max_wait`` seconds.
   Which replicas a queue may take, by the classes of requesters, is in ``eviction``.
5. Every replica that could make room is in use: wait, and once the first request has waited
   ``max_wait`` seconds, give the cheapest of them no more requests, so that it becomes idle.
6. No node can ever load it as things stand: plan the restart of an engine if that helps, and wait
   for it (``cortexd.scheduling.repairs``), else reject the queue, with the reason.

A replica that is ejected (``cortexd.fleet.breaker``) gets its trial here, as if a slot came free.
While a trial runs, the queue waits for its end as for a slot. While no trial may begin, nothing
else answers and nothing can be loaded, the queue is rejected, with the reason and the time of the
next trial.

Whatever is freed, loaded or seen changed is a reason to seek anew, and enters the ``Agenda``. From
there everything follows in this order: first queues are served, so that nothing can take a fresh
replica away from the requests that waited for it; then swaps go on and pinned models are loaded;
then models are sought: by class, then by share, then the one with the longest wait first; before
all others comes a request of interactive or default class that is overdue. A pin is a wish without
an end: a model that is pinned and missing comes before the requests that wait for its node, or they
might starve it.

Pure: ``now`` is an argument, and effects are left in the agenda.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from cortexd.access.requesters import Priority
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.shares import Shares
from cortexd.fleet.states import Operation, ReplicaState
from cortexd.scheduling import refusals
from cortexd.scheduling.affinity.leaning import Affinity
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.copying.copies import Copies
from cortexd.scheduling.copying.keeping import is_missing
from cortexd.scheduling.events import Unsettled
from cortexd.scheduling.eviction import Claim, Claims
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.hints import NO_HINTS
from cortexd.scheduling.placement import (
    Finding,
    Option,
    best,
    survey,
)
from cortexd.scheduling.powering.powers import Powers
from cortexd.scheduling.repairs.repairer import Repairer
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swap, Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.turns import Front, Standings, next_turn
from cortexd.scheduling.waiting import Waiter, Waiting

LEAST_STEPS: Final = 1000
STEPS_EACH: Final = 20
"""How many steps may follow from one event: so many, and so many for each node and each model."""


class Allocator:
    """Gives replicas of ``fleet`` to the requests in ``waiting``, and seeks new ones for them."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        agenda: Agenda,
        granter: Granter,
        swapper: Swapper,
        repairer: Repairer,
        powers: Powers,
        shares: Shares,
        standings: Standings,
        claims: Claims,
        affinity: Affinity,
        copies: Copies,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._agenda = agenda
        self._granter = granter
        self._swapper = swapper
        self._repairer = repairer
        self._powers = powers
        self._shares = shares
        self._standings = standings
        self._claims = claims
        self._affinity = affinity
        self._copies = copies

    def take_terms(self, terms: SchedulingTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms
        self._claims.max_wait = terms.max_wait

    def settle(self, now: float) -> None:
        """Let everything follow that is on the agenda, until nothing is left there.

        Two steps that always call for each other would hold up the whole daemon, so there is a most
        of steps, far beyond what an event needs. Then the rest waits for the next sweep.
        """
        agenda = self._agenda
        most = LEAST_STEPS + STEPS_EACH * (len(self._fleet.nodes) + len(self._fleet.demands))
        for _ in range(most):
            if agenda.models:
                self._serve(agenda.next_model(), now)
            elif agenda.nodes:
                node = agenda.next_node()
                swap = self._swaps.on(node.name)
                if swap is not None:
                    self._swapper.advance(swap, now)
                elif node.power.is_awake and not self._repairer.step(node, now):
                    self._use(node, now)
            elif agenda.sought:
                self._seek_all(now)
            else:
                return
        agenda.effects.append(Unsettled(most, agenda.cut()))

    def survey(
        self,
        model: str,
        now: float,
        *,
        tried: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> list[Finding]:
        """Survey the model's nodes, with ``only`` just those."""
        return self._survey(self._replicas(model, only), now, tried=tried)

    def _replicas(self, model: str, only: Collection[str] | None) -> list[Replica]:
        replicas = self._fleet.replicas(model)
        if only is None:
            return list(replicas)
        return [each for each in replicas if each.node.name in only]

    def _survey(
        self,
        replicas: Collection[Replica],
        now: float,
        *,
        tried: Collection[str] = (),
        claim: Claim | None = None,
        may_evict: bool = True,
        may_drain: bool = False,
    ) -> list[Finding]:
        eviction = self._terms.eviction
        found = survey(
            self._fleet,
            replicas,
            eviction,
            now,
            swapping=self._swaps.nodes,
            tried=tried,
            may_evict=may_evict,
            may_drain=may_drain,
            claim=claim,
        )
        self._powers.weigh(
            found, eviction, now, may_evict=may_evict, may_drain=may_drain, claim=claim
        )
        return found

    # A model is looked for: its queue is served.

    def _serve(self, model: str, now: float) -> None:
        """Grant what can be granted to a model's queue, and seek a replica for the rest of it."""
        replicas = self._fleet.answering(model)
        if self._waiting.has_stand_ins(model):
            self._waiting.dismiss(model, [each.node.name for each in replicas if each.answers])
        if not replicas:
            pass  # the usual case while a model is loaded
        elif self._waiting.is_shared(model):
            self._serve_by_turns(model, replicas, now)
        else:
            for waiter in self._waiting.of(model):
                replica = choose_replica(replicas, now, only=waiter.only)
                if replica is not None:
                    self._grant(replica, replicas, waiter, now)
                elif waiter.only is None:
                    break
        if model in self._waiting:
            self._agenda.seek(model)
        else:
            self._agenda.sought.pop(model, None)
        for swap in self._swaps.bringing(model):
            self._agenda.look_at(swap.node)

    def _grant(
        self, replica: Replica, replicas: Collection[Replica], waiter: Waiter, now: float
    ) -> None:
        hints = waiter.hints
        if hints is not NO_HINTS:
            replica = self._affinity.lean(replica, replicas, hints, now, only=waiter.only)
        self._waiting.remove(waiter.request_id)
        self._waiting.note_granted(waiter, now)
        self._granter.grant(replica, waiter.request_id, now, waiter.requester, hints, waiter)

    def _serve_by_turns(self, model: str, replicas: Collection[Replica], now: float) -> None:
        """Grant what can be granted to a queue in which several requesters wait."""
        while True:
            free: dict[frozenset[str] | None, Replica | None] = {}
            fronts: list[Front] = []
            for requester, own in self._waiting.by_requester(model):
                for waiter in own:
                    if waiter.only not in free:
                        free[waiter.only] = choose_replica(replicas, now, only=waiter.only)
                    if free[waiter.only] is not None:
                        since = self._waiting.starved_since(waiter)
                        standing = self._standings.of(model, requester, now)
                        is_passed = self._waiting.is_passed(waiter)
                        fronts.append(Front(waiter, since, standing, is_passed))
                        break
            if not fronts:
                return
            front, passed = next_turn(fronts, now, self._terms.max_wait)
            waiter, replica = front.waiter, free[front.waiter.only]
            self._note_passed(waiter, passed)
            if replica is not None:
                self._grant(replica, replicas, waiter, now)

    def _note_passed(self, granted: Waiter, passed: Sequence[Front]) -> None:
        """Note which requests a request passes as it is granted, in the order and in the queue."""
        priority = granted.requester.priority
        for front in passed:
            is_higher = front.waiter.requester.priority < priority
            self._waiting.note_passed(front.waiter, with_all_of_requester=is_higher)
        for waiter in self._waiting.of(granted.model):
            if waiter.number >= granted.number:
                return
            if waiter.requester.priority != priority:
                waiter.passed_by_class += 1
            elif waiter.requester.name != granted.requester.name:
                waiter.passed_by_share += 1

    # A node is looked at: it may have more room.

    def _use(self, node: Node, now: float) -> None:
        """Load what is pinned on a node and missing there, or else what requests wait for."""
        for model in node.pins:
            replica = node.replicas.get(model)
            if replica is not None and replica.state is ReplicaState.UNLOADED:
                waited_long = now >= replica.since + self._terms.max_wait
                found = self._survey([replica], now)
                option = best(found)
                if option is None and waited_long:
                    found = self._survey([replica], now, may_drain=True)
                    option = best(found)
                if option is not None:
                    self._swapper.begin(option, "it is pinned on the node", now, found)
                    return
        if self._fleet.least_copies and self._keep_copies(node, now):
            return
        for model in self._waiting.on(node):
            self._agenda.seek_on(model, node)

    def _keep_copies(self, node: Node, now: float) -> bool:
        """Load a copy that ``min_copies`` misses of a model of a node; return whether it begins."""
        for model in self._fleet.least_copies:
            replica = node.replicas.get(model)
            if replica is None or replica.state is not ReplicaState.UNLOADED:
                continue
            coming = len(self._swaps.bringing(model))
            # A node that was not polled yet may have the copy.
            if not is_missing(self._fleet, model, coming, now) or self._fleet.not_polled():
                continue
            awake = [each for each in self._fleet.replicas(model) if each.node.power.is_awake]
            found = self._survey(awake, now)
            option = best(found)
            if option is not None:
                reason = f"min_copies keeps {replica.terms.min_copies} of it loaded"
                self._swapper.begin(option, reason, now, found, is_ordered=True)
                return True
        return False

    # A model is sought.

    def _seek_all(self, now: float) -> None:
        """Seek the models on the agenda, until something follows from one of them."""
        sought = self._agenda.sought
        heads = [self._head(model) for model in sought if model in self._waiting]
        if not heads:
            sought.clear()
        for head in self._by_claim(heads, now):
            roomier = sought.pop(head.model)
            for line in self._waiting.lines(head.model):
                self._seek(line, now, roomier)
            if self._agenda.models or self._agenda.nodes:
                return

    def _head(self, model: str) -> Waiter:
        """Return the head of the line of a queue that comes first, by rank and by time."""
        lines = self._waiting.lines(model)
        return min(lines, key=lambda head: (head.requester.priority, head.number))

    def _by_claim(self, heads: list[Waiter], now: float) -> list[Waiter]:
        """Return the heads of queues in the order in which models are sought for them."""
        if len(heads) < 2:
            return heads
        first = heads[0].requester
        if all(head.requester is first or head.requester == first for head in heads):
            return sorted(heads, key=lambda head: head.since)

        def key(head: Waiter) -> tuple[bool, int, float, float]:
            priority = head.requester.priority
            due_at = self._waiting.starved_since(head) + self._terms.max_wait * priority
            is_overdue = priority < Priority.BULK and now >= due_at
            standing = 0.0 if is_overdue else self._shares.standing(head.requester, now)
            return not is_overdue, 0 if is_overdue else priority, standing, head.since

        return sorted(heads, key=key)

    def _seek(self, head: Waiter, now: float, roomier: Node | None) -> None:
        """Find a replica for a line of a model's queue, or reject the line.

        The numbers are those of this module's docstring. ``head`` has waited longest in its line.
        With ``roomier`` nothing has changed but that this node may have more room: where the model
        still cannot be loaded there, the last answer stands.
        """
        # 1. A load of it is under way, ours or that of another client. A swap that still drains is
        #    not a load yet: where the model can be loaded at once, that swap becomes needless.
        bringing = self._swaps.bringing(head.model)
        if bringing and head.only is not None:
            bringing = tuple(swap for swap in bringing if swap.node.name in head.only)
        for swap in bringing:
            if swap.evicted or swap.moving is not None:
                return
        replicas = self._replicas(head.model, head.only)
        # While a swap drains for the model, another may not drain too: it would end the first one,
        # which would then end it in turn.
        claim = self._claims.of(head, now, drains=not bringing)
        if claim is not None and self._is_given_way(replicas, head, now):
            return
        has_copy = False
        for replica in replicas:
            if replica.state is ReplicaState.UNLOADED:
                continue  # as most are
            if (
                replica.operation is None
                and replica.node.takes_work
                and self._fleet.loads(replica, now)
            ):
                return
            has_copy = has_copy or replica.is_copy

        has_waited = now >= head.since + self._terms.max_wait
        may_evict = not has_copy
        may_drain = has_waited and not (has_copy or bringing)
        if has_copy and self._has_all_copies(head.model):
            head.pressed, head.held_back = has_waited, False
            return
        if roomier is not None:
            here = [each for each in replicas if each.node is roomier]
            found = self._survey(here, now, claim=claim, may_evict=may_evict, may_drain=may_drain)
            if best(found) is None:
                return

        # 2. It is loaded: load a second copy, into free memory only.
        # 3. It is not loaded: load it where that costs least.
        head.pressed = has_waited
        found = self._survey(replicas, now, claim=claim, may_evict=may_evict)
        option = best(found)
        reason = "all slots of its replicas are in use" if has_copy else "requests wait for it"

        # 4. The victims are worth more: take another option, or hold the line back.
        if option is not None and not has_waited:
            option = self._best_worth_it(option, found, now, claim)
            head.held_back = option is None
            if head.held_back:
                self._waiting.changed[head.model] = None
                return
        head.held_back = False

        # 5. All that could make room is in use: drain the cheapest.
        if option is None and may_drain:
            found = self._survey(replicas, now, claim=claim, may_drain=True)
            option = best(found)
            reason = f"requests have waited {self._terms.max_wait:g} s for it"

        is_copy = option is None and has_copy and head.only is None and not bringing
        if is_copy:
            option = self._copy_worth_it(head, replicas, now)
            reason = "waits for its slots cost more than a further copy"

        if option is not None and self._powers.is_woken_for(option, reason, now):
            return
        if option is not None:
            self._swapper.begin(option, reason, now, found, is_copy=is_copy)
            if is_copy:
                self._copies.note_bought(head.model)
            self._end_needless(bringing, option, now)
        # 6. No node can ever load it as things stand.
        elif not bringing:
            waited = has_waited and not has_copy
            if not self._repairer.needed(head.model, found, now, waited=waited):
                self._reject_line(head, found, now)

    def _copy_worth_it(
        self, head: Waiter, replicas: Collection[Replica], now: float
    ) -> Option | None:
        """Return the best option for a further copy that is worth its idle victims, if any."""
        self._copies.look_at(head.model, now)
        claim = self._claims.of(head, now, drains=False)
        if claim is not None:
            claim = replace(claim, overrules=False)
        found = self._survey(replicas, now, claim=claim)
        return best(
            each
            for each in found
            if isinstance(each, Option) and self._copies.is_worth(each, claim, now)
        )

    def _has_all_copies(self, model: str) -> bool:
        """Whether as many copies of a model are loaded or come as there may be."""
        replicas = self._fleet.replicas(model)
        most = max((replica.terms.max_copies for replica in replicas), default=0)
        coming = len(self._swaps.bringing(model))
        return 0 < most <= coming + sum(replica.answers for replica in replicas)

    def _is_given_way(self, replicas: Sequence[Replica], head: Waiter, now: float) -> bool:
        """Whether a swap for a lower class ends, which was to evict what the head waits for."""
        for replica in replicas:
            swap = self._swaps.on(replica.node.name)
            if (
                swap is not None
                and replica.operation is Operation.DRAIN
                and self._swapper.give_way(swap, replica, now)
            ):
                return True
        return False

    def _best_worth_it(
        self, option: Option, found: Sequence[Finding], now: float, claim: Claim | None
    ) -> Option | None:
        """Return ``option``, the best of those found, or the best that is worth its victims."""
        rank = Priority.BULK if claim is None else claim.priority
        # A stand-in is not counted, but its client will come back.
        count = max(1, self._waiting.count(option.replica.model, rank))
        strategy = self._terms.eviction.strategy
        if option.is_worth_it(count, strategy, now, claim):
            return option
        return best(
            each
            for each in found
            if isinstance(each, Option) and each.is_worth_it(count, strategy, now, claim)
        )

    def _end_needless(self, bringing: Sequence[Swap], option: Option, now: float) -> None:
        """End swaps that would bring what ``option`` brings now, unless they are needed too."""
        model, node = option.replica.model, option.replica.node.name
        for swap in bringing:
            is_bound = self._waiting.depends_on(model, swap.node.name, [node])
            if swap.target is not None and not (is_bound or self._swapper.is_wished(swap.target)):
                self._swapper.end(swap, now)

    def _reject_line(self, head: Waiter, found: Sequence[Finding], now: float) -> None:
        """Reject all requests that wait for the same model on the same nodes as ``head``."""
        error = refusals.hopeless(self._fleet, head.model, found, now)
        for waiter in self._waiting.of(head.model):
            if waiter.only == head.only:
                self._waiting.remove(waiter.request_id)
                self._granter.reject(waiter.request_id, waiter.model, error, waiter.since, now)
