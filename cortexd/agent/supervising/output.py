"""The output of the engine that the agent runs: read without ever making the engine wait long.

It comes through a named pipe in the run directory. The engine has it open for reading too, so that
an engine whose agent has ended can go on writing, until the pipe is full, and the next agent reads
what it wrote.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from cortexd.agent.supervising.engine_lines import LineCutter, Ring

PIPE_NAME: Final = "engine.output"
PIPE_BYTES: Final = 1024 * 1024
"""How much an engine can write while no agent reads: what users may ask of Linux by default."""

PIECE_BYTES: Final = 64 * 1024
LAST_PIECES: Final = 32
"""How much is read after the end of the process, at most: twice what the pipe holds."""

Listener = Callable[[Sequence[bytes]], None]


@implementer(IReadDescriptor)
class EngineOutput:
    """Reads the pipe while ``open``, keeps the latest lines, and gives each piece to listeners."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self._reactor = reactor
        self._path = folder / PIPE_NAME
        self._descriptor = -1
        self._cutter = LineCutter()
        self.ring = Ring()
        self.listeners: list[Listener] = []

    def open(self) -> None:
        """Make the pipe if it is missing, and begin to read. Raises OSError."""
        if not self._path.is_fifo():
            self._path.unlink(missing_ok=True)
            os.mkfifo(self._path, 0o600)
        # Without a writer of our own, the pipe would be at its end whenever no engine runs.
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._reactor.addReader(self)

    def writing_end(self) -> int:
        """Return a descriptor for the engine, which the caller closes. Raises OSError.

        If the pipe's file is gone, as after a clean-up of its folder, it is made anew.
        """
        if self._descriptor < 0 or not self._is_there():
            self.close()
            self.open()
        return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def read_rest(self) -> None:
        """Read what an engine has written before its end."""
        for _ in range(LAST_PIECES):
            if not self._read():
                break
        self._take(self._cutter.end())

    def close(self) -> None:
        """Read no longer; what the pipe holds stays while an engine has it open."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor, -1 while it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """Return the name for Twisted's log."""
        return "engine"

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Read one piece: the reactor has other work between two of them."""
        self._read()

    def connectionLost(self, reason: Failure) -> None:
        """Close the pipe: the reactor ends."""
        self.close()

    def _read(self) -> bool:
        try:
            piece = os.read(self._descriptor, PIECE_BYTES)
        except OSError:  # nothing is there, or it is closed
            return False
        self._take(self._cutter.feed(piece))
        return True

    def _take(self, lines: Sequence[bytes]) -> None:
        if lines:
            self.ring.add(lines)
            for listener in list(self.listeners):
                listener(lines)
