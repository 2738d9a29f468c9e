"""The engine that outlives its agent: what the next agent must know to take charge of it.

An agent that is killed, restarted or upgraded leaves its engine running, because a start of the
engine costs minutes and all its streams. The next agent finds the process in a file of the run
directory. The file's lock keeps two agents from running one engine.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from cortexd.agent.supervising.kernel import ProcessId

FILE_NAME: Final = "engine.json"
LOCK_NAME: Final = "agent.lock"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class RunDirectoryError(Exception):
    """Raised when a run directory cannot be used; the message says why, and what to do."""


class Left(msgspec.Struct, frozen=True):
    """What a file says of the process: its number and start, the boot, and the command."""

    pid: int
    ticks: int
    boot: str
    command: list[str]


class RunDirectory:
    """The run directory of one agent; ``open`` before use."""

    def __init__(self, path: Path, boot_id: Path = BOOT_ID) -> None:
        self.path = path
        self._file = path / FILE_NAME
        self._boot_id = boot_id
        self._lock = -1

    def open(self) -> None:
        """Make the directory and lock it. Raises RunDirectoryError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owners = {os.getuid(), self.path.stat().st_uid}
            # systemd links the directory of a unit with DynamicUser=; nobody else may.
            if self.path.is_symlink():
                owners |= {self.path.lstat().st_uid} - {0}
            if len(owners) > 1 or self.path.stat().st_mode & 0o022:
                raise RunDirectoryError(
                    f"{self.path}: the run directory must belong to the agent's user, and nobody "
                    "else may write there; choose another one with RUNTIME_DIRECTORY"
                )
            self._lock = os.open(
                self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise RunDirectoryError(
                f"{self.path}: another agent runs the engine of this directory; stop it first, or "
                "give this agent another directory with RUNTIME_DIRECTORY"
            ) from None
        except OSError as error:
            self.close()
            raise RunDirectoryError(
                f"{self.path}: the run directory cannot be used: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def left(self) -> tuple[ProcessId, list[str]] | None:
        """Return the process that an earlier agent of this boot has left, and its command."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=Left)
        except (OSError, msgspec.DecodeError):
            return None
        if found.boot != self._boot():
            return None
        return ProcessId(found.pid, found.ticks), found.command

    def note(self, process: ProcessId, command: list[str]) -> None:
        """Write down the process for the next agent. Raises OSError."""
        left = Left(process.pid, process.ticks, self._boot(), command)
        new = self._file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(left))
        new.replace(self._file)

    def forget(self) -> None:
        """Leave nothing for the next agent."""
        with suppress(OSError):
            self._file.unlink()

    def _boot(self) -> str:
        try:
            return self._boot_id.read_text(encoding="ascii").strip()
        except OSError:
            return ""
