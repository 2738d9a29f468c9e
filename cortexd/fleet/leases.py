"""The leases that are held, and the nodes and replicas that they count on.

A lease of a node that has left the configuration goes on to its end, and counts on that node and on
its replicas as they were: the new node of the same name, if there is one, has leases of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.nodes import Lease, Node, Replica, ReplicaKey


class Leases:
    """The leases on the replicas of ``nodes``, which is read anew for each lease."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._held: dict[int, Lease] = {}
        self._departed: dict[int, Node] = {}
        self._by_replica: dict[ReplicaKey, dict[int, float]] = {}
        self._next = 1

    @property
    def held(self) -> tuple[Lease, ...]:
        """The leases that are held, oldest first."""
        return tuple(self._held.values())

    @property
    def departed(self) -> frozenset[str]:
        """The names of the nodes that have left while these leases still run there."""
        return frozenset(node.name for node in self._departed.values())

    def on(self, node: Node, model: str) -> list[Lease]:
        """Return the leases that hold a model on a node, itself or as the base of an adapter."""
        return [
            lease
            for number, lease in self._held.items()
            if lease.node == node.name
            and model in (lease.model, lease.base)
            and number not in self._departed
        ]

    def granted_at(self, replica: Replica) -> Collection[float]:
        """Return when the leases were granted that hold a replica, oldest first."""
        return self._by_replica.get(replica.key, {}).values()

    def begin(
        self,
        replica: Replica,
        request_id: str,
        now: float,
        requester: Requester,
        *,
        is_probe: bool,
    ) -> Lease:
        """Begin a lease on a replica, and return it."""
        return self.adopt(
            replica.node,
            replica.model,
            replica.base,
            request_id,
            now,
            requester,
            is_probe=is_probe,
        )

    def adopt(
        self,
        node: Node,
        model: str,
        base: str | None,
        request_id: str,
        now: float,
        requester: Requester = ANYONE,
        *,
        is_probe: bool = False,
    ) -> Lease:
        """Begin a lease on a replica that the node need not list yet, and return it."""
        lease = Lease(self._next, node.name, model, request_id, now, base, is_probe, requester)
        self._next += 1
        self._held[lease.number] = lease
        for key in _keys(lease):
            running = self._by_replica.get(key)
            if running is None:
                running = self._by_replica[key] = {}
            running[lease.number] = now
        for held in _replicas_of(node, lease):
            held.leases += 1
            held.probes += is_probe
            held.last_used_at = held.last_used_at if is_probe else now
        node.leases += 1
        node.last_used_at = node.last_used_at if is_probe else now
        return lease

    def end(self, lease: Lease, now: float) -> Node | None:
        """End a lease and return its node, or ``None`` if that has left the configuration.

        Raises KeyError for a lease that has ended.
        """
        del self._held[lease.number]
        for key in _keys(lease):
            running = self._by_replica.get(key, {})
            running.pop(lease.number, None)
            if not running:
                self._by_replica.pop(key, None)
        departed = self._departed.pop(lease.number, None)
        node = self._nodes[lease.node] if departed is None else departed
        node.leases -= 1
        for held in _replicas_of(node, lease):
            held.leases -= 1
            held.probes -= lease.is_probe
            held.last_used_at = held.last_used_at if lease.is_probe else now
        return node if departed is None else None

    def depart(self, node: Node) -> None:
        """Let the leases of a node that leaves the configuration end there."""
        for number, lease in self._held.items():
            if lease.node == node.name and number not in self._departed:
                self._departed[number] = node
                for key in _keys(lease):
                    self._by_replica.pop(key, None)


def _keys(lease: Lease) -> tuple[ReplicaKey, ...]:
    own = lease.node, lease.model
    return (own,) if lease.base is None else (own, (lease.node, lease.base))


def count_ghosts(replica: Replica, change: int) -> None:
    """Count so many ghosts more on a replica, or fewer."""
    replica.ghosts += change


def _replicas_of(node: Node, lease: Lease) -> list[Replica]:
    names = (lease.model,) if lease.base is None else (lease.model, lease.base)
    return [node.replicas[name] for name in names if name in node.replicas]
