"""A node's reports: its models, its machine, its metrics."""

import hashlib
from typing import Any

from cortexd.testing.answering.wire import Version
from cortexd.testing.process import Process

FIRST_WITH_ROOT = (0, 9, 1)
MEBIBYTE = 1024 * 1024


def model_list(process: Process, version: Version) -> dict[str, Any]:
    """Return the answer of GET /v1/models: `created` is the start of the process for all models."""
    entries = []
    for listed in process.models.listed():
        entry: dict[str, Any] = {
            "id": listed.id,
            "object": "model",
            "created": process.created,
            "owned_by": "local",
        }
        if version >= FIRST_WITH_ROOT:
            entry["root"] = listed.root or listed.id
        if listed.parent is not None:
            entry["parent"] = listed.parent
            entry["adapter_generation"] = hashlib.sha256(listed.id.encode()).hexdigest()
        if listed.status is not None:
            entry["status"] = listed.status
        entries.append(entry)
    return {"object": "list", "data": entries}


def system_info(memory_mb: int, resident_mb: int, version: Version) -> dict[str, Any]:
    """Return the answer of GET /v1/system/info: a CPU, then a CUDA device of `memory_mb` MiB."""
    host_bytes = 64 * 1024 * MEBIBYTE
    free_bytes = 48 * 1024 * MEBIBYTE
    return {
        "os": "Linux",
        "kernel": "6.1.0",
        "cpu": {
            "brand": "Simulated CPU",
            "logical_cores": 16,
            "physical_cores": 8,
            "avx": True,
            "avx2": True,
            "avx512": False,
            "fma": True,
        },
        "memory": {"total_bytes": host_bytes, "available_bytes": free_bytes},
        "devices": [
            {
                "kind": "cpu",
                "ordinal": None,
                "name": "Simulated CPU",
                "total_memory_bytes": host_bytes,
                "available_memory_bytes": free_bytes,
            },
            {
                "kind": "cuda",
                "ordinal": 0,
                "name": None,
                "total_memory_bytes": memory_mb * MEBIBYTE,
                "available_memory_bytes": max(0, memory_mb - resident_mb) * MEBIBYTE,
                "compute_capability": [8, 0],
            },
        ],
        "build": {
            "version": ".".join(map(str, version)),
            "cuda": True,
            "metal": False,
            "git_revision": "0" * 40,
        },
        "hf_cache_path": "/var/cache/huggingface",
    }


def metrics_text(process: Process, version: Version) -> str:
    """Return the answer of GET /metrics: HTTP series, and the engine's gauges without labels."""
    lines = ["# TYPE http_requests_in_flight gauge"]
    lines += [
        f"http_requests_in_flight{{{_labels(method=method, path=path, model=model)}}} {count}"
        for (method, path, model), count in sorted(process.requests_in_flight.items())
    ]
    lines.append("# TYPE http_requests_total counter")
    lines += [
        f"http_requests_total"
        f"{{{_labels(method=method, path=path, model=model, status=str(status))}}} {count}"
        for (method, path, model, status), count in sorted(process.requests_total.items())
    ]
    unlabelled = [
        ("mistralrs_sequences_running", "gauge", process.sequences_running, (0, 9, 2)),
        ("mistralrs_sequences_waiting", "gauge", process.sequences_waiting, (0, 9, 2)),
        ("mistralrs_prefix_cache_tokens_reused_total", "counter", process.tokens_reused, (0, 9, 3)),
    ]
    for name, kind, value, since in unlabelled:
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"] if version >= since else []
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
