"""What a node says of its machine: /v1/system/info."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.engine.damage import MEBIBYTE


def system_info(memory_mb: int | None, free_mb: int) -> dict[str, Any]:
    """Return /v1/system/info of this machine, sizes in bytes.

    It has no GPU, or with `memory_mb` a pretended one of that size, of which `free_mb` are free.
    """
    memory = proc_fields("/proc/meminfo")
    total, available = (int(memory[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    cpu = proc_fields("/proc/cpuinfo")
    brand, flags = cpu.get("model name", platform.machine()), cpu.get("flags", "").split()
    extensions = {name: name in flags for name in ("avx", "avx2", "fma")}
    cores = os.cpu_count() or 1
    physical = int(cpu.get("cpu cores", cores))
    sizes = {"total_memory_bytes": total, "available_memory_bytes": available}
    devices = [{"kind": "cpu", "ordinal": None, "name": brand, **sizes}]
    if memory_mb is not None:
        sizes = {
            "total_memory_bytes": memory_mb * MEBIBYTE,
            "available_memory_bytes": free_mb * MEBIBYTE,
        }
        devices.append({"kind": "cuda", "ordinal": 0, "name": None, **sizes})
    return {
        "os": platform.system(),
        "kernel": platform.release(),
        "cpu": {
            "brand": brand,
            "logical_cores": cores,
            "physical_cores": physical,
            **extensions,
            "avx512": "avx512f" in flags,
        },
        "memory": {"total_bytes": total, "available_bytes": available},
        "devices": devices,
        "build": {"version": version("mistralrs"), "cuda": False, "metal": False},
        "hf_cache_path": None,
    }


def proc_fields(path: str) -> dict[str, str]:
    """Return the `key: value` lines of a file under /proc."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
