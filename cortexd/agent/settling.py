"""Gives back the memory that only a moment has needed, such as the start.

An agent beside an engine must cost little. Much of the memory of a Python process that has started
is the code of its libraries that runs once: the kernel reads it from their files again if it is
ever needed.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from typing import Final

SMAPS: Final = "/proc/self/smaps"
MADV_DONTNEED: Final = 4
"""The number of madvise(2) for pages that are not needed; they are read again when they are."""

KEPT_BLOCKS: Final = 64 * 1024
"""The bytes of free memory that glibc may keep at the end of its heap."""


def settle() -> None:
    """Collect garbage, and give back what is free or can be read again. Never fails."""
    gc.collect()
    gc.freeze()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(SMAPS, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - read once
            for start, length in clean_mappings(file.read()):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_DONTNEED)
        libc.malloc_trim(KEPT_BLOCKS)
    except (OSError, AttributeError, ValueError):
        return  # Another system or C library, which has ways of its own.


def clean_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Yield address and length of the mappings whose pages are all as their files have them.

    Only those that nobody can write, and that have never been changed: the pages of others would be
    lost. ``smaps`` is the text of /proc/PID/smaps, proc(5).
    """
    found: tuple[int, int] | None = None
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            found = _readable_file(name, rest)
        elif found is not None:
            if name in ("Private_Dirty:", "Shared_Dirty:", "Anonymous:", "Locked:", "Swap:"):
                if rest.split()[0] != "0":
                    found = None
            elif name == "VmFlags:":
                yield found
                found = None


def _readable_file(addresses: str, rest: str) -> tuple[int, int] | None:
    """Return address and length of a private mapping of a file that cannot be written."""
    fields = rest.split(maxsplit=4)
    if len(fields) < 5 or fields[0] not in ("r-xp", "r--p") or not fields[4].startswith("/"):
        return None
    start, _, end = addresses.partition("-")
    return int(start, 16), int(end, 16) - int(start, 16)
