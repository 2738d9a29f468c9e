"""The engine's process from the two sides that can have it: the agent itself, or its machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.application.service import IService
from twisted.internet.defer import Deferred

from cortexd.agent.supervising.kernel import ProcessId


class Runner(Protocol):
    """Knows the engine's process, and can put another one in its place.

    The attributes are those of EngineControl. ``main`` is the main process, ``None`` while there is
    none, or while nothing tells which one it is.
    """

    changed: Callable[[], None]
    restarts: int
    reason: str
    is_given_up: bool
    main: ProcessId | None

    @property
    def sees_process(self) -> bool:
        """Whether the process can be found at all."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen; see EngineControl."""

    @property
    def service(self) -> IService:
        """The service that watches the process."""

    def pids(self) -> tuple[int, ...]:
        """Return the engine's processes, the main one first."""

    def replace(self) -> Deferred[None]:
        """End the process and start another; fires once that has begun. Raises contract.Failed."""
