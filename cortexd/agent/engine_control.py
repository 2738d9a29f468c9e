"""What the agent can do with its engine's process, whoever runs the process.

The agent runs the engine itself (``[engine] command``), or restarts it by a command of its own file
(``restart_command``). All methods raise ``contract.Failed`` with words for the operator. Nothing
that comes over the link is run, or becomes an argument of a command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.application.service import IService
from twisted.internet.defer import Deferred

Take = Callable[[Sequence[str]], Deferred[object]]
"""Takes further lines of a log. Its Deferred fires when it can take more; until then lines wait,
and are dropped and counted if too many wait. If it fails, the stream ends."""


@dataclass(frozen=True, slots=True)
class Health:
    """What an engine answers now.

    ``created`` is the start of its process in unix seconds, as its list of models tells it
    (nodes.md 1.2), ``None`` while unknown. ``reason`` says why it is not well.
    """

    is_well: bool
    created: int | None = None
    reason: str = ""


class HealthCheck(Protocol):
    """Asks the engine of this machine; the rest of the agent provides it."""

    def look(self) -> Deferred[Health]:
        """Ask now, and return the answer within a few seconds; silence is an answer, no error."""


class EngineControl(Protocol):
    """The engine's process: whether it runs, how it ends, and what the gateway may ask of it.

    ``can_restart``, ``can_suspend`` and ``has_log`` are the abilities that the agent's file gives.
    ``sees_process`` is false if nothing tells which process is the engine. ``restarts`` counts the
    processes that have ended, ``reason`` says how the last one ended, and is empty while one runs.
    ``is_given_up`` is true after so many ends in a short time that only an order starts another.
    ``notes`` says what cannot be seen, and what to do about it. ``changed`` is called after each
    change of these values; the owner sets it.
    """

    can_restart: bool
    can_suspend: bool
    has_log: bool
    changed: Callable[[], None]

    @property
    def sees_process(self) -> bool:
        """Whether the process can be found at all."""

    @property
    def restarts(self) -> int:
        """How many processes of the engine have ended since the agent began to watch."""

    @property
    def reason(self) -> str:
        """Why no process runs, and what happens next; empty while one runs."""

    @property
    def is_given_up(self) -> bool:
        """Whether nothing but an order starts the engine again."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be seen, each in one line."""

    @property
    def service(self) -> IService:
        """The service that watches, and for ``command`` runs, the engine."""

    def pids(self) -> tuple[int, ...]:
        """Return the engine's processes, the main one first; none while it does not run."""

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine; return the seconds until its health was well again.

        The same order given twice is one restart with one outcome. Another order, while a restart
        runs, joins it and gets its outcome. Fails after ``limit`` seconds. Cancelling ends the
        wait, and lets the restart go on.
        """

    def suspend(self, order: str) -> Deferred[None]:
        """Start the command that lets the machine sleep; the same order given twice starts one."""

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Return the last lines of the engine's log, cut to fit one answer of the link.

        With ``take``, further lines go there until ``end_log``. The number of lines is bounded by
        ``contract.MAX_LOG_LINES``, that of streams by a few.
        """

    def end_log(self, stream: int) -> None:
        """End a stream; an unknown one is no error."""

    def end_logs(self) -> None:
        """End all streams, because the link has ended."""
