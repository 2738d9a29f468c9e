"""The settings of the scheduler, in one value that a reload replaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.repairs.terms import RepairTerms


@dataclass(frozen=True, slots=True)
class SchedulingTerms:
    """The scheduler's settings, as described in ``etc/cortex.toml``; times in seconds."""

    max_queue: int = 256
    queue_timeout: float = 600.0
    max_wait: float = 30.0
    defrag_after_cycles: int = 50
    affinity: bool = True
    prefetch: bool = True
    eviction: EvictionTerms = field(default_factory=EvictionTerms)
    repair: RepairTerms = field(default_factory=RepairTerms)
