"""How much of a node's memory is booked: pure, over the node as it is.

Memory is in MiB. A resident replica is booked with its footprint, whatever its state. If the
footprint is unknown, an assumption is booked: all free memory while the replica loads, a share of
the free memory if it was found loaded, and, once the node has reported its used memory at rest, a
share of what no known footprint explains.

If a node at rest has less free memory than the books say, the difference is booked as missing: the
engine leaked it without an unload, or another program took it. But the memory may also be about to
return from an unload that is not ours. So a reading at the end of our own operation counts at once,
and any other reading counts only as far as the reading before confirms it.

An agent also says what other programs take. What they take of the budget, models cannot fill: it
counts at once, and not as missing.
"""

from __future__ import annotations

from typing import Final

from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import RESIDENT_STATES, Operation, ReplicaState, SystemInfo

STEADY_STATES = RESIDENT_STATES - {ReplicaState.LOADING, ReplicaState.UNLOADING}
"""The resident states in which the memory of a replica does not change."""

UNSETTLED_STATES = RESIDENT_STATES - {ReplicaState.LOADED, ReplicaState.DRAINING}
"""The resident states of a replica that loads or unloads, or that cannot be unloaded at all."""

GOING: Final = (Operation.DRAIN, Operation.UNLOAD)
"""The operations that begin on a replica whose memory stays booked until they end."""

TOLERATED_MISSING_MB: Final = 64
"""Tolerance in MiB before missing free memory is booked; normal fluctuation is smaller."""


def note_others(node: Node, system: SystemInfo) -> None:
    """Note how much of a node's budget other programs take; an unknown total leaves it as it was.

    The memory beyond the budget is theirs anyway. Where a reading does not tell what they take, as
    after the end of an agent, the reading before it has confirmed that so much is missing.
    """
    if system.memory_total_mb is None:
        return
    beyond_mb = max(0, system.memory_total_mb - node.budget_mb)
    others_mb = min(max(0, system.others_mb - beyond_mb), node.budget_mb)
    node.shortfall_mb += max(0, node.others_mb - others_mb)
    node.others_mb = others_mb


def over_mb(node: Node) -> int:
    """Return how many MiB a node's resident replicas take beyond what they may fill, 0 for none.

    What other programs take is measured, so that a little too much of it is no excess.
    """
    if not node.is_managed:
        return 0
    excess_mb = node.resident_mb - node.usable_mb
    is_little = node.resident_mb <= node.budget_mb and excess_mb <= TOLERATED_MISSING_MB
    return 0 if is_little else max(0, excess_mb)


def book(node: Node, footprints: Footprints) -> None:
    """Book all resident replicas; assume an unknown footprint once, when the replica appears.

    A replica that unloads keeps its booked footprint until the end of the unload, whatever is
    learned meanwhile.
    """
    residents: list[Replica] = []
    for replica in node.replicas.values():
        if replica.is_resident:
            residents.append(replica)
        else:
            replica.footprint_mb = 0
    node.residents = tuple(residents)
    rebook(node, footprints)


def book_moved(node: Node, footprints: Footprints, moved: Replica) -> None:
    """Book as ``book`` does, where no other replica than one has moved since the last time.

    A node may list a thousand models, of which few are resident.
    """
    if moved.is_listed:
        residents = node.residents
        is_booked = moved in residents
        if not moved.is_resident:
            moved.footprint_mb = 0
            if is_booked:
                node.residents = tuple([each for each in residents if each is not moved])
        elif not is_booked:
            node.residents = tuple(sorted((*residents, moved), key=_order))
        elif (
            moved.operation in GOING
            and moved.footprint_mb
            and node.booked_by == footprints.generation
        ):
            # It keeps what is booked for it, and so do the others.
            node.unsettled = tuple([each for each in residents if each.state in UNSETTLED_STATES])
            return
    rebook(node, footprints)


def _order(replica: Replica) -> int:
    return replica.order


def rebook(node: Node, footprints: Footprints) -> None:
    """Book as ``book`` does, where no replica has moved since the last time."""
    unknown: list[Replica] = []
    unsettled: list[Replica] = []
    name, known_mb, known_of = node.name, 0, footprints.known_mb
    for replica in node.residents:
        if replica.state in UNSETTLED_STATES:
            unsettled.append(replica)
        known = known_of(name, replica.model)
        if known is None:
            unknown.append(replica)
            continue
        if replica.operation is not Operation.UNLOAD or not replica.footprint_mb:
            replica.footprint_mb = known
        known_mb += replica.footprint_mb
    node.resident_mb, node.unsettled = known_mb, tuple(unsettled)
    node.booked_by = footprints.generation
    if unknown:
        _assume(node, unknown)


def _assume(node: Node, unknown: list[Replica]) -> None:
    """Book replicas of unknown footprint: first those found loaded, then those that load."""
    share = max(1, node.free_mb // len(unknown))
    for replica in unknown:
        if not replica.footprint_mb and replica.state is not ReplicaState.LOADING:
            replica.footprint_mb = share
    node.resident_mb += sum(replica.footprint_mb for replica in unknown)
    for replica in unknown:
        if not replica.footprint_mb:
            replica.footprint_mb = max(1, node.free_mb)
            node.resident_mb += replica.footprint_mb


def _tells_others(node: Node) -> bool:
    """Return whether a node's agent tells what other programs take: the rest is the engine's."""
    return node.report is not None and node.report.others_mb is not None


def settle(node: Node, footprints: Footprints, system: SystemInfo, *, is_verified: bool) -> None:
    """Correct the books by what the node reports of its memory, if the node is at rest.

    ``is_verified`` says that all memory that had to come back has been waited for.
    """
    total, free = system.memory_total_mb, system.memory_free_mb
    if total is None or free is None or any(r.state not in STEADY_STATES for r in node.unsettled):
        return
    said_before, node.missing_mb, node.shortfall_mb = node.shortfall_mb, 0, 0
    known_mb = footprints.known_mb
    unknown = [replica for replica in node.residents if known_mb(node.name, replica.model) is None]
    if unknown:
        booked_mb = node.committed_mb - sum(replica.footprint_mb for replica in unknown)
        used_mb = total - free - system.others_mb
        if not _tells_others(node):
            used_mb = min(node.usable_mb, used_mb)  # what is beyond it may be anybody's
        share = (used_mb - booked_mb) // len(unknown)
        for replica in unknown:
            replica.footprint_mb = max(1, share)
        rebook(node, footprints)
    else:
        unexplained_mb = total - free - system.others_mb - node.resident_mb
        node.leaked_mb = min(node.leaked_mb, max(0, unexplained_mb))
        # Other programs may have what is beyond the budget; what they take within it is missing,
        # unless it is known to be theirs.
        others_mb = max(0, total - node.budget_mb) + node.others_mb
        shortfall_mb = total - free - others_mb - node.resident_mb
        if shortfall_mb > TOLERATED_MISSING_MB:
            node.shortfall_mb = shortfall_mb
            missing_mb = shortfall_mb if is_verified else min(shortfall_mb, said_before)
            node.missing_mb = missing_mb if missing_mb > TOLERATED_MISSING_MB else 0
