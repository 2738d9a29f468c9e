"""Which replica answers a request: a pure choice among the replicas of its model."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import NodeHealth


def choose_replica(
    replicas: Iterable[Replica], tried: Collection[str] = (), only: Collection[str] | None = None
) -> Replica | None:
    """Return the replica that should answer a request, or ``None`` if no replica can now.

    The replica is loaded and has a free slot. The order of preference: a node that is up before one
    that is busy loading; the fewest leases relative to capacity; the node used longest ago; the
    given order. Nodes in ``tried`` are excluded, and with ``only`` all other nodes are.
    """
    best: Replica | None = None
    best_key: tuple[bool, float, float] = (True, 0.0, 0.0)
    for replica in replicas:
        if not (replica.answers and replica.has_slot) or replica.node.name in tried:
            continue
        node = replica.node
        if only is not None and node.name not in only:
            continue
        key = (
            node.health is not NodeHealth.UP,
            replica.leases / replica.terms.capacity,
            node.last_used_at,
        )
        if best is None or key < best_key:
            best, best_key = replica, key
    return best
