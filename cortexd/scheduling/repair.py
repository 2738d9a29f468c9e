"""When a node's engine should be restarted: pure, over the fleet as it is.

Three things wear an engine out: memory that an unload did not give back, unloads as such (they
leave the accelerator's memory in pieces), and ids that a reload has bricked. Only a restart of the
process mends them.
"""

from __future__ import annotations

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.states import ReplicaState

STUCK_POLLS = 2
"""Polls in a row that must see an id stuck: for a moment, every reload looks so (nodes.md 1.7)."""


def restart_reason(fleet: Fleet, node: Node, defrag_after_cycles: int, now: float) -> str | None:
    """Say why a node's engine should be restarted, or ``None`` where it need not be.

    ``defrag_after_cycles`` is after how many unloads, 0 for never.
    """
    reasons: list[str] = []
    if node.leaked_mb:
        reasons.append(f"unloads did not free {node.leaked_mb} MiB")
    if defrag_after_cycles and node.unload_cycles >= defrag_after_cycles:
        reasons.append(f"{node.unload_cycles} unloads since its start")
    stuck = sorted(
        model
        for model, replica in node.replicas.items()
        if replica.stuck_polls >= STUCK_POLLS
        or (replica.state is ReplicaState.LOADING and not fleet.loads(replica, now))
    )
    if stuck:
        reasons.append(f"stuck: {', '.join(stuck)}")
    return "; ".join(reasons) or None
