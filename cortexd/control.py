"""The daemon's side of control: it answers the commands of ``cortexd.commands``.

Whoever may open the socket may ask everything; the mode of the socket says who that is. The kernel
says who asked (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.application import strports
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols import amp
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from cortexd import __version__
from cortexd.commands import (
    PROTOCOL,
    LeaseSummary,
    ListLeases,
    ListNodes,
    ListReplicas,
    NodeSummary,
    ReplicaSummary,
    UnknownNode,
    Version,
    page,
)
from cortexd.fleet import Fleet, NodeView
from cortexd.logs import get_logger

MAX_CONNECTIONS: Final = 64
"""Clients at once: each holds a file descriptor that a request may need."""

IDLE_SECONDS: Final = 60.0
"""How long a client may go without a whole command before its connection is closed."""

DIRECTORY_MODE: Final = 0o750
"""Of a socket's directory that is not there yet: the daemon's user and group."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7)

log = get_logger(__name__)


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


def summarize_node(view: NodeView) -> NodeSummary:
    """Return what control tells of a node."""
    system = view.system
    return NodeSummary(
        name=view.name,
        endpoint=view.endpoint,
        health=view.health.value,
        reason=view.reason,
        since=view.since,
        last_answer_at=view.last_answer_at,
        version=system.version if system else None,
        memory_total_mb=system.memory_total_mb if system else None,
        memory_free_mb=system.memory_free_mb if system else None,
        memory_budget_mb=view.memory_budget_mb,
        restarts=view.restarts,
        leases=view.leases,
        replica_states=dict(Counter(replica.state.value for replica in view.replicas)),
    )


class ControlProtocol(amp.AMP, TimeoutMixin):
    """Answers one client's commands, and is one of ``connections`` as long as it lasts.

    ``clock`` must be the one that the fleet's times are of; ``started_at`` is in unix seconds.
    """

    factory: Any
    transport: Any  # a UNIX connection or a double of one
    peer: PeerCredentials

    def __init__(
        self,
        fleet: Fleet,
        clock: IReactorTime,
        started_at: float,
        connections: set[ControlProtocol],
    ) -> None:
        super().__init__()
        self._fleet = fleet
        self._clock = clock
        self._started_at = started_at
        self._connections = connections

    def connectionMade(self) -> None:
        """Learn who connected, and read no faster than the client does."""
        super().connectionMade()
        self.peer = peer_credentials(self.transport.getHandle())
        self.transport.registerProducer(self, True)
        self.setTimeout(IDLE_SECONDS)
        self._connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the client."""
        self._connections.discard(self)
        self.setTimeout(None)
        super().connectionLost(reason)

    def callLater(self, delay: float, function: Any) -> Any:
        """Let the timeout be timed by the clock."""
        return self._clock.callLater(delay, function)

    def timeoutConnection(self) -> None:
        """Close the connection now, even if the client has not read its last answer."""
        self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:  # noqa: N802 - AMP calls it by this name
        """Carry out a command. Any other box ends the connection: nothing was asked of the client.

        Only a whole command counts against the timeout: bytes that never become one are no life.
        """
        self.resetTimeout()
        command = box.get(amp.COMMAND)
        if command is None:
            log.warning("control_box_refused", **self._who())
            self.transport.loseConnection()
            return
        name = command.decode("ascii", "backslashreplace")
        log.debug("control_command", command=name, **self._who())
        super().ampBoxReceived(box)

    def _who(self) -> dict[str, int]:
        return {"peer_pid": self.peer.pid, "peer_uid": self.peer.uid, "peer_gid": self.peer.gid}

    @Version.responder
    def version(self) -> Mapping[str, Any]:
        """Say which daemon this is."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "protocol": PROTOCOL,
        }

    @ListNodes.responder
    def list_nodes(self, offset: int) -> Mapping[str, Any]:
        """Return a page of nodes."""
        nodes = [summarize_node(self._fleet.node(name)) for name in self._fleet.node_names]
        return _answer(page(nodes, offset))

    @ListReplicas.responder
    def list_replicas(self, node: str, offset: int) -> Mapping[str, Any]:
        """Return a page of a node's replicas; UnknownNode if there is no such node."""
        names = self._fleet.node_names
        if node not in names:
            raise UnknownNode(f"no node is called {node!r}; there are {', '.join(names)}")
        replicas = [
            ReplicaSummary(
                model=replica.model,
                state=replica.state.value,
                leases=replica.leases,
                capacity=replica.capacity,
            )
            for replica in self._fleet.node(node).replicas
        ]
        return _answer(page(replicas, offset))

    @ListLeases.responder
    def list_leases(self, offset: int) -> Mapping[str, Any]:
        """Return a page of leases."""
        now = self._clock.seconds()
        leases = [
            LeaseSummary(
                request_id=lease.request_id,
                model=lease.model,
                node=lease.node,
                age_seconds=round(now - lease.granted_at, 3),
            )
            for lease in self._fleet.leases
        ]
        return _answer(page(leases, offset))


def _answer(found: tuple[list[Any], int]) -> Mapping[str, Any]:
    items, following = found
    return {"items": items, "next": following}


class ControlFactory(Factory):
    """Gives each client a ControlProtocol, MAX_CONNECTIONS at most.

    The other arguments are ControlProtocol's.
    """

    noisy = False

    def __init__(self, fleet: Fleet, clock: IReactorTime, started_at: float) -> None:
        self._fleet = fleet
        self._clock = clock
        self._started_at = started_at
        self._connections: set[ControlProtocol] = set()

    def buildProtocol(self, address: IAddress | None) -> ControlProtocol | None:
        """Return a protocol, or None, which closes the connection, if there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("control_connection_refused", connections=len(self._connections))
            return None
        return ControlProtocol(self._fleet, self._clock, self._started_at, self._connections)

    def stopFactory(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close the connections of clients that are still there."""
        for protocol in list(self._connections):
            protocol.transport.loseConnection()


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


def control_service(reactor: Any, path: str, mode: str, factory: ControlFactory) -> IService:
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
