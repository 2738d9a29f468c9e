"""The states of nodes and replicas, what moves them, and what a poll brings.

A node's health is *unknown* until the first poll ends. An answer always makes it *up*. A single
failure changes nothing; ``down_after`` failures in a row make it *down*. While a load runs on the
node, silence is no failure, because a node reads weights with the same threads that answer polls
(nodes.md 2.2.2): the node is *busy loading*, for a multiple of the time that loads of the model
took, and for ``load_timeout`` seconds at most. A refused connection is a failure even then, because
a process that has ended loads nothing. Silence is no failure either while the node sends bytes of
the answer to any request: it lives, and is only slow to list its models. A node whose agent sees
that the engine's process has ended is down at once; the next answer to a poll makes it up again,
whatever the agent says.

A replica's state follows from two things: the state that the node *lists*, and our *operation* on
the replica. Without an operation it is the listed state. During a load or an unload of ours, polls
do not count, because the node may have answered them before or after it. A replica that we drain
for an unload is *draining* only while it is loaded: if another client unloaded it, the drain is
over. An id that is listed both as loaded and as reloading is *stuck*: a reload of a model that was
not unloaded has bricked it (nodes.md 2.3.2). A stuck replica still answers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cortexd.values import value


class _State(enum.Enum):
    # Members are singletons; the identity hash is faster than Enum's hash of the name.
    __hash__ = object.__hash__


class NodeHealth(_State):
    """Whether a node answers."""

    UNKNOWN = "unknown"
    UP = "up"
    BUSY_LOADING = "busy_loading"
    DOWN = "down"


class PollOutcome(_State):
    """The meaning of one poll for a node's health; *ended* is the word of its agent."""

    ANSWERED = "answered"
    FAILED = "failed"
    FAILED_TOO_OFTEN = "failed_too_often"
    SILENT_WHILE_LOADING = "silent_while_loading"
    ENDED = "ended"


class ReplicaState(_State):
    """The state of one model on one node; a node lists only the first four."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    STUCK = "stuck"
    DRAINING = "draining"
    UNLOADING = "unloading"


class Operation(_State):
    """What we are doing to a replica."""

    LOAD = "load"
    DRAIN = "drain"
    UNLOAD = "unload"


_H, _P, _R, _O = NodeHealth, PollOutcome, ReplicaState, Operation

HEALTH_TRANSITIONS: Final[Mapping[tuple[NodeHealth, PollOutcome], NodeHealth]] = {
    (_H.UNKNOWN, _P.ANSWERED): _H.UP,
    (_H.UNKNOWN, _P.FAILED): _H.UNKNOWN,
    (_H.UNKNOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UNKNOWN, _P.ENDED): _H.DOWN,
    (_H.UP, _P.ANSWERED): _H.UP,
    (_H.UP, _P.FAILED): _H.UP,
    (_H.UP, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.UP, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.UP, _P.ENDED): _H.DOWN,
    (_H.BUSY_LOADING, _P.ANSWERED): _H.UP,
    (_H.BUSY_LOADING, _P.FAILED): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.BUSY_LOADING, _P.SILENT_WHILE_LOADING): _H.BUSY_LOADING,
    (_H.BUSY_LOADING, _P.ENDED): _H.DOWN,
    (_H.DOWN, _P.ANSWERED): _H.UP,
    (_H.DOWN, _P.FAILED): _H.DOWN,
    (_H.DOWN, _P.FAILED_TOO_OFTEN): _H.DOWN,
    (_H.DOWN, _P.ENDED): _H.DOWN,
}
"""Every legal step of a node's health; a missing pair is a programming error of the caller."""

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
"""A replica's state, by our operation on it and by the state that its node lists."""

ANSWERING_HEALTH: Final = frozenset({NodeHealth.UP, NodeHealth.BUSY_LOADING})
"""The healths in which a node gets requests."""

ANSWERING_STATES: Final = frozenset({ReplicaState.LOADED, ReplicaState.STUCK})
"""The states in which a replica gets new requests."""

LOADED_STATES: Final = ANSWERING_STATES | {ReplicaState.DRAINING, ReplicaState.UNLOADING}
"""The states of a replica whose load has ended well, until its unload has."""

RESIDENT_STATES: Final = frozenset(ReplicaState) - {ReplicaState.UNLOADED}
"""The states in which a replica takes memory; an unload counts until it is verified."""


@value
class Observation:
    """What one poll of a node brought.

    ``created`` is the start time of the node's process (unix seconds, nodes.md 1.2), ``None`` if
    it lists nothing. ``replicas`` has the listed state of each model and each LoRA adapter by its
    id, ``bases`` the base model of each adapter.
    """

    created: int | None
    replicas: Mapping[str, ReplicaState]
    bases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PollFailure:
    """A poll that failed: ``reason`` in words, ``silent`` if no answer came in time.

    ``heard``: the node has sent bytes of an answer to a request since the poll was sent.
    """

    reason: str
    silent: bool
    heard: bool = False


@value
class SystemInfo:
    """A report of a node, by itself or by its agent; memory in MiB, of the accelerators if any.

    ``others_mb`` is what programs other than the engine take of it, 0 where that is not told.
    """

    version: str
    memory_total_mb: int | None
    memory_free_mb: int | None
    others_mb: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a server says of its machine: a report, and the number of its accelerators."""

    system: SystemInfo
    accelerators: int


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A node's health has changed, for this reason."""

    node: str
    before: NodeHealth
    after: NodeHealth
    reason: str


@dataclass(frozen=True, slots=True)
class NodeRestarted:
    """A node's process has been replaced by a new one."""

    node: str


@value
class ReplicaChanged:
    """A replica's state has changed; ``None`` stands for a model that the node does not list."""

    node: str
    model: str
    before: ReplicaState | None
    after: ReplicaState | None


@dataclass(frozen=True, slots=True)
class NodeAdded:
    """A reload of the configuration has added a node, which was not polled yet."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A reload of the configuration has removed a node; its replicas are forgotten.

    A NodeAdded of the same name may follow, for another machine or another engine.
    """

    node: str


@dataclass(frozen=True, slots=True)
class ReplicaEjected:
    """A replica gets no requests for ``seconds``, after ``faults`` faults in a row.

    ``reason`` is that of the last one, and ``poisoned`` says whether it showed a poisoned engine.
    """

    node: str
    model: str
    reason: str
    faults: int
    seconds: float
    poisoned: bool


@dataclass(frozen=True, slots=True)
class ReplicaReturned:
    """A replica that was ejected gets requests again, for this reason."""

    node: str
    model: str
    reason: str


Change = (
    HealthChanged
    | NodeRestarted
    | ReplicaChanged
    | ReplicaEjected
    | ReplicaReturned
    | NodeAdded
    | NodeRemoved
)
