"""An agent's control of an engine in a double of its machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from cortexd.agent.engine_control import Health
from cortexd.agent.supervising.control import Control
from cortexd.agent.supervising.making import engine_control
from cortexd.agent.supervising.terms import ProcessTerms
from tests.doubles.process_world import BOOTED_AT, OneProcess, ProcessWorld

COMMAND = ("engine", "--port", "1")
"""No process listens on this port."""


class ScriptedHealth:
    """An engine that is well while its process runs; ``health`` replaces that."""

    def __init__(self, world: ProcessWorld) -> None:
        self._world = world
        self.health: Health | None = None
        self.is_held = False
        self.asked = 0

    def look(self) -> Deferred[Health]:
        """Return how the engine is."""
        self.asked += 1
        if self.is_held:
            return Deferred(lambda _: None)
        if self.health is not None:
            return succeed(self.health)
        engines = [each for each in self._world.living() if tuple(each.command) == COMMAND]
        if not engines:
            return succeed(Health(False, reason="connection refused"))
        return succeed(Health(True, created=int(BOOTED_AT + engines[-1].ticks / 100)))


class Scene:
    """A control with its world; ``changes`` are the reasons at each change.

    The engine goes on at the stop of an agent that ``is_restarted``.
    """

    def __init__(self, folder: Path, world: ProcessWorld, terms: dict[str, Any]) -> None:
        self.world = world
        self.folder = folder
        self.is_restarted = False
        self.health = ScriptedHealth(world)
        self.environ = {"PATH": os.environ.get("PATH", ""), "NOTIFY_SOCKET": "@systemd"}
        made = {"run_directory": folder / "run", "port": 1, "command": COMMAND, **terms}
        self.control: Control = engine_control(
            world,
            ProcessTerms(**made),
            self.health,
            self.environ,
            world,
            lambda: succeed(self.is_restarted),
        )
        self.changes: list[tuple[bool, str]] = []
        self.control.changed = lambda: self.changes.append(
            (bool(self.control.pids()), self.control.reason)
        )

    def restart_agent(self, **terms: Any) -> Scene:
        """Let systemd restart the agent, with other terms; return the next one."""
        self.is_restarted = True
        stopped = self.control.service.stopService()
        assert stopped is not None
        assert stopped.called
        after = Scene(self.folder, self.world, terms)
        after.control.service.startService()
        return after

    def stop(self) -> None:
        """Stop the agent for good, if it runs."""
        if self.control.service.running:
            stopped = self.control.service.stopService()
            self.world.run(200.0, pace=1.0)
            assert stopped is None or stopped.called

    @property
    def engine(self) -> OneProcess:
        """The engine's process that runs now."""
        (engine,) = (each for each in self.world.living() if tuple(each.command) == COMMAND)
        return engine


@contextmanager
def scene(*, starts: bool = True, **terms: Any) -> Iterator[Scene]:
    """Run the control of an engine; nothing must be left of it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        made = Scene(Path(folder), ProcessWorld(), terms)
        if starts:
            made.control.service.startService()
        yield made
        made.stop()
        assert [] == made.world.getDelayedCalls(), made.world.getDelayedCalls()
        assert [] == list(made.world.getReaders())
