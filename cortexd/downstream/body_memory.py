"""The memory that the bodies of all clients may take together.

It is counted as bytes come, and not by the length that a head states: clients that state much and
send little would otherwise take it all. The beginning of each body is free, so that small requests
are served whatever large ones take.
"""

from __future__ import annotations

from typing import Final

FREE_BYTES: Final = 64 * 1024


class BodyMemory:
    """Counts the bytes of bodies in memory: at most ``limit`` are ``used``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Share:
    """The bytes of one body in this memory, without its first FREE_BYTES."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._size = 0

    def grow(self, size: int) -> bool:
        """Take so many bytes more, and return ``True``, unless the memory has no room for them."""
        memory = self._memory
        if memory.used + size > memory.limit:
            return False
        memory.used += size
        self._size += size
        return True

    def free(self) -> None:
        """Give all bytes back."""
        self._memory.used -= self._size
        self._size = 0
