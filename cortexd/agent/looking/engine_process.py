"""Follows the engine's process, whoever runs it, and reads what /proc says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cortexd.agent.composing import ProcessSeen
from cortexd.agent.engine_control import EngineControl
from cortexd.agent.looking.listeners import pid_at
from cortexd.agent.looking.processes import (
    PROC,
    environment,
    family,
    memory_limit_mb,
    read_machine,
    read_process,
    read_stat,
)

SEEK_SECONDS: Final = 30.0
"""How often the agent seeks the process at the engine's port: it looks at all processes then."""

FAMILY_SECONDS: Final = 30.0
"""How often it looks for new children of that process."""

UNSEEN: Final = (
    "the engine's process belongs to another user: set [engine] unit or pid_file, or run the agent "
    "as root or as that user"
)
UNNAMED: Final = (
    "nothing at the engine's port can be seen from here, as from another namespace: set [engine] "
    "unit or pid_file"
)


class ProcessWatch:
    """Looks at the engine's process.

    ``control`` knows it where the agent's file says which one it is. Otherwise it is the process
    that listens at ``address``, a host and a port. ``clock`` gives any seconds, ``proc`` stands for
    /proc.
    """

    def __init__(
        self,
        clock: Any,
        control: EngineControl,
        address: tuple[str | None, int],
        proc: str = PROC,
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self.environment: Mapping[str, str] = {}
        self._clock = clock
        self._control = control
        self._address = address
        self._proc = proc
        self._machine = read_machine(proc)
        self._main: tuple[int, float] | None = None
        self._limit_mb = 0
        self._found: int | None = None
        self._children: tuple[int, ...] = ()
        self._children_at = self._seek_at = float("-inf")
        self._has_found = False
        self._ends = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The engine's processes, the main one first."""
        return self._control.pids() if self._control.sees_process else self._children

    @property
    def main(self) -> tuple[int, float] | None:
        """The main process: its number and its start, which together no other process has."""
        return self._main

    def look(self, answers: bool) -> ProcessSeen:
        """Return what is seen now; ``answers`` says whether the engine has just answered."""
        control = self._control
        if not control.sees_process:
            self._seek(answers)
        restarts = control.restarts if control.sees_process else self._ends
        process = read_process(self.pids, self._machine, restarts, self._proc)
        main = None if process is None else (process.pid, process.started_at)
        if main != self._main or not self._limit_mb:
            self._limit_mb = memory_limit_mb(self.pids, self._proc) or self._limit_mb
        if main != self._main:
            self._main = main
            self.environment = {} if main is None else environment(main[0], self._proc)
        is_visible = control.sees_process or self._has_found
        return ProcessSeen(
            is_visible=is_visible,
            is_given_up=control.is_given_up,
            reason=control.reason,
            process=process,
            limit_mb=self._limit_mb,
        )

    def _seek(self, answers: bool) -> None:
        """Find the process at the port, and its children; notice its end."""
        now = self._clock.seconds()
        if self._found is not None and not self._is_same(self._found):
            self._found, self._children = None, ()
            self._ends += 1
            self._seek_at = now
        if self._found is None and answers and now >= self._seek_at:
            self._seek_at = now + SEEK_SECONDS
            self._found, listens = pid_at(*self._address, self._proc)
            self.notes = () if self._found else (UNSEEN if listens else UNNAMED,)
            self._children_at = now
            self._has_found = self._has_found or self._found is not None
        if self._found is not None and now >= self._children_at:
            self._children_at = now + FAMILY_SECONDS
            self._children = family(self._found, self._proc)

    def _is_same(self, pid: int) -> bool:
        stat = read_stat(pid, self._machine, self._proc)
        return stat is not None and (self._main is None or self._main == (pid, stat.started_at))
