"""What the scheduler is told and what it wants done.

Events go in, effects come out, both plain values: a recorded sequence of events, each with its
time, gives the same effects again.
"""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.errors import CortexError
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.nodes import Lease
from cortexd.fleet.states import Change, Observation, PollFailure, ReplicaState, SystemInfo

# Events: requests.


@dataclass(frozen=True, slots=True)
class Submit:
    """A request wants a replica of a model, on none of the nodes in ``tried``.

    With ``only`` it must be on one of those nodes: there is what the request goes on from, or the
    others cannot take it.

    One that was tried somewhere already does not wait: it is granted another loaded replica at
    once, or rejected.
    """

    request_id: str
    model: str
    tried: tuple[str, ...] = ()
    only: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """A waiting request is no longer wanted."""

    request_id: str


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A request is done with its replica."""

    lease: Lease


# Events: what became of effects.


@dataclass(frozen=True, slots=True)
class LoadDone:
    """A load ended well, after ``seconds``.

    ``footprint_mb`` is by how much the node's free memory fell, ``None`` where that could not be
    read; ``system`` is what the node said of itself after it.
    """

    node: str
    model: str
    seconds: float
    footprint_mb: int | None = None
    system: SystemInfo | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A load ended badly, in the node's own words; the node now lists the model as ``listed``.

    ``unreachable`` says that the node answers nothing at all any more, ``overdue`` that the load
    goes on, by what the node says, but has lasted so long that it is taken to hang. ``begun`` says
    of one that is unreachable that it had been told to load, which may be what ended its process.
    """

    node: str
    model: str
    reason: str
    out_of_memory: bool = False
    listed: ReplicaState = ReplicaState.UNLOADED
    unreachable: bool = False
    overdue: bool = False
    begun: bool = False


@dataclass(frozen=True, slots=True)
class UnloadDone:
    """An unload ended well; ``leaked_mb`` of the footprint did not come back.

    ``system`` is what the node said of itself after it.
    """

    node: str
    model: str
    leaked_mb: int = 0
    system: SystemInfo | None = None


@dataclass(frozen=True, slots=True)
class UnloadFailed:
    """An unload ended badly; the node now lists the model as ``listed``."""

    node: str
    model: str
    reason: str
    listed: ReplicaState = ReplicaState.LOADED


# Events: what polls bring.


@dataclass(frozen=True, slots=True)
class Observed:
    """A poll, asked at ``asked_at``, saw what a node lists."""

    node: str
    observation: Observation
    asked_at: float


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll saw nothing."""

    node: str
    failure: PollFailure


@dataclass(frozen=True, slots=True)
class SystemRead:
    """A node said what it is and what memory it has.

    It was asked at ``asked_at``; ``None`` stands for after all that is known of it.
    """

    node: str
    system: SystemInfo
    asked_at: float | None = None


# Events: time.


@dataclass(frozen=True, slots=True)
class Tick:
    """Some request may have waited long enough for something to be done about it."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """It is time to look at what is idle, missing or to be tried again."""


# Events: the operator's wishes. Handling one raises OperationRefused, and nothing has changed.


@dataclass(frozen=True, slots=True)
class LoadWanted:
    """A model is to be loaded, on a certain node or where it fits best."""

    model: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class UnloadWanted:
    """A model is to go from a node or from all; ``now`` means without waiting for its leases."""

    model: str
    node: str | None = None
    now: bool = False


@dataclass(frozen=True, slots=True)
class PinWanted:
    """A model is to be kept on a node, or no longer."""

    model: str
    node: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class CordonWanted:
    """A node is to be sent no more work, or work again."""

    node: str
    cordoned: bool


Event = (
    Submit
    | Cancel
    | LeaseEnded
    | LoadDone
    | LoadFailed
    | UnloadDone
    | UnloadFailed
    | Observed
    | PollFailed
    | SystemRead
    | Tick
    | Sweep
    | LoadWanted
    | UnloadWanted
    | PinWanted
    | CordonWanted
)


# Effects.


@dataclass(frozen=True, slots=True)
class Grant:
    """A request gets a lease, after ``queued_seconds``, ``load_seconds`` of them for a load.

    ``decision`` is how it came about: one of the words of ``cortexd.scheduling.decisions``.
    """

    lease: Lease
    queued_seconds: float
    load_seconds: float
    decision: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A request gets none, and why."""

    request_id: str
    error: CortexError


@dataclass(frozen=True, slots=True)
class StartLoad:
    """A node is to load a model; answered by LoadDone or LoadFailed.

    It needs ``footprint_mb`` and lasts ``seconds``, as far as either is known.
    """

    node: str
    model: str
    footprint_mb: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StartUnload:
    """A node is to unload a model; answered by UnloadDone or UnloadFailed.

    ``measured_mb`` is what loads of it there have shown it to take, and what should come back;
    ``None`` where none was measured. ``now`` says that requests that still run on it are given up.
    """

    node: str
    model: str
    measured_mb: int | None
    now: bool = False


@dataclass(frozen=True, slots=True)
class Abandon:
    """A load or unload is no longer worth waiting for: its node is gone. It still is answered."""

    node: str
    model: str


@dataclass(frozen=True, slots=True)
class RestartDue:
    """A node's engine should be restarted, for this reason; nothing runs there now."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of a model's loads on a node now: to be kept."""

    node: str
    model: str
    load: LearnedLoad


@dataclass(frozen=True, slots=True)
class PinChanged:
    """The operator pinned a model to a node, or let it go: to be kept."""

    node: str
    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class CordonChanged:
    """The operator cordoned a node, or let it work again: to be kept."""

    node: str
    cordoned: bool


Effect = (
    Grant
    | Reject
    | StartLoad
    | StartUnload
    | Abandon
    | RestartDue
    | Learned
    | PinChanged
    | CordonChanged
    | Change
)
