"""Which replicas to give up for which gain: pure, the strategies side by side.

A *victim set* is what must go from one node so that enough becomes free. Of all sets the cheapest
is wanted, and a set costs as much as its dearest member: giving up one model that was used a
moment ago is worse than giving up three that nobody has asked for today.

Strategies order single replicas, cheapest to lose first:

- ``lru``: longest out of regular use, then longest unused;
- ``priority``: lowest priority, then as ``lru``.

Regular use is told by the third-last request (``cortexd.fleet.demand``): by the last one alone a
model that is asked for once an hour would, once asked, drive out those that are asked for all the
time.

Before either counts whether a replica is younger than ``min_residency``: it is the last to be
chosen, for it has just cost its load and would cost it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop
from typing import Final

from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ReplicaState

Cost = tuple[float, ...]
"""What losing a replica costs; compared member by member, the smaller the better."""


@dataclass(frozen=True, slots=True)
class VictimSet:
    """What to give up, cheapest first, and what it costs."""

    victims: tuple[Replica, ...]
    cost: Cost

    @property
    def freed_mb(self) -> int:
        """The MiB that come free."""
        return sum(victim.footprint_mb for victim in self.victims)


NO_VICTIMS: Final = VictimSet((), ())


Priced = tuple[Cost, str, Replica]
"""A replica after what losing it costs; its model's name is for equal costs."""

Strategy = Callable[[Iterable[Replica], float, float], list[Priced]]
"""Prices replicas; the second argument is since when those are loaded that are not young, the third
is now. It takes all of a node's at once, for it is asked for every node of a fleet."""


def lru(replicas: Iterable[Replica], grown_since: float, now: float) -> list[Priced]:
    """Price by regular use, then by last use, which is now while a replica is in use."""
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


def priority(replicas: Iterable[Replica], grown_since: float, now: float) -> list[Priced]:
    """Price by priority, then as ``lru``."""
    return [
        ((is_young, replica.terms.priority, *used), model, replica)
        for (is_young, *used), model, replica in lru(replicas, grown_since, now)
    ]


STRATEGIES: Final[Mapping[str, Strategy]] = {"lru": lru, "priority": priority}


def is_evictable(replica: Replica) -> bool:
    """Whether a replica may ever be given up: loaded, not pinned, and nothing is done to it.

    An adapter cannot go alone: it comes and goes with its base. What a node that is not managed has
    loaded is its own business.
    """
    return (
        replica.state is ReplicaState.LOADED
        and not replica.pinned
        and replica.operation is None
        and replica.base is None
        and replica.node.is_managed
    )


def cheapest_victims(
    candidates: Iterable[Replica],
    *,
    need_mb: int,
    need_victims: int,
    strategy: str,
    min_residency: float,
    now: float,
) -> VictimSet | None:
    """Return the cheapest set that frees ``need_mb`` MiB and has ``need_victims`` members.

    ``None`` where all candidates together do not. Candidates are taken cheapest first until they
    suffice; then those that are not needed after all are let off, dearest first, so that no
    member can be spared.
    """
    if need_mb <= 0 and need_victims <= 0:
        return NO_VICTIMS
    cheapest = STRATEGIES[strategy](candidates, now - min_residency, now)
    # Most often one or two suffice: a heap spares the order of the others.
    heapify(cheapest)
    chosen: list[Replica] = []
    cost, freed_mb = NO_VICTIMS.cost, 0
    while freed_mb < need_mb or len(chosen) < need_victims:
        if not cheapest:
            return None
        cost, _, replica = heappop(cheapest)
        chosen.append(replica)
        freed_mb += replica.footprint_mb
    for replica in chosen[-2::-1]:
        if freed_mb - replica.footprint_mb >= need_mb and len(chosen) > need_victims:
            chosen.remove(replica)
            freed_mb -= replica.footprint_mb
    return VictimSet(tuple(chosen), cost)
