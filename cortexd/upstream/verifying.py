"""Measures loads and unloads by a node's free memory, and waits until that has settled.

A node reports only its free memory, and that lags: the engine ends some time after the node answers
the unload, and frees its memory in pieces or not at all (nodes.md 2.5.4, 2.6).
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from cortexd.errors import CortexError
from cortexd.fleet.states import SystemInfo
from cortexd.logs import get_logger
from cortexd.upstream.client import NodeClient

SYSTEM_SECONDS: Final = 15.0
"""How long a node may take to report its memory: it runs nvidia-smi for each card
(nodes.md 7.6)."""

WATCH_SECONDS: Final = 0.5
"""Seconds between two polls while we wait for foreign requests, foreign loads or free memory."""

MEMORY_SECONDS: Final = 30.0
"""How long a node may take to free all memory; an A100 took 1.5 s at most in other projects."""

LATE_SECONDS: Final = 5.0
"""How long free memory may take to start rising: the engine ends after the node's answer
(nodes.md 2.5.4)."""

LEVEL_LOOKS: Final = 4
"""Consecutive polls without more free memory after which we assume that it has stopped rising."""

LEVEL_LOOKS_UNMEASURED: Final = 2
"""The same for a model with an unknown footprint; the next load checks free memory again."""

TOLERATED_LEAK_MB: Final = 64
TOLERATED_LEAK_SHARE: Final = 0.02
"""Missing memory up to the larger of the two is no leak: other processes use memory too."""

log = get_logger("cortexd.verifying")


def pause(clock: IReactorTime) -> Deferred[None]:
    """Return a Deferred that fires when the next poll is due."""
    return deferLater(clock, WATCH_SECONDS)


async def read_system(client: NodeClient) -> SystemInfo | None:
    """Return a node's report about its machine, ``None`` where it has or sends no report."""
    if not client.engine.abilities.tells_memory:
        return None
    try:
        return await client.system_info(SYSTEM_SECONDS)
    except CortexError as error:
        log.info("system_info_failed", node=client.name, reason=error.message)
        return None


def free_mb(system: SystemInfo | None) -> int | None:
    """Return the free MiB of a report, ``None`` where it does not state them."""
    return system.memory_free_mb if system is not None else None


async def await_room(
    client: NodeClient, footprint_mb: int | None, clock: IReactorTime
) -> int | None:
    """Return the free MiB once the footprint fits, or once they have stopped rising.

    An unload that an earlier daemon started may still be freeing memory. Returns ``None`` where
    free memory cannot be read, and returns at once where the footprint is unknown.
    """
    best = 0
    began_at = risen_at = clock.seconds()
    while True:
        free = free_mb(await read_system(client))
        if free is None or footprint_mb is None or free >= footprint_mb:
            return free
        now = clock.seconds()
        if free > best:
            best, risen_at = free, now
        if now - risen_at >= LATE_SECONDS or now - began_at >= MEMORY_SECONDS:
            return free
        await pause(clock)


async def await_memory(
    client: NodeClient, free_before: int | None, measured_mb: int | None, clock: IReactorTime
) -> tuple[int | None, SystemInfo | None]:
    """Return the MiB that an unload freed, and the last report.

    Waits until all of the model's ``measured_mb`` are free, or until free memory has stopped
    rising. ``free_before`` was free before the unload. Both results are ``None`` where free memory
    cannot be read.
    """
    if free_before is None:
        return None, None
    began_at = clock.seconds()
    returned, level = 0, 0
    while True:
        system = await read_system(client)
        free = free_mb(system)
        if free is None:
            return None, None
        if free - free_before > returned:
            returned, level = free - free_before, 0
        else:
            level += 1
        is_back = measured_mb is not None and not leaked_mb(returned, measured_mb)
        waited = clock.seconds() - began_at
        may_be_late = waited < LATE_SECONDS and (measured_mb is not None or not returned)
        looks = LEVEL_LOOKS_UNMEASURED if measured_mb is None else LEVEL_LOOKS
        is_level = level >= looks and not may_be_late
        if is_back or is_level or waited >= MEMORY_SECONDS:
            return returned, system
        await pause(clock)


def leaked_mb(returned_mb: int | None, measured_mb: int | None) -> int:
    """Return the measured MiB that an unload did not free; 0 if tolerated or unknown."""
    if returned_mb is None or measured_mb is None:
        return 0
    missing = measured_mb - returned_mb
    tolerated = max(TOLERATED_LEAK_MB, measured_mb * TOLERATED_LEAK_SHARE)
    return missing if missing > tolerated else 0
