"""What a node's process wears out with: memory that unloads leave behind, and a poisoned context.

Only the end of the process repairs either, as in the world (docs/nodes.md 2.6 and 4.4.11).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1024 * 1024

ILLEGAL_ADDRESS: Final = (
    'DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")'
)
"""The words of an engine whose context is poisoned."""


class Ballast:
    """Memory that a model really takes beside its weights, in MiB; `kept_mb` stay at an unload.

    What stays is lost until the process ends: the next load takes new memory.
    """

    def __init__(self, size_mb: int = 0, kept_mb: int = 0) -> None:
        self._size_mb = size_mb
        self._kept_mb = min(kept_mb, size_mb)
        self._kept: list[mmap.mmap] = []
        self._own: list[mmap.mmap] = []

    def take(self) -> None:
        """Take the memory, and write to each of its pages."""
        if not self._own:
            parts = (self._kept_mb, self._size_mb - self._kept_mb)
            self._own = [_written(part) for part in parts if part]

    def give_back(self) -> None:
        """Give it back, but for what stays."""
        own, self._own = self._own, []
        if own and self._kept_mb:
            self._kept.append(own.pop(0))
        for memory in own:
            memory.close()


def _written(size_mb: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size_mb * MEBIBYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:: mmap.PAGESIZE] = b"\1" * (len(memory) // mmap.PAGESIZE)
    return memory


class DeviceContext:
    """The context that all models of a process share on its device.

    It is poisoned by the first work after `poison` has become a file, and takes that file away, so
    that the next process is well. From then on all work of this process fails.
    """

    def __init__(self, poison: Path | None = None) -> None:
        self._poison = poison
        self._is_poisoned = False

    def fault(self) -> str:
        """Return why work fails now, "" while it does not."""
        if self._poison is not None and not self._is_poisoned and self._poison.exists():
            self._poison.unlink(missing_ok=True)
            self._is_poisoned = True
        return ILLEGAL_ADDRESS if self._is_poisoned else ""
