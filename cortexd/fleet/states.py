"""The states of nodes and replicas, what moves them, and what a poll brings.

A node's health. It is *unknown* until the first poll ends. An answer makes it *up*, always. A
failure alone changes nothing; ``down_after`` failures in a row make it *down*. While a load runs
there, silence is no failure: a node reads weights with the very threads that answer polls
(nodes.md 2.2.2), so it is *busy loading*, for some times as long as loads of the model took, and
``load_timeout`` seconds at most. A refused connection is a failure even then: a process that is
gone loads nothing.

A replica's state follows from two things: how the node *lists* it, and which *operation* of ours is
under way on it. Without one it is what the node lists. While ours loads or unloads it, polls say
nothing of it: they may have been answered before or after. A replica that is drained for an unload
is *draining* only while it is loaded: if somebody else unloaded it, the drain is over. An id listed
both as loaded and as reloading is *stuck*: a reload of something not unloaded has bricked it
(nodes.md 2.3.2). It still answers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


class _State(enum.Enum):
    # There is one of each: it is told by what it is, which is quicker than by a hash of its name.
    __hash__ = object.__hash__


class NodeHealth(_State):
    """Whether a node answers."""

    UNKNOWN = "unknown"
    UP = "up"
    BUSY_LOADING = "busy_loading"
    DOWN = "down"


class PollOutcome(_State):
    """What one poll means for a node's health."""

    ANSWERED = "answered"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed_too_often"
    SILENT_WHILE_LOADING = "silent_while_loading"


class ReplicaState(_State):
    """What one model on one node is doing; a node lists only the first four."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    STUCK = "stuck"
    DRAINING = "draining"
    UNLOADING = "unloading"


class Operation(_State):
    """What is being done to a replica by us."""

    LOAD = "load"
    DRAIN = "drain"
    UNLOAD = "unload"


_H, _P, _R, _O = NodeHealth, PollOutcome, ReplicaState, Operation

HEALTH_TRANSITIONS: Final[Mapping[tuple[NodeHealth, PollOutcome], NodeHealth]] = {
    (_H.UNKNOWN, _P.ANSWERED): _H.UP,
    (_H.UNKNOWN, _P.FAILED): _H.UNKNOWN,
    (_H.UNKNOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UP, _P.ANSWERED): _H.UP,
    (_H.UP, _P.FAILED): _H.UP,
    (_H.UP, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UP, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.ANSWERED): _H.UP,
    (_H.BUSY_LOADING, _P.FAILED): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.BUSY_LOADING, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.DOWN, _P.ANSWERED): _H.UP,
    (_H.DOWN, _P.FAILED): _H.DOWN,
    (_H.DOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
}
"""Every legal step of a node's health; a pair that is not here is a mistake of the caller."""

REPLICA_STATES: Final[Mapping[tuple[Operation | None, ReplicaState], ReplicaState]] = {
    (None, _R.LOADED): _R.LOADED,
    (None, _R.LOADING): _R.LOADING,
    (None, _R.UNLOADED): _R.UNLOADED,
    (None, _R.STUCK): _R.STUCK,
    (_O.LOAD, _R.LOADED): _R.LOADING,
    (_O.LOAD, _R.LOADING): _R.LOADING,
    (_O.LOAD, _R.UNLOADED): _R.LOADING,
    (_O.LOAD, _R.STUCK): _R.LOADING,
    (_O.DRAIN, _R.LOADED): _R.DRAINING,
    (_O.DRAIN, _R.LOADING): _R.LOADING,
    (_O.DRAIN, _R.UNLOADED): _R.UNLOADED,
    (_O.DRAIN, _R.STUCK): _R.STUCK,
    (_O.UNLOAD, _R.LOADED): _R.UNLOADING,
    (_O.UNLOAD, _R.LOADING): _R.UNLOADING,
    (_O.UNLOAD, _R.UNLOADED): _R.UNLOADING,
    (_O.UNLOAD, _R.STUCK): _R.UNLOADING,
}
"""A replica's state by the operation under way on it and by what its node lists."""

ANSWERING_HEALTH: Final = frozenset({NodeHealth.UP, NodeHealth.BUSY_LOADING})
"""The healths in which a node is sent requests."""

ANSWERING_STATES: Final = frozenset({ReplicaState.LOADED, ReplicaState.STUCK})
"""The states in which a replica is given new requests."""

RESIDENT_STATES: Final = frozenset(ReplicaState) - {ReplicaState.UNLOADED}
"""The states in which a replica takes memory; an unload counts until it is verified."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one poll of a node saw.

    ``created`` is the start time of the node's process (unix seconds, nodes.md 1.2), ``None`` where
    it lists nothing. ``replicas`` has each model's listed state by its id, LoRA adapters' too,
    whose base models are in ``bases``.
    """

    created: int | None
    replicas: Mapping[str, ReplicaState]
    bases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PollFailure:
    """That a poll saw nothing: ``reason`` in words, ``silent`` if it only took too long."""

    reason: str
    silent: bool


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What a node says of itself; memory in MiB, of the accelerators where it has any."""

    version: str
    memory_total_mb: int | None
    memory_free_mb: int | None


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A node's health is another than before, for this reason."""

    node: str
    before: NodeHealth
    after: NodeHealth
    reason: str


@dataclass(frozen=True, slots=True)
class NodeRestarted:
    """A node's process is another than before."""

    node: str


@dataclass(frozen=True, slots=True)
class ReplicaChanged:
    """A replica's state is another than before; ``None`` where the node does not list it."""

    node: str
    model: str
    before: ReplicaState | None
    after: ReplicaState | None


Change = HealthChanged | NodeRestarted | ReplicaChanged
