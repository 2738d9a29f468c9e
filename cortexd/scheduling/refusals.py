"""Why a request for a model is rejected: pure functions of what a survey found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from cortexd.errors import (
    RETRY_WHEN_DOWN,
    RETRY_WHEN_FULL,
    RETRY_WHEN_UNLOADED,
    CortexError,
    ModelDoesNotFit,
    ModelLoading,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    QueueFull,
    QueueTimeout,
)
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.scheduling.copying.labels import only_words
from cortexd.scheduling.estimating.expectation import Expectation, Phase
from cortexd.scheduling.placement import Finding, Hindrance, Obstacle, Option


def not_idle(model: str, node: str) -> CortexError:
    """Return the error for a question of our own, which only an idle node gets."""
    return Overloaded(
        f"node {node} is not idle, or model {model!r} is not loaded there",
        retry_after=RETRY_WHEN_FULL,
    )


def hopeless(fleet: Fleet, model: str, found: Sequence[Finding], now: float) -> CortexError:
    """Return the error for a request that could wait for its model for ever.

    The most useful message comes first: a node's own report of a failed load, then that no node can
    hold the model, then the obstacle on each node.
    """
    obstacles = [finding for finding in found if isinstance(finding, Obstacle)]
    if not obstacles and model in fleet:
        return Overloaded(
            f"no node that can take the request lists model {model!r} any more; try again later",
            retry_after=RETRY_WHEN_DOWN,
        )
    if not obstacles:
        return ModelNotFound(
            f"no node lists model {model!r} any more; GET /v1/models lists the models",
            param="model",
        )
    only_on = next(iter(obstacles)).replica.terms.only_on
    if only_on:
        obstacles = [each for each in obstacles if each.hindrance is not Hindrance.NOT_ALLOWED]
        if not obstacles:
            return Overloaded(
                f"model {model!r} may only be used on nodes with {only_words(only_on)}, and no "
                "such node lists it",
                retry_after=RETRY_WHEN_DOWN,
            )
    ejected = _with(obstacles, Hindrance.EJECTED)
    if ejected:
        return all_ejected(model, ejected, now)
    failed = _with(obstacles, Hindrance.FAILED)
    if failed:
        soonest = min(failed, key=lambda obstacle: obstacle.replica.retry_at).replica
        words = "; ".join(
            f"node {obstacle.replica.node.name}: {obstacle.replica.failure}" for obstacle in failed
        )
        return ModelNotLoaded(
            f"model {model!r} could not be loaded: {words}", retry_after=soonest.retry_at - now
        )
    large = _with(obstacles, Hindrance.TOO_LARGE)
    if large and len(large) + len(_with(obstacles, Hindrance.TRIED)) == len(obstacles):
        return ModelDoesNotFit(_too_large(fleet, model, large))
    stuck = _with(obstacles, Hindrance.STUCK)
    if stuck:
        return ModelNotLoaded(
            f"model {model!r} cannot be loaded until {_names(stuck)} is restarted",
            retry_after=RETRY_WHEN_UNLOADED,
        )
    reasons = ", ".join(
        f"node {obstacle.replica.node.name} {obstacle.hindrance.value}" for obstacle in obstacles
    )
    of_those = f" with {only_words(only_on)}, which it needs," if only_on else ""
    return Overloaded(
        f"no node{of_those} can serve model {model!r} now: {reasons}",
        retry_after=RETRY_WHEN_DOWN,
    )


def all_ejected(model: str, ejected: Sequence[Obstacle], now: float) -> CortexError:
    """Return the error for a request whose model is loaded only where it failed its last ones."""
    breakers = [
        (obstacle.replica.node.name, breaker)
        for obstacle in ejected
        if (breaker := obstacle.replica.breaker) is not None
    ]
    wait = min((breaker.alone_until - now for _, breaker in breakers), default=0.0)
    words = "; ".join(f"node {name}: {breaker.reason}" for name, breaker in breakers)
    return Overloaded(
        f"model {model!r} failed its last requests and rests until one more is tried: {words}",
        retry_after=max(RETRY_WHEN_FULL, wait),
    )


def _with(obstacles: Sequence[Obstacle], hindrance: Hindrance) -> list[Obstacle]:
    return [obstacle for obstacle in obstacles if obstacle.hindrance is hindrance]


def _names(obstacles: Sequence[Obstacle]) -> str:
    return " or ".join(f"node {obstacle.replica.node.name}" for obstacle in obstacles)


def _too_large(fleet: Fleet, model: str, obstacles: Sequence[Obstacle]) -> str:
    nodes = [obstacle.replica.node for obstacle in obstacles]
    known = fleet.footprints.known_mb(nodes[0].name, model)
    needs = f" needs {known} MiB and" if known is not None else ""
    budgets = ", ".join(
        f"{node.name} has {node.budget_mb} MiB"
        + (f", of which other programs take {node.others_mb}" if node.others_mb else "")
        for node in nodes
    )
    return f"model {model!r}{needs} does not fit beside the pinned models of any node: {budgets}"


def no_free_slot(model: str, found: Sequence[Finding], *, footprints: Footprints) -> CortexError:
    """Return the error for a request that must not wait: the model is full or not loaded."""
    loaded = [
        finding.replica
        for finding in found
        if isinstance(finding, Obstacle) and finding.hindrance is Hindrance.LOADED
    ]
    if loaded:
        slots = sum(replica.terms.capacity for replica in loaded)
        return Overloaded(
            f"all {slots} slots of model {model!r} are in use; try again shortly",
            retry_after=RETRY_WHEN_FULL,
        )
    if any(
        isinstance(finding, Obstacle) and finding.hindrance is Hindrance.EJECTED
        for finding in found
    ):
        return Overloaded(
            f"no other node can serve model {model!r} now; try again shortly",
            retry_after=RETRY_WHEN_FULL,
        )
    return ModelNotLoaded(
        f"model {model!r} is not loaded on any other node; try again later",
        retry_after=load_seconds(found, footprints),
    )


def queue_full(
    model: str, waiting: int, found: Sequence[Finding], *, footprints: Footprints
) -> CortexError:
    """Return the error for a request that finds the queue of its model full."""
    return QueueFull(
        f"the queue of model {model!r} is full with {waiting} requests; try again later",
        retry_after=load_seconds(found, footprints),
    )


def queue_timeout(
    model: str, waited: float, found: Sequence[Finding], *, footprints: Footprints
) -> CortexError:
    """Return the error for a request that has waited too long."""
    closed = "".join(
        f"; node {finding.replica.node.name}: {finding.replica.node.closed}"
        for finding in found
        if isinstance(finding, Obstacle) and finding.hindrance is Hindrance.CLOSED
    )
    return QueueTimeout(
        f"the request waited {waited:.0f} s for a slot of model {model!r}{closed}; try again later",
        retry_after=load_seconds(found, footprints),
    )


def model_loading(model: str, expected: Expectation, now: float) -> CortexError:
    """Return the error for a request that does not wait as long as its model is expected to take.

    ``retry_after`` is in whole seconds, because nobody is served for coming earlier.
    """
    seconds = max(1, math.ceil(expected.seconds(now)))
    return ModelLoading(
        f"model {model!r} {_PHASES[expected.phase]} and is expected to take the request in "
        f"{seconds} s; try again then",
        retry_after=float(seconds),
    )


_PHASES: Final[Mapping[Phase, str]] = {
    Phase.READY: "is loaded",
    Phase.QUEUED: "waits for its turn",
    Phase.EVICTING: "waits for other models to make room",
    Phase.LOADING: "is being loaded",
    Phase.WAKING: "waits for its node to wake",
    Phase.RESTARTING: "waits for the restart of its node",
    Phase.FAILED: "cannot be loaded now",
}


def load_seconds(found: Sequence[Finding], footprints: Footprints) -> float:
    """Return the seconds that a load of the model takes on the fastest node that may load it.

    For nodes that cannot load it now, ``footprints`` has the time of earlier loads.
    """
    seconds: list[float] = []
    for finding in found:
        if isinstance(finding, Option):
            seconds.append(finding.seconds)
        elif finding.is_passing:
            seen = footprints.load_seconds(finding.replica.node.name, finding.replica.model)
            seconds.append(ASSUMED_LOAD_SECONDS if seen is None else seen)
    return min(seconds, default=ASSUMED_LOAD_SECONDS)
