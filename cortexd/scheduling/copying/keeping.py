"""Which copies of a model must stay loaded, and which are more than pay: pure.

A model's ``min_copies`` are a wish without an end, as a pin is, but for no node in particular. A
copy that is needed for them is *kept*: it makes room last of all, for a pinned model or for
requests that have waited ``max_wait``, and is loaded again as soon as others are idle. A copy that
is not needed for them, and no longer spares as much waiting as its load took, is *spare*: it stays
in memory that nobody wants, and makes room before any model that is loaded once.
"""

from __future__ import annotations

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import ANSWERING_STATES


def is_missing(fleet: Fleet, model: str, coming: int, now: float) -> bool:
    """Whether another copy of a model must be loaded, while ``coming`` swaps bring one.

    A copy whose node is closed for a while, as for a restart, comes back with it.
    """
    standing = sum(_stands(fleet, replica, now) for replica in fleet.replicas(model))
    return standing + coming < fleet.least_copies.get(model, 0)


def _stands(fleet: Fleet, replica: Replica, now: float) -> bool:
    if not replica.is_allowed:
        return False
    if replica.state in ANSWERING_STATES and replica.node.closed:
        return True
    is_foreign_load = replica.operation is None and fleet.loads(replica, now)
    return replica.is_copy or is_foreign_load


def is_kept(fleet: Fleet, replica: Replica) -> bool:
    """Whether a loaded replica must stay, or there would be fewer than ``min_copies``."""
    least = replica.terms.min_copies
    return least > 0 and replica.is_allowed and _others(fleet, replica) < least


def is_spare(fleet: Fleet, replica: Replica) -> bool:
    """Whether a loaded replica can be missed: the others are as many as pay, and as must be.

    One that ``only_on`` forbids on its node gets no requests, so that nobody misses it.
    """
    if not replica.is_allowed:
        return True
    if replica.model not in fleet.several:
        return False
    terms = replica.terms
    wanted = max(1, terms.min_copies, replica.demand.copies_wanted)
    if terms.max_copies:
        wanted = min(wanted, terms.max_copies)
    return _others(fleet, replica) >= wanted


def _others(fleet: Fleet, replica: Replica) -> int:
    answering = fleet.answering(replica.model)
    return sum(each.is_copy for each in answering if each is not replica)


def kept_on(fleet: Fleet, node: Node) -> Replica | None:
    """Return a replica of a node that must stay, ``None`` if there is none."""
    if not fleet.least_copies:
        return None
    return next((each for each in node.residents if is_kept(fleet, each)), None)
