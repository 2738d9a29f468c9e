"""The UNIX socket of control: its permissions, its clients' identity, and leftovers of a kill.

The mode of the socket decides who may open it; the kernel reports who did (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.application import strports
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory

from cortexd.config.addresses import with_backlog

DIRECTORY_MODE: Final = 0o750
"""Mode of a socket's directory that we create: for the daemon's user and group."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7)


class ControlSocketError(Exception):
    """Raised when the daemon cannot listen on its control socket."""


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process at the other end of a UNIX socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> PeerCredentials:
    """Return the process that connected to a UNIX stream socket, as the kernel reports it."""
    encoded = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(encoded))


class _ControlService(Service):
    """Listens while it runs, from after twistd has dropped root: so the daemon owns the socket."""

    def __init__(self, path: str, server: Service) -> None:
        self._path = path
        self._server = server

    def startService(self) -> None:
        """Listen; ControlSocketError if that fails."""
        try:
            Path(self._path).parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            _remove_leftovers(self._path)
            self._server.startService()
        except CannotListenError as error:
            raise ControlSocketError(self._words(error.socketError)) from error
        except OSError as error:
            raise ControlSocketError(self._words(error)) from error
        super().startService()

    def stopService(self) -> Deferred[None] | None:
        """Stop listening and close every connection."""
        if not self.running:
            return None
        super().stopService()
        stopped: Deferred[None] = self._server.stopService()
        return stopped

    def _words(self, problem: object) -> str:
        holder = _lock_holder(self._path)
        if holder not in (None, str(os.getpid())):
            problem = f"{problem}, {_lock_of(self._path)} says that process {holder} uses it"
        return (
            f"cannot listen on the control socket {self._path}: {problem}; stop the process that "
            "uses it, or set gateway.control_socket to a path in a directory that the daemon may "
            "write to"
        )


def control_service(reactor: Any, path: str, mode: str, factory: IProtocolFactory) -> IService:
    """Return a service that answers ``factory``'s commands on a UNIX socket.

    ``path`` is absolute; if its directory is missing, it is created with DIRECTORY_MODE. ``mode``
    is octal, such as "660". The service's start raises ControlSocketError if it cannot listen, for
    example because a daemon is running. It removes the socket of a killed daemon.
    """
    # With the key "address=", an equals sign in the path needs no quoting; quoting it is
    # impossible.
    description = with_backlog(f"unix:address={quoteStringArgument(path)}:mode={mode}")
    return _ControlService(path, strports.service(description, factory, reactor))


def _lock_of(path: str) -> Path:
    """Return the symbolic link that Twisted creates beside a socket: its target is a process id."""
    return Path(f"{path}.lock")


def _lock_holder(path: str) -> str | None:
    """Return the process id in the lock beside a socket, or None if it cannot be read."""
    try:
        return str(_lock_of(path).readlink())
    except OSError:
        return None


def _remove_leftovers(path: str) -> None:
    """Remove a lock to whose socket no process listens, and the socket beside it.

    Twisted replaces the lock of a process that no longer exists. But another program may have the
    process id of a killed daemon now; in a restarted container this very daemon often has it. A
    daemon that listens accepts connections, or has so many waiting that there is another error.
    """
    if _lock_holder(path) is None:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
            return
    if Path(path).is_socket():
        Path(path).unlink()
    _lock_of(path).unlink()
