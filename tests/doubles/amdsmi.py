"""A double of the module ``amdsmi`` 7.0.2, the Python interface of AMD's library.

Checked against that package's source: the names of functions and errors, the keys of what they
return, amounts in bytes, and that a handle or a kind of memory of another type is refused. It is
stricter than the real module: a call before the start, or after the end, raises AssertionError.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

MEBIBYTE = 1024 * 1024


class AmdSmiException(Exception):
    """The class above all errors of the library."""


class AmdSmiLibraryException(AmdSmiException):
    """An error of the library, with the real one's text on two lines."""

    def __str__(self) -> str:
        return "Error code:\n\t4 | AMDSMI_STATUS_NO_DRV"


class _MemoryType(enum.IntEnum):
    VRAM = 0
    VIS_VRAM = 1
    GTT = 2


@dataclass(eq=False)
class Card:
    """One device; ``processes`` has MiB by number, ``failing`` the functions that fail."""

    name: str = "Instinct MI300X"
    uuid: str = "64ff74a1-0000-1000-80f5-000000000000"
    total_mb: int = 196_592
    used_mb: int = 300
    processes: dict[int, int | str] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)


class AmdSmi:
    """The module."""

    AmdSmiException = AmdSmiException
    AmdSmiMemoryType = _MemoryType

    def __init__(self, cards: list[Card]) -> None:
        self.cards = cards
        self.failing: set[str] = set()
        self.is_open = False

    def amdsmi_init(self) -> None:
        assert not self.is_open, "started twice"
        self._may_fail("init")
        self.is_open = True

    def amdsmi_shut_down(self) -> None:
        assert self.is_open, "ended without a start"
        self.is_open = False

    def amdsmi_get_processor_handles(self) -> list[Card]:
        assert self.is_open
        self._may_fail("handles")
        return list(self.cards)

    def amdsmi_get_gpu_memory_total(self, handle: Card, kind: _MemoryType) -> int:
        self._check("memory_total", handle)
        assert kind is _MemoryType.VRAM
        return handle.total_mb * MEBIBYTE

    def amdsmi_get_gpu_memory_usage(self, handle: Card, kind: _MemoryType) -> int:
        self._check("memory_usage", handle)
        assert kind is _MemoryType.VRAM
        return handle.used_mb * MEBIBYTE

    def amdsmi_get_gpu_asic_info(self, handle: Card) -> dict[str, Any]:
        self._check("asic_info", handle)
        return {"market_name": handle.name, "vendor_id": "0x1002"}

    def amdsmi_get_gpu_device_uuid(self, handle: Card) -> str:
        self._check("uuid", handle)
        return handle.uuid

    def amdsmi_get_gpu_process_list(self, handle: Card) -> list[dict[str, Any]]:
        self._check("process_list", handle)
        return [
            {
                "name": "mistralrs",
                "pid": pid,
                "memory_usage": {
                    "gtt_mem": 0,
                    "cpu_mem": 0,
                    "vram_mem": size * MEBIBYTE if isinstance(size, int) else size,
                },
            }
            for pid, size in handle.processes.items()
        ]

    def _check(self, name: str, handle: Card) -> None:
        assert self.is_open
        assert isinstance(handle, Card)
        if name in handle.failing:
            raise AmdSmiLibraryException

    def _may_fail(self, name: str) -> None:
        if name in self.failing:
            raise AmdSmiLibraryException
