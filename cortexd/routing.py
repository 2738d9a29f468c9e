"""Which replica answers a request: a pure choice among views of the fleet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cortexd.errors import (
    RETRY_WHEN_DOWN,
    RETRY_WHEN_FULL,
    RETRY_WHEN_UNLOADED,
    RETRY_WHILE_LOADING,
    CortexError,
    ModelNotLoaded,
    Overloaded,
)
from cortexd.fleet import ANSWERING_HEALTH, ANSWERING_STATES, NodeHealth, ReplicaState, ReplicaView


def choose_replica(
    model: str, replicas: Sequence[ReplicaView], tried: Collection[str] = ()
) -> ReplicaView:
    """Return the replica that should answer a request for ``model``.

    Of the loaded replicas with a free seat: on a node that is up before one that is busy
    loading, then fewest leases relative to capacity, then the node used longest ago, then the
    given order. Nodes in ``tried`` are left out.

    Raises ModelNotLoaded when no node that answers has it loaded, and Overloaded when none of
    its nodes answers or all seats are taken; each with the seconds after which to try again.
    """
    answering = [r for r in replicas if r.health in ANSWERING_HEALTH and r.node not in tried]
    loaded = [r for r in answering if r.state in ANSWERING_STATES]
    free = [r for r in loaded if r.leases < r.capacity]
    if not free:
        raise _refusal(model, replicas, answering, loaded)
    return min(
        free,
        key=lambda r: (
            r.health is not NodeHealth.UP,
            r.leases / r.capacity,
            r.node_last_used,
        ),
    )


def _refusal(
    model: str,
    replicas: Sequence[ReplicaView],
    answering: Sequence[ReplicaView],
    loaded: Sequence[ReplicaView],
) -> CortexError:
    if loaded:
        seats = sum(replica.capacity for replica in loaded)
        return Overloaded(
            f"all {seats} places of model {model!r} are taken; try again shortly",
            retry_after=RETRY_WHEN_FULL,
        )
    if not answering:
        nodes = ", ".join(replica.node for replica in replicas) or "none"
        return Overloaded(
            f"no node with model {model!r} answers at present (known on: {nodes})",
            retry_after=RETRY_WHEN_DOWN,
        )
    if any(replica.state is ReplicaState.LOADING for replica in answering):
        return ModelNotLoaded(
            f"model {model!r} is being loaded; try again shortly", retry_after=RETRY_WHILE_LOADING
        )
    nodes = ", ".join(replica.node for replica in answering)
    return ModelNotLoaded(
        f"model {model!r} is not loaded on any node (known on: {nodes})",
        retry_after=RETRY_WHEN_UNLOADED,
    )
