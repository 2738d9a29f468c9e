"""When a node's engine should be restarted: pure, over the fleet as it is.

Some things wear out an engine: memory that an unload did not free, the number of unloads (each one
fragments the accelerator's memory), ids that a reload has bricked, and a fault that has poisoned an
engine. Only a restart of the process repairs them. It also helps where several models fail at the
same time, for they share one process.
"""

from __future__ import annotations

from cortexd.fleet.ejections import SICK_NODE_REPLICAS
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.states import ReplicaState

STUCK_POLLS = 2
"""Polls in a row that must see an id stuck: each reload looks so for a moment (nodes.md 1.7)."""


def restart_reason(fleet: Fleet, node: Node, defrag_after_cycles: int, now: float) -> str | None:
    """Return why a node's engine should be restarted, or ``None`` if it should not.

    ``defrag_after_cycles`` is the number of unloads that is a reason, 0 for never.
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
    ejected = {
        model: replica.breaker
        for model, replica in node.replicas.items()
        if replica.breaker is not None and replica.breaker.is_ejected
    }
    poisoned = [
        f"{model} ({breaker.reason})" for model, breaker in ejected.items() if breaker.is_poisoned
    ]
    if poisoned:
        reasons.append(f"poisoned: {', '.join(sorted(poisoned))}")
    elif len(ejected) >= SICK_NODE_REPLICAS:
        reasons.append(f"requests fail on {', '.join(sorted(ejected))}")
    return "; ".join(reasons) or None
