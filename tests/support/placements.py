"""Readable findings of a survey, for tests of placement."""

from collections.abc import Collection
from typing import Any

from cortexd.fleet.fleet import Fleet
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    Obstacle,
    survey,
)

TERMS = EvictionTerms("lru", min_residency=10.0)
NOW = 1_000.0
SIZES = {"m": 8_000, "a": 10_000, "b": 12_000, "large": 30_000}


def found_for(
    fleet: Fleet, model: str = "m", *, swapping: Collection[str] = (), now: float = NOW, **may: Any
) -> list[Finding]:
    return survey(fleet, fleet.replicas(model), TERMS, now, swapping=swapping, **may)


def told(found: list[Finding]) -> dict[str, object]:
    """Return for each node the victims there, or the reason why it cannot load the model."""
    return {
        finding.replica.node.name: finding.hindrance
        if isinstance(finding, Obstacle)
        else [victim.model for victim in finding.victims.victims]
        for finding in found
    }
