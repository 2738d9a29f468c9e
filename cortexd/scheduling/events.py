"""Events, the facts that go into the scheduler, and effects, the actions that come out.

Both are plain values: a recorded sequence of events, each with its time, gives the same effects
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cortexd.access.requesters import ANYONE, Requester
from cortexd.errors import CortexError
from cortexd.fleet.breaker import SAYS_NOTHING, Outcome
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.learning.load_times import UNKNOWN_TIME, LoadTime
from cortexd.fleet.nodes import Lease
from cortexd.fleet.reconfiguring import FleetTerms
from cortexd.fleet.states import Change, Observation, PollFailure, ReplicaState, SystemInfo
from cortexd.scheduling.affinity.events import AnswerBegan
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.scheduling.powering.events import (
    PowerChanged,
    SleepWanted,
    StartSuspend,
    StartWake,
    SuspendDone,
    SuspendFailed,
    WakeFailed,
    WakeWanted,
)
from cortexd.scheduling.prefetching.events import Prefetched
from cortexd.scheduling.repairs.events import (
    AgentChanged,
    AgentJoined,
    AgentLeft,
    AgentReported,
    BudgetExceeded,
    PollWanted,
    RestartDone,
    RestartEnded,
    RestartFailed,
    RestartPlanned,
    RestartWanted,
    StartRestart,
)
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.values import value

# Events: requests.


@value
class Submit:
    """A request needs a replica of a model, on none of the nodes in ``tried``.

    With ``only`` the replica must be on one of those nodes: they keep what the request continues
    from, or the other nodes cannot take the request.

    A request with ``tried`` nodes does not wait: it gets another loaded replica at once or is
    rejected. It has ``waited`` so many seconds before, in the queue of an earlier process.
    ``requester`` is for whom it is sent, ``hints`` are what else is known of it.
    """

    request_id: str
    model: str
    tried: tuple[str, ...] = ()
    only: frozenset[str] | None = None
    waited: float = 0.0
    requester: Requester = ANYONE
    hints: Hints = NO_HINTS


@dataclass(frozen=True, slots=True)
class Cancel:
    """A waiting request is withdrawn."""

    request_id: str


@value
class LeaseEnded:
    """A request no longer needs its replica; ``outcome`` is what its end says about that."""

    lease: Lease
    outcome: Outcome = SAYS_NOTHING


@dataclass(frozen=True, slots=True)
class TrialAnswers:
    """The first content of an answer has come from an ejected replica, whose trial this is."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseAdopted:
    """A request of the process before this one still occupies a replica; a Grant answers.

    The node need not have listed the model yet. The request has used ``gpu_seconds`` before.
    """

    request_id: str
    node: str
    model: str
    base: str | None = None
    requester: Requester = ANYONE
    gpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SharesAdopted:
    """Requesters have used so many GPU seconds, by their names, in the process before this one."""

    used: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProbeWanted:
    """A question of our own needs a loaded replica, now or not at all.

    It gets a lease only while the whole node is idle, and is rejected otherwise. It is no request
    of a client: it counts neither as demand nor as use.
    """

    request_id: str
    model: str
    node: str


# Events: how loads and unloads have ended.


@value
class LoadDone:
    """A load ended well, after ``seconds``.

    ``footprint_mb`` is how much the node's free memory fell, ``None`` if it could not be read.
    ``system`` is what the node reported after the load.
    """

    node: str
    model: str
    seconds: float
    footprint_mb: int | None = None
    system: SystemInfo | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A load failed, with the node's own message as ``reason``; the node lists it as ``listed``.

    ``unreachable``: the node answers nothing at all any more. ``overdue``: the node reports that
    the load goes on, but it has lasted so long that it counts as hanging. ``begun``, for an
    unreachable node: the node had received the command to load, so the load may have ended the
    node's process.
    """

    node: str
    model: str
    reason: str
    out_of_memory: bool = False
    listed: ReplicaState = ReplicaState.UNLOADED
    unreachable: bool = False
    overdue: bool = False
    begun: bool = False


@value
class UnloadDone:
    """An unload ended well, but did not free ``leaked_mb`` of the footprint.

    ``system`` is what the node reported after the unload.
    """

    node: str
    model: str
    leaked_mb: int = 0
    system: SystemInfo | None = None


@dataclass(frozen=True, slots=True)
class UnloadFailed:
    """An unload failed; the node now lists the model as ``listed``.

    ``is_unknown``: the node did not say what it lists, so that the model may be unloaded by now.
    """

    node: str
    model: str
    reason: str
    listed: ReplicaState = ReplicaState.LOADED
    is_unknown: bool = False


# Events: polls.


@dataclass(frozen=True, slots=True)
class Observed:
    """A poll, sent at ``asked_at``, brought a node's list of models."""

    node: str
    observation: Observation
    asked_at: float


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll failed."""

    node: str
    failure: PollFailure


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """A node has closed a connection: its process may have ended, and another may have begun."""

    node: str


@dataclass(frozen=True, slots=True)
class SystemRead:
    """A node reported its version and its memory.

    The question went out at ``asked_at``; ``None`` stands for a time after every known change.
    """

    node: str
    system: SystemInfo
    asked_at: float | None = None


# Events: time.


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; one that ``goes_on`` looks at more of what the last has found to be due."""

    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """It is time to look at all nodes for what is idle, missing or due for a retry.

    A large fleet is looked at in parts: first some queues, with no ``nodes``, then some nodes at a
    time, and more queues with each. A part that ``goes_on`` looks at more queues only.
    """

    nodes: tuple[str, ...] | None = None
    goes_on: bool = False


# Events: commands of the operator. Handling one may raise OperationRefused; then nothing changes.


@dataclass(frozen=True, slots=True)
class LoadWanted:
    """Load a model, on the given node or where it costs least."""

    model: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class UnloadWanted:
    """Unload a model from a node or from all nodes; ``now`` does not wait for its leases."""

    model: str
    node: str | None = None
    now: bool = False


@dataclass(frozen=True, slots=True)
class PinWanted:
    """Pin a model to a node, or remove the pin."""

    model: str
    node: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class CordonWanted:
    """Send a node no new work, or send it work again."""

    node: str
    cordoned: bool


# Events: the configuration.


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """Another configuration holds from now on.

    ``polled`` has the first poll of each node that it adds, where there was one: without it, the
    models of the node would be unknown until its next poll, and requests for them refused.
    """

    fleet: FleetTerms
    scheduling: SchedulingTerms
    polled: Mapping[str, Observation | PollFailure] = field(default_factory=dict)


Event = (
    Submit
    | Cancel
    | LeaseAdopted
    | SharesAdopted
    | LeaseEnded
    | TrialAnswers
    | AnswerBegan
    | ProbeWanted
    | LoadDone
    | LoadFailed
    | UnloadDone
    | UnloadFailed
    | Observed
    | PollFailed
    | ConnectionLost
    | SystemRead
    | Tick
    | Sweep
    | LoadWanted
    | UnloadWanted
    | PinWanted
    | CordonWanted
    | Reconfigured
    | AgentJoined
    | AgentLeft
    | AgentReported
    | RestartWanted
    | RestartDone
    | RestartFailed
    | SleepWanted
    | WakeWanted
    | SuspendDone
    | SuspendFailed
    | WakeFailed
)


# Effects.


@value
class Grant:
    """A request gets a lease, after ``queued_seconds``, ``load_seconds`` of them for a load.

    ``decision`` is one of the outcomes in ``cortexd.scheduling.decisions``. ``is_trial``: the
    replica is ejected, and this request decides whether it comes back. ``affinity`` says how the
    replica fits what the request goes on with (``cortexd.scheduling.affinity.leaning``).
    """

    lease: Lease
    queued_seconds: float
    load_seconds: float
    decision: str
    is_trial: bool = False
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is refused a lease, with the reason."""

    request_id: str
    error: CortexError


class Charged(NamedTuple):
    """A requester has used GPU seconds of a model on a node: a lease or a load has ended.

    A lease brings its ``gpu_seconds`` (``cortexd.fleet.shares``). A load brings ``load_seconds``
    and ``loads``: the requester's share of its seconds and of the one load, by how many of the
    requests that waited for it then are the requester's. A load that an operator or a pin wanted,
    or for which no request waits any more, is charged to nobody. A tuple, because every answer
    brings one, and a frozen dataclass takes three times as long to make.
    """

    requester_name: str
    model: str
    node: str
    gpu_seconds: float = 0.0
    load_seconds: float = 0.0
    loads: float = 0.0


@value
class StartLoad:
    """A node must load a model; LoadDone or LoadFailed answers.

    ``footprint_mb`` and ``seconds`` are what the load is expected to take, if known.
    """

    node: str
    model: str
    footprint_mb: int | None = None
    seconds: float | None = None


@value
class StartUnload:
    """A node must unload a model; UnloadDone or UnloadFailed answers.

    ``measured_mb`` is what loads of the model there were measured to take, so what the unload
    should free; ``None`` without a measurement. ``now`` loses the requests that still run there.
    """

    node: str
    model: str
    measured_mb: int | None
    now: bool = False


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop waiting for a load or unload, because its node is gone. An event still answers it."""

    node: str
    model: str


@dataclass(frozen=True, slots=True)
class RestartDue:
    """A node's engine should be restarted, for this reason; no request runs there now."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What followed from an event did not end within so many ``steps``, so it was cut short.

    ``left`` names what was still to be looked at; the next sweep looks at everything again.
    """

    steps: int
    left: tuple[str, ...]


@value
class Learned:
    """Store what is now known of a model's loads on a node, and of their times by kind."""

    node: str
    model: str
    load: LearnedLoad
    times: LoadTime = UNKNOWN_TIME


@dataclass(frozen=True, slots=True)
class PinChanged:
    """Store that the operator pinned a model to a node, or removed the pin."""

    node: str
    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class CordonChanged:
    """Store that the operator cordoned a node, or ended the cordon."""

    node: str
    cordoned: bool


Effect = (
    Grant
    | Reject
    | Charged
    | StartLoad
    | StartUnload
    | Abandon
    | RestartDue
    | Learned
    | PinChanged
    | CordonChanged
    | RestartPlanned
    | StartRestart
    | RestartEnded
    | PollWanted
    | AgentChanged
    | BudgetExceeded
    | StartSuspend
    | StartWake
    | PowerChanged
    | Prefetched
    | Unsettled
    | Change
)
