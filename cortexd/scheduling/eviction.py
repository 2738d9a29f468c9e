"""Which replicas to evict from a node, by one of several strategies: pure.

A *victim set* is a set of replicas whose eviction frees enough of one node. The scheduler takes the
cheapest set.

A strategy orders replicas, the cheapest first:

- ``heat``: least likely to be requested soon (``cortexd.fleet.heat``), and fastest to load again
  for its size. The heat of a set is the sum of its members', since each of them may have to be
  loaded again;
- ``priority``: lowest priority, then as ``heat``;
- ``lru``: longest out of regular use, then longest unused. The time of the third-last request
  measures regular use (``cortexd.fleet.demand``): with the last request alone, one request per hour
  for a model would evict models that are requested all the time. A set costs as much as its most
  expensive member.

All strategies evict replicas younger than ``min_residency`` last: such a replica has just cost a
load, and would soon cost it again.

Where requesters have classes, a ``Claim`` says which replicas a queue may take at all. It is that
of the lowest rank that waits:

- what a higher class uses, waits for, or has used in the last ``RECENT_SECONDS``, it leaves alone:
  an eviction would delay that class by two loads. Only a default request that is overdue
  (``cortexd.scheduling.turns``) takes it all the same. Bulk requests never do: where the memory is
  too small for both, they wait until it is free or ``queue_timeout`` ends them;
- what only lower classes use it takes at once: it neither waits until requests have waited
  ``max_wait`` nor weighs how many requests of lower classes it delays;
- all else it takes as a queue without classes does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop
from typing import Final

from cortexd.access.requesters import Priority
from cortexd.fleet.demand import LONG_AGO, Demand
from cortexd.fleet.nodes import Replica
from cortexd.fleet.shares import Shares
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.waiting import Waiter, Waiting
from cortexd.values import value

BEFORE_ALL: Final = 1e12
"""So many seconds earlier a replica that can be missed counts as used."""

Cost = tuple[float, ...]
"""What the eviction of a replica costs; compared member by member, the smallest is cheapest."""


@value
class VictimSet:
    """The replicas to evict, cheapest first, and the cost of the set."""

    victims: tuple[Replica, ...]
    cost: Cost

    @property
    def freed_mb(self) -> int:
        """The MiB that their eviction frees."""
        return sum(victim.footprint_mb for victim in self.victims)


NO_VICTIMS: Final = VictimSet((), ())


Priced = tuple[Cost, str, Replica]
"""The cost of a replica, its model's name to order equal costs, and the replica."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How replicas are priced.

    ``price`` takes all replicas of a node in one call, because one decision may need the prices on
    every node of a fleet; with ``grown_since`` and ``now``: replicas loaded before ``grown_since``
    have passed ``min_residency``. ``pace`` returns how many requests a second the eviction of a
    replica would delay. ``adds_up`` says that the last part of a set's cost is a sum.
    """

    price: Callable[[Iterable[Replica], float, float], list[Priced]]
    pace: Callable[[Demand, float], float]
    adds_up: bool = False

    def cost_of_spare(self, cost: Cost) -> Cost:
        """Return what a replica costs that can be missed, instead of ``cost``."""
        last = 0.0 if self.adds_up else cost[-1] - BEFORE_ALL
        return (cost[0], *(LONG_AGO for _ in cost[2:]), last)

    def cost_of(self, costs: Sequence[Cost]) -> Cost:
        """Return the cost of a set of victims that cost so much each; there is one at least."""
        most = max(costs)
        if not self.adds_up or len(costs) == 1:
            return most
        return (*most[:-1], sum(cost[-1] for cost in costs))


def _lru(replicas: Iterable[Replica], grown_since: float, now: float) -> list[Priced]:
    """Price by regular use, then by last use; a replica in use counts as used now."""
    return [
        (
            (
                replica.loaded_at > grown_since,
                replica.demand.regular_since,
                now if replica.leases else replica.last_used_at,
            ),
            replica.model,
            replica,
        )
        for replica in replicas
    ]


def _heat(replicas: Iterable[Replica], grown_since: float, now: float) -> list[Priced]:
    """Price by heat and by how dear a load is for its size; a lease counts as a request of now.

    The larger of two models takes longer to load again and gives more room, so that its size alone
    makes it neither dearer nor cheaper.
    """
    return [
        (
            (
                replica.loaded_at > grown_since,
                replica.dearness * (replica.leases + replica.demand.heat.at(now)),
            ),
            replica.model,
            replica,
        )
        for replica in replicas
    ]


def _priority(replicas: Iterable[Replica], grown_since: float, now: float) -> list[Priced]:
    """Price by priority, then as ``heat``."""
    return [
        ((is_young, replica.terms.priority, heat), model, replica)
        for (is_young, heat), model, replica in _heat(replicas, grown_since, now)
    ]


def _heat_pace(demand: Demand, now: float) -> float:
    return demand.heat.per_second(now)


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "heat": Strategy(_heat, _heat_pace, adds_up=True),
    "priority": Strategy(_priority, _heat_pace, adds_up=True),
    "lru": Strategy(_lru, Demand.per_second),
}


def is_evictable(replica: Replica) -> bool:
    """Whether a replica may be evicted: it is loaded, not pinned, and no operation of ours runs.

    An adapter cannot be evicted alone: it is loaded and unloaded with its base model. A node that
    is not managed decides itself what it unloads.
    """
    return (
        replica.state is ReplicaState.LOADED
        and not replica.pinned
        and replica.operation is None
        and replica.base is None
        and replica.node.is_managed
    )


@value
class Claim:
    """What a queue may take from other classes, by the lowest rank that waits in it.

    ``overrules``: a request of it has waited so long that it takes what higher classes use.
    ``drains``: it may take what lower classes use while that is in use.
    """

    shares: Shares
    waiting: Waiting
    priority: Priority
    overrules: bool
    now: float
    drains: bool = True

    def may_take(self, replica: Replica, may_drain: bool) -> bool:
        """Whether the queue may evict a replica; with ``may_drain`` also one that is in use."""
        user = self._user(replica)
        if user is not None and user > self.priority:
            return self.drains or not replica.leases
        if user is not None and user < self.priority and not self.overrules:
            return False
        return may_drain or not replica.leases

    def outranks(self, replica: Replica) -> bool:
        """Whether only lower classes use a replica."""
        user = self._user(replica)
        return user is not None and user > self.priority

    def _user(self, replica: Replica) -> Priority | None:
        """Return the highest class that uses a replica or waits for it, ``None`` for none.

        Without those that wait, a drain would begin anew each time that it has ended for them.
        """
        node, model = replica.key
        user = self.shares.used_by(replica.key, self.now)
        waits = self.waiting.rank(model, node)
        return user if waits is None or (user is not None and user < waits) else waits


class Claims:
    """The claims of the queues, by the classes that wait in them."""

    def __init__(self, shares: Shares, waiting: Waiting, max_wait: float) -> None:
        self._shares = shares
        self._waiting = waiting
        self.max_wait = max_wait

    def of(self, head: Waiter, now: float, *, drains: bool = True) -> Claim | None:
        """Return the claim of the line of ``head``, ``None`` where only one class is known."""
        priority = head.requester.priority
        if not self._shares.has_others(priority):
            return None
        overrules = self._overrules(head, now)
        return Claim(self._shares, self._waiting, priority, overrules, now, drains)

    def _overrules(self, head: Waiter, now: float) -> bool:
        priority = head.requester.priority
        is_overdue = now >= head.since + self.max_wait * priority
        return is_overdue and priority is not Priority.BULK

    def may_take(self, victim: Replica, model: str, now: float) -> bool:
        """Whether any request that waits for a model on the victim's node may drain the victim."""
        claims = (self.of(head, now) for head in self._waiting.lines_at(model, victim.node.name))
        return any(claim is None or claim.may_take(victim, may_drain=True) for claim in claims)

    def on(self, model: str, node: str, now: float) -> Claim | None:
        """Return the highest claim to a model on a node, ``None`` where nothing restricts it."""
        heads = self._waiting.lines_at(model, node)
        if not heads:
            return None
        # A swap of a line that overrules others goes on, whatever else waits for its target.
        return self.of(
            min(
                heads,
                key=lambda head: (not self._overrules(head, now), head.requester.priority),
            ),
            now,
        )


def cheapest_victims(
    candidates: Iterable[Replica],
    *,
    need_mb: int,
    need_victims: int,
    strategy: str,
    min_residency: float,
    now: float,
    spare: Collection[Replica] = (),
) -> VictimSet | None:
    """Return the cheapest set that frees ``need_mb`` MiB and has ``need_victims`` members.

    The replicas in ``spare`` can be missed: they come before all others of their age. Return
    ``None`` if all candidates together are not enough. The set takes candidates, cheapest
    first, until they are enough; then it drops members that turn out not to be needed, the most
    expensive first, so that every remaining member is needed.
    """
    if need_mb <= 0 and need_victims <= 0:
        return NO_VICTIMS
    by = STRATEGIES[strategy]
    cheapest = by.price(candidates, now - min_residency, now)
    if spare:
        cheapest = [
            (by.cost_of_spare(cost) if replica in spare else cost, model, replica)
            for cost, model, replica in cheapest
        ]
    # One or two are mostly enough, and a heap leaves the others unsorted.
    heapify(cheapest)
    chosen: list[Priced] = []
    freed_mb = 0
    while freed_mb < need_mb or len(chosen) < need_victims:
        if not cheapest:
            return None
        priced = heappop(cheapest)
        chosen.append(priced)
        freed_mb += priced[2].footprint_mb
    if len(chosen) == 1:
        cost, _, replica = chosen[0]
        return VictimSet((replica,), cost)
    for priced in chosen[-2::-1]:
        footprint_mb = priced[2].footprint_mb
        if freed_mb - footprint_mb >= need_mb and len(chosen) > need_victims:
            chosen.remove(priced)
            freed_mb -= footprint_mb
    victims = tuple(replica for _, _, replica in chosen)
    return VictimSet(victims, by.cost_of([cost for cost, _, _ in chosen]))
