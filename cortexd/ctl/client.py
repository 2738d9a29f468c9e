"""How ``cortexctl`` reaches a daemon, and what it says where none answers."""

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
HOW_TO_NAME: Final = "if it listens elsewhere, name its socket with --socket or CORTEX_SOCKET"


class NoDaemon(Exception):
    """Raised when no daemon answers; the words name the socket and say what to do."""


class ControlClient:
    """A connection to the daemon at ``path``, which has ``timeout`` seconds for each answer."""

    def __init__(self, connection: amp.AMP, clock: IReactorTime, path: str, timeout: float) -> None:
        self._connection = connection
        self._clock = clock
        self._path = path
        self._timeout = timeout

    async def ask(self, command: type[ControlCommand], **arguments: object) -> dict[str, Any]:
        """Return the answer to one command; an argument that is ``None`` is left out."""
        answered: Deferred[dict[str, Any]] = self._connection.callRemote(command, **arguments)
        answered.addTimeout(self._timeout, self._clock, self._too_late)
        return await answered

    async def ask_all(self, command: type[ControlCommand], **arguments: object) -> list[Any]:
        """Return the items of all pages."""
        items: list[Any] = []
        offset = 0
        while offset != LAST_PAGE:
            answer = await self.ask(command, offset=offset, **arguments)
            items += answer["items"]
            offset = answer["next"]
        return items

    async def check_protocol(self) -> None:
        """Refuse a daemon that speaks another protocol."""
        answer = await self.ask(Version)
        if answer["protocol"] != PROTOCOL:
            raise Refused(
                f"cortexd {answer['version']} speaks control protocol {answer['protocol']}, this "
                f"cortexctl ({__version__}) speaks {PROTOCOL}; use the cortexctl that came with "
                "the daemon"
            )

    async def pause(self, seconds: float) -> None:
        """Wait before the next question."""
        await deferLater(self._clock, seconds)

    def seconds(self) -> float:
        """Return the time."""
        return self._clock.seconds()

    def _too_late(self, result: object, seconds: float) -> NoReturn:
        raise NoDaemon(
            f"the daemon at {self._path} did not answer within {seconds:g} s; "
            "its log may say what keeps it, and --timeout gives it longer"
        )


async def converse(
    reactor: Any, path: str, ask: Callable[[ControlClient], Awaitable[Any]], timeout: float
) -> Any:
    """Connect to the daemon's socket, ask, and hang up; each answer may take ``timeout`` seconds.

    Raises NoDaemon if nobody answers, and Refused if the daemon refuses or cannot be understood.
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
            f"the daemon at {path} closed the connection: it is stopping, or serves as "
            "many clients as it can; try again"
        ) from error
    except amp.UnhandledCommand as error:
        raise Refused("the daemon does not know this command: it is of another version") from error
    except amp.UnknownRemoteError as error:
        raise Refused("the daemon failed at this command; its log says why") from error
    except (amp.AmpError, msgspec.DecodeError, LookupError, ValueError) as error:
        raise Refused(
            f"what answers at {path} cannot be understood: it is no cortexd, or one of "
            "another version"
        ) from error
    finally:
        if connection.transport is not None:
            connection.transport.loseConnection()


def find_socket(candidates: Sequence[Path]) -> Path:
    """Return the first of the paths where there is something; NoDaemon if there is nothing.

    A path in a directory that may not be searched counts: what is there cannot be known.
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
    """Return the words for a socket that cannot be connected to.

    ``error_number`` is what connect(2) failed with, ``group`` the one whose members may.
    """
    if error_number in (errno.EACCES, errno.EPERM):
        return NoDaemon(
            f"permission denied for the control socket {path}: it is for members of the group "
            f"{group}; use sudo, or have yourself added to a group that may (see Group= in "
            "contrib/systemd/README.md) and log in again"
        )
    if error_number == errno.ECONNREFUSED:
        problem = "nobody listens there any more"
    else:
        problem = os.strerror(error_number) if error_number else "it cannot be connected to"
    return NoDaemon(f"no daemon answers at {path}: {problem}; {HOW_TO_START}; {HOW_TO_NAME}")


def group_name(number: int) -> str:
    """Return a group's name or, if it has none, its number."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def owning_group(path: str) -> str:
    """Return the group of a file or, where that cannot be seen, of the directory that hides it."""
    for place in (Path(path), *Path(path).parents):
        try:
            return group_name(place.stat().st_gid)
        except OSError:
            continue
    return group_name(0)
