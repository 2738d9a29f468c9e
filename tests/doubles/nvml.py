"""A double of the module ``pynvml``, as the package nvidia-ml-py 13.615.71 has it.

Checked against that package's source: the names and codes of its errors and their texts, that each
code has a class of its own below NVMLError, the functions and what they return (memory in bytes, a
process's memory ``None`` where the driver says "not available", MIG mode as current and pending),
and that a versioned function which the driver lacks raises NVMLError_FunctionNotFound. Version
12.535.108 has the same names, but for those of version 2. It is stricter than the real module: a
call in the wrong order, a handle of before a shutdown, and an argument that NVML does not know
raise AssertionError. What a driver answers is set by the test: ``Card``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

MEBIBYTE = 1024 * 1024

TEXTS = {
    "Uninitialized": "Uninitialized",
    "InvalidArgument": "Invalid Argument",
    "NotSupported": "Not Supported",
    "NoPermission": "Insufficient Permissions",
    "NotFound": "Not Found",
    "DriverNotLoaded": "Driver Not Loaded",
    "LibraryNotFound": "NVML Shared Library Not Found",
    "FunctionNotFound": "Function Not Found",
    "GpuIsLost": "GPU is lost",
    "LibRmVersionMismatch": "RM has detected an NVML/RM version mismatch.",
    "Unknown": "Unknown Error",
}


class NVMLError(Exception):
    """The class above all errors of NVML."""


ERRORS = {
    name: type(f"NVMLError_{name}", (NVMLError,), {"__str__": lambda self, text=text: text})
    for name, text in TEXTS.items()
}


@dataclass
class Card:
    """One device: MiB of memory, and the MiB of each process, ``None`` where they are untold.

    ``failing`` has an error of TEXTS by the name of a function. ``parts`` are MIG devices.
    """

    name: str = "NVIDIA RTX 4090"
    uuid: str = "GPU-0000"
    total_mb: int = 24_564
    free_mb: int = 20_000
    computing: dict[int, int | None] = field(default_factory=dict)
    drawing: dict[int, int | None] = field(default_factory=dict)
    parts: list[Card | None] | None = None
    failing: dict[str, str] = field(default_factory=dict)


@dataclass
class Handle:
    """A handle, which is worth nothing after a shutdown."""

    card: Card
    opened: int
    is_part: bool = False


class Nvml:
    """The module: ``nvml.nvmlInit()`` and so on."""

    NVMLError = NVMLError

    def __init__(self, cards: list[Card]) -> None:
        self.cards = cards
        self.failing: dict[str, str] = {}
        self.opened = 0
        self.is_open = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVMLError_"):
            return ERRORS[name.removeprefix("NVMLError_")]
        raise AttributeError(name)

    def nvmlInit(self) -> None:
        assert not self.is_open, "opened twice"
        self._may_fail("nvmlInit")
        self.opened += 1
        self.is_open = True

    def nvmlShutdown(self) -> None:
        assert self.is_open, "shut down without being open"
        self.is_open = False
        self._may_fail("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        self._called("nvmlDeviceGetHandleByIndex")
        assert 0 <= index < len(self.cards), "no such index"
        self._may_fail("nvmlDeviceGetHandleByIndex", self.cards[index])
        return Handle(self.cards[index], self.opened)

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        return self._of("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        return self._of("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Handle) -> Any:
        card = self._of("nvmlDeviceGetMemoryInfo", handle)
        total, free = card.total_mb * MEBIBYTE, card.free_mb * MEBIBYTE
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Handle) -> list[Any]:
        return _processes(self._of("nvmlDeviceGetComputeRunningProcesses_v3", handle).computing)

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Handle) -> list[Any]:
        return _processes(self._of("nvmlDeviceGetGraphicsRunningProcesses_v3", handle).drawing)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle: Handle) -> list[Any]:
        return _processes(self._of("nvmlDeviceGetComputeRunningProcesses_v2", handle).computing)

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, handle: Handle) -> list[Any]:
        return _processes(self._of("nvmlDeviceGetGraphicsRunningProcesses_v2", handle).drawing)

    def nvmlDeviceGetMigMode(self, handle: Handle) -> list[int]:
        card = self._of("nvmlDeviceGetMigMode", handle)
        return [int(card.parts is not None), int(card.parts is not None)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Handle) -> int:
        parts = self._of("nvmlDeviceGetMaxMigDeviceCount", handle).parts
        assert parts is not None, "asked of a device that is not divided"
        return len(parts)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Handle, index: int) -> Handle:
        parts = self._of("nvmlDeviceGetMigDeviceHandleByIndex", handle).parts
        assert parts is not None, "asked of a device that is not divided"
        part = parts[index]
        if part is None:
            raise ERRORS["NotFound"]()
        return Handle(part, self.opened, is_part=True)

    def _of(self, name: str, handle: Handle) -> Card:
        self._called(name)
        assert handle.opened == self.opened, "a handle of before a shutdown"
        self._may_fail(name, handle.card)
        return handle.card

    def _called(self, name: str) -> None:
        if not self.is_open:
            raise ERRORS["Uninitialized"]()
        self._may_fail(name)

    def _may_fail(self, name: str, card: Card | None = None) -> None:
        failing = (self.failing if card is None else card.failing).get(name)
        if failing is not None:
            raise ERRORS[failing]()


def _processes(used: dict[int, int | None]) -> list[Any]:
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=None if size is None else size * MEBIBYTE)
        for pid, size in used.items()
    ]
