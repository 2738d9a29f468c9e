"""The settings of ``[repair]``, in one value that a reload replaces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RepairTerms:
    """How engines are restarted; times in seconds.

    ``automatic``: without an operator. ``restart_budget`` is how many restarts a node may have in
    an hour. A node is idle ``idle_seconds`` after its last use. ``restart_timeout`` is the limit of
    a restart, with the boot of all models.
    """

    automatic: bool = True
    restart_budget: int = 4
    idle_seconds: float = 60.0
    restart_timeout: float = 900.0
