"""When a prefetch pays, and when it could delay a request: pure.

A load cannot be broken off, and while it runs its node loads nothing else. So a request for another
model that is not loaded may wait for the prefetch first. A node that was quiet for as long as the
load takes is expected to stay quiet for as long again; and of the models that it has lost, less
than one request must be expected meanwhile, without those for the model that comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from cortexd.fleet.nodes import Node, Replica

QUIET_SECONDS: Final = 10.0
"""A node must have been quiet for so long at least."""

HOT: Final = 0.5
"""As hot is a model that was requested within two minutes, or that five sessions of the last
hundred have visited."""

WOKEN_SECONDS: Final = 300.0
"""For so long nothing is prefetched on a node that was woken: it was woken for something else."""

BUDGET: Final = 8
"""How many prefetches may begin on a node within ``BUDGET_SECONDS``."""

BUDGET_SECONDS: Final = 3600.0


def is_quiet(node: Node, since: float, now: float) -> bool:
    """Whether a node that takes work does nothing, and has done nothing for a while.

    A node that may sleep is left alone: what is loaded there would keep it awake.
    """
    return (
        node.takes_work
        and node.is_managed
        and not node.awaits_restart
        and not node.is_shrinking
        and not node.leases
        and node.power.terms is None
        and node.power.is_awake
        and now >= node.power.woken_at + WOKEN_SECONDS
        and now >= quiet_since(node, since) + QUIET_SECONDS
    )


def quiet_since(node: Node, since: float) -> float:
    """Return since when a node has been quiet: its last use, or ``since`` if that is later.

    The end of a load counts as a use of a replica elsewhere, but here it does not.
    """
    used = (each.last_used_at for each in node.residents if each.last_used_at > each.loaded_at)
    return max(node.last_used_at, since, *used)


def is_wanted(replica: Replica, now: float) -> bool:
    """Whether a model that a node has lost would be of use there, as far as its own goes.

    It is hot, its ``ttl`` would not have ended, its load has not failed, and it does not come by
    itself, as what is pinned and as adapters do.
    """
    ttl = replica.terms.ttl
    return (
        replica.base is None
        and not replica.pinned
        and not replica.failures
        and (not ttl or now < replica.last_used_at + ttl)
        and replica.demand.heat.at(now) >= HOT
    )


def delays_nobody(
    replica: Replica, seconds: float, lost: Iterable[Replica], since: float, now: float
) -> bool:
    """Whether a load of so many seconds is expected to end before a request has to wait for it.

    ``lost`` are the models that the node has lost, ``since`` is when it became quiet.
    """
    pace = sum(other.demand.heat.per_second(now) for other in lost if other is not replica)
    return now - since >= seconds and pace * seconds < 1.0


class Budget:
    """How many prefetches have begun on one node lately."""

    def __init__(self) -> None:
        self._begun_at: deque[float] = deque(maxlen=BUDGET)

    def allows(self, now: float) -> bool:
        """Whether one more may begin."""
        begun_at = self._begun_at
        return len(begun_at) < BUDGET or now >= begun_at[0] + BUDGET_SECONDS

    def note(self, now: float) -> None:
        """Note that one begins."""
        self._begun_at.append(now)
