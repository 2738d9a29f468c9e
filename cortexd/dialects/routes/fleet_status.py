"""The models in memory, in the formats of other gateways' clients.

``GET /running`` is llama-swap's (``internal/server/api.go``): a list under ``running``, with the
process states ready, starting and stopping, and ``ttl`` in seconds, 0 for never. Here a model
appears once for each node that has it.

``GET /api/ps`` is Ollama's (``api/types.go``, ``ProcessModelResponse``): a list under ``models``,
with sizes in bytes. Here a model appears once, with its memory on all nodes. Nodes report neither
the format nor the digest of a model. Ollama's own client shows the first 12 characters of the
digest, so we return a digest of the id.
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
"""The lifetime of a model that never expires: Ollama's client shows "Forever" beyond 20 years."""

PROCESS_STATES: Final[Mapping[ReplicaState, str]] = {
    ReplicaState.LOADED: "ready",
    ReplicaState.STUCK: "ready",
    ReplicaState.LOADING: "starting",
    ReplicaState.DRAINING: "stopping",
    ReplicaState.UNLOADING: "stopping",
}
"""llama-swap's states of a model in memory."""

_IN_MEMORY: Final = ANSWERING_STATES | {ReplicaState.DRAINING}


def running_model(replica: Replica) -> bytes | None:
    """Return a replica as ``GET /running`` lists it, ``None`` for one that is not in memory."""
    if replica.state not in PROCESS_STATES:
        return None
    return encode(
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
            "ejected": replica.is_ejected,
        }
    )


def running_body(models: Iterable[bytes | None]) -> bytes:
    """Return the answer to ``GET /running``, from what ``running_model`` returned."""
    return _list_of(b"running", models)


def loaded_model(model: str, replicas: Iterable[Replica], now: float) -> bytes | None:
    """Return a model as ``GET /api/ps`` lists it at ``now``, in unix seconds.

    ``None`` for a model that is not loaded in any of ``replicas``.
    """
    loaded = [each for each in replicas if each.state in _IN_MEMORY]
    return encode(_loaded_model(model, loaded, now)) if loaded else None


def ps_body(models: Iterable[bytes | None]) -> bytes:
    """Return the answer to ``GET /api/ps``, from what ``loaded_model`` returned."""
    return _list_of(b"models", models)


def _list_of(name: bytes, items: Iterable[bytes | None]) -> bytes:
    return b'{"%s":[%s]}' % (name, b",".join(item for item in items if item is not None))


def unloading_body(unloading: Sequence[Replica], kept: Mapping[str, str]) -> bytes:
    """Return the answer to an unload: the models to unload, and why others stay, by model."""
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
