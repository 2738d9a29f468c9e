"""The events and effects of nodes that sleep; ``scheduling.events`` has the rest."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.fleet.sleep.power import PowerState

# Events.


@dataclass(frozen=True, slots=True)
class SleepWanted:
    """An operator wants a node to sleep now. May raise OperationRefused."""

    node: str


@dataclass(frozen=True, slots=True)
class WakeWanted:
    """An operator wants a node woken. May raise OperationRefused."""

    node: str


@dataclass(frozen=True, slots=True)
class SuspendDone:
    """The command that StartSuspend ordered has ended well; polls show whether the node sleeps."""

    node: str
    number: int


@dataclass(frozen=True, slots=True)
class SuspendFailed:
    """The command that StartSuspend ordered has failed."""

    node: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class WakeFailed:
    """A node that StartWake ordered to be woken has not answered in time."""

    node: str
    number: int
    reason: str


# Effects.


@dataclass(frozen=True, slots=True)
class StartSuspend:
    """A node must be let sleep; SuspendDone or SuspendFailed answers."""

    node: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartWake:
    """A node must be woken, and polled until it answers; WakeFailed follows if it does not."""

    node: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class PowerChanged:
    """A node sleeps, is awake, or is about to; ``failure`` says what has failed, if it has."""

    node: str
    before: PowerState
    after: PowerState
    reason: str
    failure: str = ""
