"""Carries out what the gateway asks of the agent."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from cortexd import __version__
from cortexd.agent.engine_control import EngineControl, Take
from cortexd.agent.watching import Watcher
from cortexd.fleet.agents import AgentAbilities, AgentReport


class Handling:
    """See ``Handlers`` of the link: looks go to ``watcher``, all else to ``control``."""

    def __init__(self, watcher: Watcher, control: EngineControl) -> None:
        self._watcher = watcher
        self._control = control

    @property
    def abilities(self) -> AgentAbilities:
        """What this agent can do."""
        return AgentAbilities(
            version=__version__,
            can_restart=self._control.can_restart,
            can_suspend=self._control.can_suspend,
            has_log=self._control.has_log,
        )

    def read_memory(self) -> Deferred[AgentReport]:
        """Look at once, and return what is seen."""
        return self._watcher.look_now()

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine; return the seconds until it was well again."""
        return self._control.restart(order, reason, limit)

    def suspend(self, order: str) -> Deferred[None]:
        """Let the machine sleep."""
        return self._control.suspend(order)

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Return the last lines of the engine's log; with ``take``, further ones go there."""
        return self._control.tail(stream, lines, take)

    def end_log(self, stream: int) -> None:
        """Send no more lines of a stream."""
        self._control.end_log(stream)

    def end_logs(self) -> None:
        """Send no more lines of any stream."""
        self._control.end_logs()
