"""Which replica answers a request: a pure choice among the replicas of its model."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import NodeHealth


def choose_replica(
    replicas: Collection[Replica],
    now: float,
    tried: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Replica | None:
    """Return the replica that should answer a request, or ``None`` if no replica can now.

    The replica is loaded and has a free slot. The order of preference: a replica whose last
    requests did not fail before one that is suspect; a node that is up before one that is busy
    loading; the fewest leases and ghosts relative to capacity; the node used longest ago; the given
    order. Nodes in ``tried`` are excluded, and with ``only`` all other nodes are.

    An ejected replica is chosen for its trial only (``cortexd.fleet.breaker``). That comes before
    all others once it is due, or the replica would never come back; but a request that has failed
    elsewhere is a trial only if nothing else is left.
    """
    best: Replica | None = None
    best_key: tuple[bool, bool, float, float] = (True, True, 0.0, 0.0)
    ejected: list[Replica] = []
    for replica in replicas:
        if not (replica.answers and replica.has_slot) or replica.node.name in tried:
            continue
        node = replica.node
        if only is not None and node.name not in only:
            continue
        breaker = replica.breaker
        if breaker is not None and breaker.is_ejected:
            ejected.append(replica)
            continue
        key = (
            breaker is not None and breaker.is_suspect(now),
            node.health is not NodeHealth.UP,
            (replica.leases + replica.ghosts) / replica.terms.capacity,
            node.last_used_at,
        )
        if best is None or key < best_key:
            best, best_key = replica, key
    if not ejected or (best is not None and tried):
        return best
    is_alone = best is None and not is_answered_otherwise(replicas, only)
    return due_trial(ejected, now, is_alone=is_alone) or best


def is_answered_otherwise(replicas: Iterable[Replica], only: Collection[str] | None) -> bool:
    """Whether a replica answers that is not ejected, even if all its slots are in use."""
    return any(
        replica.answers and not replica.is_ejected and (only is None or replica.node.name in only)
        for replica in replicas
    )


def due_trial(ejected: Iterable[Replica], now: float, *, is_alone: bool) -> Replica | None:
    """Return the ejected replica whose trial has been due for longest, ``None`` for none."""
    best: Replica | None = None
    best_until = 0.0
    for replica in ejected:
        breaker = replica.breaker
        if breaker is None or not breaker.may_try(now, is_alone=is_alone):
            continue
        if best is None or breaker.until < best_until:
            best, best_until = replica, breaker.until
    return best
