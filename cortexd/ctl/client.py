"""The connection of ``cortexctl`` to the daemon, and the errors when no daemon answers."""

from __future__ import annotations

import errno
import grp
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
from twisted.internet import error as network_errors
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols import amp

from cortexd import __version__
from cortexd.control.contract import (
    LAST_PAGE,
    PROTOCOL,
    ControlCommand,
    Refused,
    Version,
)

HOW_TO_START: Final = "start it with 'systemctl start cortexd' or 'twistd -n cortex'"
HOW_TO_NAME: Final = "if its socket is elsewhere, set --socket or CORTEX_SOCKET"


class NoDaemon(Exception):
    """Raised when no daemon answers; the message names the socket and says what to do."""


class ControlClient:
    """A connection to the daemon at ``path``. Each answer may take ``timeout`` seconds."""

    def __init__(self, connection: amp.AMP, clock: IReactorTime, path: str, timeout: float) -> None:
        self._connection = connection
        self._clock = clock
        self._path = path
        self._timeout = timeout

    async def ask(self, command: type[ControlCommand], **arguments: object) -> dict[str, Any]:
        """Return the answer to one command; arguments that are ``None`` are left out."""
        answered: Deferred[dict[str, Any]] = self._connection.callRemote(command, **arguments)
        answered.addTimeout(self._timeout, self._clock, self._too_late)
        return await answered

    async def ask_all(self, command: type[ControlCommand], **arguments: object) -> list[Any]:
        """Return the items of all pages of a command."""
        items: list[Any] = []
        offset = 0
        while offset != LAST_PAGE:
            answer = await self.ask(command, offset=offset, **arguments)
            items += answer["items"]
            offset = answer["next"]
        return items

    async def check_protocol(self) -> None:
        """Raise Refused if the daemon speaks another protocol."""
        answer = await self.ask(Version)
        if answer["protocol"] != PROTOCOL:
            raise Refused(
                f"cortexd {answer['version']} speaks control protocol {answer['protocol']}, but "
                f"this cortexctl ({__version__}) speaks {PROTOCOL}; use the cortexctl that was "
                "installed with the daemon"
            )

    async def pause(self, seconds: float) -> None:
        """Wait before the next command."""
        await deferLater(self._clock, seconds)

    def seconds(self) -> float:
        """Return the time of the reactor's clock, in seconds."""
        return self._clock.seconds()

    def _too_late(self, result: object, seconds: float) -> NoReturn:
        raise NoDaemon(
            f"the daemon at {self._path} did not answer within {seconds:g} s; "
            "see its log for the reason, or give it more time with --timeout"
        )


async def converse(
    reactor: Any, path: str, ask: Callable[[ControlClient], Awaitable[Any]], timeout: float
) -> Any:
    """Connect to the daemon's socket, call ``ask``, and disconnect.

    Each answer may take ``timeout`` seconds. Raises NoDaemon if no daemon answers, and Refused if
    the daemon rejects the command or its answer cannot be understood.
    """
    endpoint = UNIXClientEndpoint(reactor, path, timeout)
    try:
        connection = await endpoint.connect(Factory.forProtocol(amp.AMP))
    except network_errors.ConnectError as error:
        raise unreachable(path, error.osError, owning_group(path)) from error
    try:
        return await ask(ControlClient(connection, reactor, path, timeout))
    except network_errors.ConnectionClosed as error:
        raise NoDaemon(
            f"the daemon at {path} closed the connection: it is stopping, or has the maximum "
            "number of clients; try again"
        ) from error
    except amp.UnhandledCommand as error:
        raise Refused("the daemon does not know this command: its version is different") from error
    except amp.UnknownRemoteError as error:
        raise Refused("the daemon failed at this command; its log has the reason") from error
    except (amp.AmpError, msgspec.DecodeError, LookupError, ValueError) as error:
        raise Refused(
            f"the answer from {path} cannot be understood: the server is not cortexd, or is a "
            "different version of it"
        ) from error
    finally:
        if connection.transport is not None:
            connection.transport.loseConnection()


def find_socket(candidates: Sequence[Path]) -> Path:
    """Return the first of the paths that exists; NoDaemon if none does.

    A path in a directory without search permission counts as existing, because it may exist.
    """
    for candidate in candidates:
        try:
            candidate.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            return candidate
        return candidate
    tried = " or ".join(str(candidate) for candidate in candidates)
    raise NoDaemon(f"no daemon answers: there is no socket {tried}; {HOW_TO_START}; {HOW_TO_NAME}")


def unreachable(path: str, error_number: int | None, group: str) -> NoDaemon:
    """Return the error for a failed connection to a socket.

    ``error_number`` is the errno of connect(2). The members of ``group`` may connect.
    """
    if error_number in (errno.EACCES, errno.EPERM):
        return NoDaemon(
            f"permission denied for the control socket {path}: only members of the group {group} "
            "may use it; use sudo, or get added to that group (see Group= in "
            "contrib/systemd/README.md) and log in again"
        )
    if error_number == errno.ECONNREFUSED:
        problem = "no process listens there any more"
    else:
        problem = os.strerror(error_number) if error_number else "connecting failed"
    return NoDaemon(f"no daemon answers at {path}: {problem}; {HOW_TO_START}; {HOW_TO_NAME}")


def group_name(number: int) -> str:
    """Return a group's name, or its number if it has no name."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def owning_group(path: str) -> str:
    """Return the group of a file, or that of the directory which does not let us read it."""
    for candidate in (Path(path), *Path(path).parents):
        try:
            return group_name(candidate.stat().st_gid)
        except OSError:
            continue
    return group_name(0)
