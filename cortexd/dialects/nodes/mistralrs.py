"""The wire formats of a mistral.rs node's own routes: listing, status and system.

The facts are from nodes.md 1 and 7, of mistral.rs v0.9.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cortexd.dialects.nodes.answers import answer_object, listed_entries, read_count
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.fleet.states import Hardware, Observation, ReplicaState, SystemInfo

PSEUDO_MODEL = "default"
HEALTH_PATH = "/health"
MODELS_PATH = "/v1/models"
SYSTEM_INFO_PATH = "/v1/system/info"

MAX_VERSION: Final = 100
"""The most characters of a version."""

_STATES = {
    "loaded": ReplicaState.LOADED,
    "reloading": ReplicaState.LOADING,
    "unloaded": ReplicaState.UNLOADED,
}


def read_listing(body: bytes) -> Observation:
    """Return the models of ``GET /v1/models`` (nodes.md 1).

    The pseudo-model ``default`` is left out. An id that is listed both as loaded and as reloading
    is stuck; for other duplicates, the more useful state applies. A model without a status is
    loaded, because nodes before v0.7.0 and single-model servers report no status. A model with an
    unknown status is left out. A model with a ``parent`` is a LoRA adapter of it. Raises BadAnswer.
    """
    entries = listed_entries(body)
    created: int | None = None
    seen: dict[str, set[ReplicaState]] = {}
    bases: dict[str, str] = {}
    for entry in entries:
        started = read_count(entry, "created")
        created = created if started is None else started
        if entry["id"] == PSEUDO_MODEL:
            continue
        status = entry.get("status")
        state = ReplicaState.LOADED if status is None else _STATES.get(str(status))
        if state is not None:
            seen.setdefault(entry["id"], set()).add(state)
            if isinstance(entry.get("parent"), str):
                bases[entry["id"]] = entry["parent"]
    replicas = {model: _combined(states) for model, states in seen.items()}
    return Observation(created, replicas, bases)


def _combined(states: set[ReplicaState]) -> ReplicaState:
    if {ReplicaState.LOADED, ReplicaState.LOADING} <= states:
        return ReplicaState.STUCK
    for state in (ReplicaState.LOADED, ReplicaState.LOADING):
        if state in states:
            return state
    return ReplicaState.UNLOADED


def read_system_info(body: bytes) -> SystemInfo:
    """Return the system of ``GET /v1/system/info`` (nodes.md 7.5).

    Its memory is that of all accelerators together, or the machine's if it has none. Raises
    BadAnswer.
    """
    return read_hardware(body).system


def read_hardware(body: bytes) -> Hardware:
    """Return the same with the number of accelerators. Raises BadAnswer."""
    info = answer_object(body)
    build = info.get("build")
    version = build.get("version") if isinstance(build, dict) else None
    devices = info.get("devices")
    accelerators = [
        device
        for device in (devices if isinstance(devices, list) else [])
        if isinstance(device, dict) and device.get("kind") != "cpu"
    ]
    if accelerators:
        total = _mebibytes(accelerators, "total_memory_bytes", "devices")
        free = _mebibytes(accelerators, "available_memory_bytes", "devices")
    else:
        memory = info.get("memory")
        memories = [memory if isinstance(memory, dict) else {}]
        total = _mebibytes(memories, "total_bytes", "memory")
        free = _mebibytes(memories, "available_bytes", "memory")
    known = isinstance(version, str) and len(version) <= MAX_VERSION
    system = SystemInfo(str(version) if known else "unknown", total, free)
    return Hardware(system, len(accelerators))


def _mebibytes(memories: Sequence[JsonObject], name: str, within: str) -> int | None:
    """Return the sum of an amount in bytes, ``None`` if one is missing. Raises BadAnswer."""
    total = 0
    for memory in memories:
        amount = read_count(memory, name, within)
        if amount is None:
            return None
        total += amount
    return total // (1024 * 1024)
