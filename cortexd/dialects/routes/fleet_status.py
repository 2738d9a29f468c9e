"""What is in memory, in the shapes that other gateways' clients know.

``GET /running`` is llama-swap's (``internal/server/api.go``): a list under ``running``, with the
process states ready, starting and stopping, and ``ttl`` in seconds, 0 for never. Here a model is in
it once for each node that has it.

``GET /api/ps`` is Ollama's (``api/types.go``, ``ProcessModelResponse``): a list under ``models``,
sizes in bytes. Here a model is in it once, with what it takes on all nodes. Nodes tell neither the
format nor the digest of a model; Ollama's own client cuts the first 12 characters off the digest,
so there is one: that of the id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ANSWERING_STATES, ReplicaState

MEBIBYTE: Final = 1024 * 1024

FOREVER_SECONDS: Final = 100 * 365 * 86400.0
"""From now until what never expires: Ollama's client says "Forever" for what is 20 years ahead."""

PROCESS_STATES: Final[Mapping[ReplicaState, str]] = {
    ReplicaState.LOADED: "ready",
    ReplicaState.STUCK: "ready",
    ReplicaState.LOADING: "starting",
    ReplicaState.DRAINING: "stopping",
    ReplicaState.UNLOADING: "stopping",
}
"""llama-swap's words for the states of what is in memory."""


def running_body(replicas: Iterable[Replica]) -> bytes:
    """Return the answer to ``GET /running``; what is not in memory is left out."""
    running = [
        {
            "model": replica.model,
            "state": PROCESS_STATES[replica.state],
            "ttl": int(replica.terms.ttl),
            "name": replica.model,
            "description": "",
            "cmd": "",
            "proxy": "",
            "node": replica.node.name,
            "leases": replica.leases,
            "pinned": replica.pinned,
        }
        for replica in replicas
        if replica.state in PROCESS_STATES
    ]
    return encode({"running": running})


def ps_body(replicas: Iterable[Replica], now: float) -> bytes:
    """Return the answer to ``GET /api/ps`` at ``now``, in unix seconds.

    Only what is loaded is in it, sorted by id.
    """
    by_model: dict[str, list[Replica]] = {}
    for replica in replicas:
        if replica.state in (*ANSWERING_STATES, ReplicaState.DRAINING):
            by_model.setdefault(replica.model, []).append(replica)
    models = [_loaded_model(model, by_model[model], now) for model in sorted(by_model)]
    return encode({"models": models})


def unloading_body(unloading: Sequence[Replica], kept: Mapping[str, str]) -> bytes:
    """Return the answer to a wish to unload: what goes, and why the rest of it stays, by model."""
    return encode(
        {
            "msg": "ok",
            "unloading": [
                {"model": replica.model, "node": replica.node.name} for replica in unloading
            ],
            "kept": kept,
        }
    )


def _loaded_model(model: str, replicas: Sequence[Replica], now: float) -> JsonObject:
    size = sum(replica.footprint_mb for replica in replicas) * MEBIBYTE
    expires_at = max(_expires_at(replica, now) for replica in replicas)
    return {
        "name": model,
        "model": model,
        "size": size,
        "digest": hashlib.sha256(model.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": "",
        },
        "expires_at": datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "size_vram": size,
        "nodes": [replica.node.name for replica in replicas],
    }


def _expires_at(replica: Replica, now: float) -> float:
    ttl = replica.terms.ttl
    if not ttl or replica.pinned or not replica.node.is_managed:
        return now + FOREVER_SECONDS
    if replica.leases:
        return now + ttl
    return (max(replica.last_used_at, replica.loaded_at) or replica.since) + ttl
