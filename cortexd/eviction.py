"""Which replicas to give up for which gain: pure, the strategies side by side.

A *victim set* is what must go from one node so that enough becomes free. Of all sets the cheapest
is wanted, and a set costs as much as its dearest member: giving up one model that was used a
moment ago is worse than giving up three that nobody has asked for today.

Strategies order single replicas, cheapest to lose first:

- ``lru``: longest out of regular use, then longest unused;
- ``priority``: lowest priority, then as ``lru``.

Regular use is told by the third-last request (``cortexd.demand``): by the last one alone a model
that is asked for once an hour would, once asked, drive out those that are asked for all the time.

Before either counts whether a replica is younger than ``min_residency``: it is the last to be
chosen, for it has just cost its load and would cost it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cortexd.nodes import Replica
from cortexd.states import ReplicaState

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


def unused_since(replica: Replica, now: float) -> float:
    """Return when the replica was last used; one that is in use is used now."""
    return now if replica.leases else replica.last_used_at


def lru_cost(replica: Replica, now: float) -> Cost:
    """Order by regular use, then by last use: the longest ago is the cheapest."""
    return (replica.demand.regular_since, unused_since(replica, now))


def priority_cost(replica: Replica, now: float) -> Cost:
    """Order by priority, then as ``lru``."""
    return (replica.terms.priority, *lru_cost(replica, now))


STRATEGIES: Final[Mapping[str, Callable[[Replica, float], Cost]]] = {
    "lru": lru_cost,
    "priority": priority_cost,
}


def is_evictable(replica: Replica) -> bool:
    """Whether a replica may ever be given up: loaded, not pinned, and nothing is done to it.

    An adapter cannot go alone: it comes and goes with its base.
    """
    return (
        replica.state is ReplicaState.LOADED
        and not replica.pinned
        and replica.operation is None
        and replica.base is None
    )


def cheapest_victims(
    candidates: Iterable[Replica],
    *,
    need_mb: int,
    need_places: int,
    strategy: str,
    min_residency: float,
    now: float,
) -> VictimSet | None:
    """Return the cheapest set that frees ``need_mb`` MiB and ``need_places`` replicas.

    ``None`` where all candidates together do not. Candidates are taken cheapest first until they
    suffice; then those that are not needed after all are let off, dearest first, so that no
    member can be spared.
    """
    if need_mb <= 0 and need_places <= 0:
        return NO_VICTIMS
    cost_by = STRATEGIES[strategy]
    ordered = sorted(
        (
            ((now - replica.loaded_at < min_residency, *cost_by(replica, now)), replica)
            for replica in candidates
        ),
        key=lambda pair: (pair[0], pair[1].model),
    )
    chosen: list[tuple[Cost, Replica]] = []
    freed_mb = 0
    for pair in ordered:
        if freed_mb >= need_mb and len(chosen) >= need_places:
            break
        chosen.append(pair)
        freed_mb += pair[1].footprint_mb
    if freed_mb < need_mb or len(chosen) < need_places:
        return None
    for pair in reversed(chosen[:-1]):
        if freed_mb - pair[1].footprint_mb >= need_mb and len(chosen) > need_places:
            chosen.remove(pair)
            freed_mb -= pair[1].footprint_mb
    return VictimSet(tuple(replica for _, replica in chosen), chosen[-1][0])
