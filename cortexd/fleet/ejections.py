"""Which replicas of the fleet are ejected, and how the ends of leases change that: pure.

``cortexd.fleet.breaker`` has the rules for one replica. A breaker exists from the first fault of a
replica until it is trusted again, so that a sound replica costs nothing.

A node as a whole is judged in two ways. If two of its replicas are ejected at the same time, the
process that runs them all is probably sick: each other replica there comes last for a while, and
its first fault ejects it. That a node cannot be reached at all is for its polls to find out, and
an ejection has the node polled at once (``cortexd.upstream.poller``). What ends while a node is
down says nothing about its replicas, and a restart of the node or a load of the model brings a
replica back, because its engine is a new one. An adapter is judged apart from its base: its weights
may be at fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cortexd.fleet.breaker import SAYS_NOTHING, Breaker, BreakerTerms, Outcome, Step
from cortexd.fleet.nodes import Lease, Node, Replica, ReplicaKey
from cortexd.fleet.states import ANSWERING_HEALTH, Change, ReplicaEjected, ReplicaReturned

SICK_NODE_REPLICAS: Final = 2
"""How many ejected replicas make the other ones of their node suspect."""


class Ejections:
    """The ejected replicas, by the names of node and model, and the only writer of breakers."""

    def __init__(self, terms: BreakerTerms) -> None:
        self.terms = terms
        self.replicas: dict[ReplicaKey, Replica] = {}

    def take_end(
        self,
        replica: Replica,
        siblings: Iterable[Replica],
        lease: Lease,
        outcome: Outcome,
        now: float,
    ) -> list[Change]:
        """Take the end of a lease on a replica, and return what has changed.

        ``siblings`` are all replicas of the model. To skip this for a trusted replica whose lease
        ended without a fault changes nothing.
        """
        breaker = replica.breaker
        if replica.node.health not in ANSWERING_HEALTH:
            outcome = SAYS_NOTHING
        if breaker is None:
            if not outcome.fault:
                return []
            breaker = replica.breaker = Breaker()
        rivals: list[Breaker | None] = []
        if outcome.fault:
            rivals = [
                each.breaker
                for each in siblings
                if each is not replica and each.answers and not each.is_ejected
            ]
            if outcome.is_refusal and not rivals:
                outcome = SAYS_NOTHING  # an ejection would hide the server's words from clients
        step = breaker.take(outcome, lease.number, lease.granted_at, now, self.terms, rivals)
        if breaker.is_trusted:
            replica.breaker = None
        return self._follow(replica, breaker, step, now)

    def answers_already(self, replica: Replica, lease: Lease, now: float) -> list[Change]:
        """Take the first content of an answer, and return what has changed."""
        breaker = replica.breaker
        if breaker is None:
            return []
        return self._follow(replica, breaker, breaker.answers_already(lease.number), now)

    def forget(self, replica: Replica, reason: str) -> list[Change]:
        """Forget the faults of a replica, for this reason, and return what has changed."""
        replica.breaker = None
        if self.replicas.pop(replica.key, None) is None:
            return []
        return [ReplicaReturned(*replica.key, reason)]

    def forget_nodes_except(self, nodes: Mapping[str, Node]) -> None:
        """Forget the ejected replicas of nodes that have left the configuration."""
        for key, replica in list(self.replicas.items()):
            if nodes.get(key[0]) is not replica.node:
                del self.replicas[key]

    def _follow(self, replica: Replica, breaker: Breaker, step: Step, now: float) -> list[Change]:
        if step is Step.RETURNED:
            self.replicas.pop(replica.key, None)
            return [ReplicaReturned(*replica.key, "it answers again")]
        if step is Step.NOTHING:
            return []
        self.replicas[replica.key] = replica
        replica.note_odd()
        self._suspect_node(replica, now)
        seconds = breaker.until - now
        return [
            ReplicaEjected(
                *replica.key, breaker.reason, breaker.faults, seconds, breaker.is_poisoned
            )
        ]

    def _suspect_node(self, replica: Replica, now: float) -> None:
        """Be wary of the other replicas of a node that has several ejected ones."""
        others = replica.node.replicas.values()
        if sum(each.is_ejected for each in others) < SICK_NODE_REPLICAS:
            return
        for other in others:
            if other.answers and not other.is_ejected:
                if other.breaker is None:
                    other.breaker = Breaker()
                other.breaker.suspect(now, self.terms)
