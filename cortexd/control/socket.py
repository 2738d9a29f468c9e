"""The UNIX socket of control: who may open it, who is at its other end, and what a kill left there.

The mode of the socket says who may open it, the kernel who did (SO_PEERCRED, unix(7)).
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

DIRECTORY_MODE: Final = 0o750
"""Of a socket's directory that is not there yet: the daemon's user and group."""

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
    """Return who connected to a UNIX stream socket, as the kernel saw it."""
    encoded = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(encoded))


class _ControlService(Service):
    """Listens while it runs. It starts after twistd has shed root: the socket is the daemon's."""

    def __init__(self, path: str, server: Service) -> None:
        self._path = path
        self._server = server

    def startService(self) -> None:
        """Listen; ControlSocketError if that cannot be done."""
        try:
            Path(self._path).parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            _remove_own_leftovers(self._path)
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
            problem = f"{problem}, {_lock_of(self._path)} says that process {holder} has it"
        return (
            f"cannot listen on the control socket {self._path}: {problem}; stop what has it, or "
            "set gateway.control_socket to a path in a directory that the daemon may write to"
        )


def control_service(reactor: Any, path: str, mode: str, factory: IProtocolFactory) -> IService:
    """Return a service that answers ``factory``'s commands on a UNIX socket.

    ``path`` is absolute; its directory is made, with DIRECTORY_MODE, if it is missing. ``mode`` is
    octal, as "660". Its start raises ControlSocketError if it cannot listen. What a killed daemon
    left behind is no hindrance; a daemon that lives is.
    """
    # With the key "address=" an equals sign in the path needs no quoting, and nothing else could.
    description = f"unix:address={quoteStringArgument(path)}:mode={mode}"
    return _ControlService(path, strports.service(description, factory, reactor))


def _lock_of(path: str) -> Path:
    """Return the symbolic link to the daemon's process id that Twisted keeps beside a socket."""
    return Path(f"{path}.lock")


def _lock_holder(path: str) -> str | None:
    """Return the process id that the lock beside a socket names, or None if it cannot be read."""
    try:
        return str(_lock_of(path).readlink())
    except OSError:
        return None


def _remove_own_leftovers(path: str) -> None:
    """Remove a lock that names this very process, and the socket beside it.

    Twisted takes over from a process that is gone. But in a container that is started again the
    daemon has the id it was killed under, and would wait for itself.
    """
    if _lock_holder(path) != str(os.getpid()):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT):
            return  # somebody listens: another service of this process
    if Path(path).is_socket():
        Path(path).unlink()
    _lock_of(path).unlink()
