"""What of a node's memory is booked: pure, over the node as it is.

Memory is in MiB. What is resident is booked with its footprint, whatever it is doing. A replica
whose footprint nobody knows is booked with an assumption: while it loads, with all that is free;
found loaded, with its share of what is left; and once the node, at rest, has said what is used,
with its share of that. Where, at rest, less is free than the books say, the difference is booked
as missing: an engine's leaks that no unload showed, or another program's. Memory may just be on its
way, though, from an unload that nobody here has waited for: so the end of an operation of ours is
believed at once, and any other reading only as far as the one before said so too.
"""

from __future__ import annotations

from typing import Final

from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import RESIDENT_STATES, Operation, ReplicaState, SystemInfo

STEADY_STATES = RESIDENT_STATES - {ReplicaState.LOADING, ReplicaState.UNLOADING}
"""The resident states in which a replica's memory does not change."""

UNSETTLED_STATES = RESIDENT_STATES - {ReplicaState.LOADED, ReplicaState.DRAINING}
"""The resident states of a replica that is on its way in or out, or that cannot go at all."""

TOLERATED_MISSING_MB: Final = 64
"""What may be gone of a node's free memory without being booked: it breathes."""


def book(node: Node, footprints: Footprints) -> None:
    """Count what is resident; a footprint that nobody knows is assumed once, as it comes.

    What is being unloaded keeps its footprint until that has ended, whatever is learned.
    """
    unknown: list[Replica] = []
    residents: list[Replica] = []
    known_mb = 0
    for model, replica in node.replicas.items():
        if not replica.is_resident:
            replica.footprint_mb = 0
            continue
        residents.append(replica)
        known = footprints.known_mb(node.name, model)
        if known is None:
            unknown.append(replica)
            continue
        if replica.operation is not Operation.UNLOAD or not replica.footprint_mb:
            replica.footprint_mb = known
        known_mb += replica.footprint_mb
    node.residents, node.resident_mb = tuple(residents), known_mb
    node.unsettled = tuple(each for each in residents if each.state in UNSETTLED_STATES)
    if unknown:
        _assume(node, unknown)


def _assume(node: Node, unknown: list[Replica]) -> None:
    """Book replicas of unknown footprint: those found loaded before those that load."""
    share = max(1, node.free_mb // len(unknown))
    for replica in unknown:
        if not replica.footprint_mb and replica.state is not ReplicaState.LOADING:
            replica.footprint_mb = share
    node.resident_mb += sum(replica.footprint_mb for replica in unknown)
    for replica in unknown:
        if not replica.footprint_mb:
            replica.footprint_mb = max(1, node.free_mb)
            node.resident_mb += replica.footprint_mb


def settle(node: Node, footprints: Footprints, system: SystemInfo, *, is_verified: bool) -> None:
    """Take the node's word, at rest, for what of its memory nobody else knows.

    ``is_verified`` says that all that was to come back has been waited for.
    """
    total, free = system.memory_total_mb, system.memory_free_mb
    if total is None or free is None or any(r.state not in STEADY_STATES for r in node.unsettled):
        return
    said_before, node.missing_mb, node.shortfall_mb = node.shortfall_mb, 0, 0
    known_mb = footprints.known_mb
    unknown = [replica for replica in node.residents if known_mb(node.name, replica.model) is None]
    if unknown:
        booked_mb = node.committed_mb - sum(replica.footprint_mb for replica in unknown)
        share = (min(node.budget_mb, total - free) - booked_mb) // len(unknown)
        for replica in unknown:
            replica.footprint_mb = max(1, share)
        book(node, footprints)
    else:
        node.leaked_mb = min(node.leaked_mb, max(0, total - free - node.resident_mb))
        # What is beyond the budget others may have; of what is within it they take from us.
        others_mb = max(0, total - node.budget_mb)
        shortfall_mb = total - free - others_mb - node.resident_mb
        if shortfall_mb > TOLERATED_MISSING_MB:
            node.shortfall_mb = shortfall_mb
            node.missing_mb = shortfall_mb if is_verified else min(shortfall_mb, said_before)
