import errno
import grp
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path, PosixPath
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols import amp
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.control.contract import (
    PROTOCOL,
    ListLeases,
    ListNodes,
    ListReplicas,
    Refused,
    UnknownNode,
    Version,
)
from cortexd.control.server import ControlProtocol
from cortexd.ctl.client import (
    ControlClient,
    NoDaemon,
    converse,
    find_socket,
    group_name,
    owning_group,
    unreachable,
)
from cortexd.fleet.states import ReplicaState
from tests.support.control import ControlTestCase, SocketTransport

PATH = "/run/cortex/control.sock"


class FutureDaemon(amp.AMP):
    """A daemon whose contract has changed."""

    @Version.responder
    def version(self) -> dict[str, Any]:
        """Say that another protocol is spoken."""
        return {"version": "9.0", "pid": 1, "started_at": 0.0, "protocol": PROTOCOL + 1}


class BareDaemon(amp.AMP):
    """A daemon that knows its version and cannot do anything else."""

    @Version.responder
    def version(self) -> dict[str, Any]:
        """Say that this protocol is spoken."""
        return {"version": "0.0", "pid": 1, "started_at": 0.0, "protocol": PROTOCOL}


class FailingDaemon(amp.AMP):
    """A daemon with a mistake in it."""

    @Version.responder
    def version(self) -> dict[str, Any]:
        """Fail, as nobody foresaw."""
        raise RuntimeError("secret")


class SilentDaemon(amp.AMP):
    """A daemon that has lost its way."""

    @Version.responder
    def version(self) -> Deferred[Any]:
        """Never answer."""
        return Deferred()


class Leaving(Protocol):
    """A server that hangs up at once."""

    def connectionMade(self) -> None:
        """Hang up."""
        assert self.transport is not None
        self.transport.loseConnection()


class Stranger(Protocol):
    """A server that has one answer to everything."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def dataReceived(self, data: bytes) -> None:
        """Answer."""
        assert self.transport is not None
        self.transport.write(self.answer)


async def ask_version(client: ControlClient) -> Any:
    """Ask for the version alone."""
    return await client.ask(Version)


async def ask_nodes(client: ControlClient) -> list[Any]:
    """Ask for all nodes, of a daemon of our protocol."""
    await client.check_protocol()
    return await client.ask_all(ListNodes)


class ConverseTests(ControlTestCase):
    def setUp(self) -> None:
        """Make a daemon with a fleet, and a reactor that connects to nothing by itself."""
        super().setUp()
        self.reactor = MemoryReactorClock()

    def converse(self, ask: Callable[[ControlClient], Awaitable[Any]]) -> Deferred[Any]:
        """Begin a conversation; it stands before the connection."""
        return Deferred.fromCoroutine(converse(self.reactor, PATH, ask, 10.0))

    def refuse(self, error: Exception) -> None:
        """Let the connection fail."""
        factory = self.reactor.unixClients[-1][1]
        factory.clientConnectionFailed(self.reactor.connectors[-1], Failure(error))

    def connect_to(self, server: Protocol) -> IOPump:
        """Let the connection succeed, to this server."""
        path, factory, timeout, _check = self.reactor.unixClients[-1]
        assert (PATH, 10.0) == (path, timeout)
        transport = SocketTransport(server, self.connection)
        client = factory.buildProtocol(None)
        pump: IOPump = connect(server, transport, client, FakeTransport(client, isServer=False))
        pump.flush()
        return pump

    def serve(self) -> tuple[ControlProtocol, IOPump]:
        """Let the connection succeed, to a daemon with the fleet."""
        server = self.factory.buildProtocol(None)
        assert server is not None
        return server, self.connect_to(server)

    def test_a_conversation(self) -> None:
        """It is asked, answered, and then the connection is closed."""
        asked = self.converse(ask_nodes)
        server, _pump = self.serve()
        assert ["large", "small"] == [node.name for node in self.successResultOf(asked)]
        assert server.transport is None
        assert [] == self.reactor.getDelayedCalls()

    def test_many_pages(self) -> None:
        """What does not fit into one answer is asked for until it is whole."""
        models = [f"organisation/model-{number:04}" for number in range(2000)]
        self.given.see_all("large", dict.fromkeys(models, ReplicaState.LOADED))
        replica = self.fleet.nodes["large"].replicas[models[0]]
        for number in range(2000):
            self.fleet.grant(replica, f"request-{number}", 0.0)

        async def ask(client: ControlClient) -> tuple[list[Any], list[Any]]:
            replicas = await client.ask_all(ListReplicas, node="large")
            return replicas, await client.ask_all(ListLeases)

        asked = self.converse(ask)
        self.serve()
        replicas, leases = self.successResultOf(asked)
        assert models == [replica.model for replica in replicas]
        assert [f"request-{number}" for number in range(2000)] == [x.request_id for x in leases]

    def test_version(self) -> None:
        """The version is the daemon's own."""
        asked = self.converse(ask_version)
        self.serve()
        answer = self.successResultOf(asked)
        assert (__version__, os.getpid()) == (answer["version"], answer["pid"])

    def test_refusal(self) -> None:
        """What the daemon refuses is raised as the same error, in its words."""

        async def ask(client: ControlClient) -> Any:
            return await client.ask_all(ListReplicas, node="huge")

        asked = self.converse(ask)
        self.serve()
        error = self.failureResultOf(asked, UnknownNode).value
        assert "no node is called 'huge'; the nodes are large, small" == str(error)

    def test_another_protocol(self) -> None:
        """A daemon with another contract is asked for its version, and for nothing else."""
        asked = self.converse(ask_nodes)
        self.connect_to(FutureDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert f"cortexd 9.0 speaks control protocol {PROTOCOL + 1}" in message
        version = self.converse(ask_version)
        self.connect_to(FutureDaemon())
        assert PROTOCOL + 1 == self.successResultOf(version)["protocol"]

    def test_unknown_command(self) -> None:
        """A command that the daemon does not know is refused in words."""
        asked = self.converse(ask_nodes)
        self.connect_to(BareDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert "the daemon does not know this command: its version is different" == message

    def test_failing_daemon(self) -> None:
        """A mistake in the daemon is a refusal that points to its log."""
        asked = self.converse(ask_version)
        self.connect_to(FailingDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert "the daemon failed at this command; its log has the reason" == message
        assert 1 == len(self.flushLoggedErrors(RuntimeError))

    def test_silent_daemon(self) -> None:
        """Each answer has its time; after that the daemon is given up."""
        asked = self.converse(ask_version)
        self.connect_to(SilentDaemon())
        self.reactor.advance(9.9)
        self.assertNoResult(asked)
        self.reactor.advance(0.1)
        message = str(self.failureResultOf(asked, NoDaemon).value)
        assert f"the daemon at {PATH} did not answer within 10 s" in message

    def test_patience_is_for_each_answer(self) -> None:
        """A conversation may last longer than any of its answers may take."""

        async def ask(client: ControlClient) -> float:
            began = client.seconds()
            for _ in range(30):
                await client.ask(Version)
                await client.pause(1.0)
            return client.seconds() - began

        asked = self.converse(ask)
        _server, pump = self.serve()
        for _ in range(30):
            pump.flush()
            self.reactor.advance(1.0)
        assert 30.0 == self.successResultOf(asked)

    def test_no_daemon_of_ours(self) -> None:
        """What answers in another language is not taken for a daemon."""
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x07_answer\x00\x011\x00\x00"):
            asked = self.converse(ask_version)
            self.connect_to(Stranger(answer))
            message = str(self.failureResultOf(asked, Refused).value)
            assert f"the answer from {PATH} cannot be understood" in message

    def test_turned_away(self) -> None:
        """A daemon that hangs up at once does not answer."""
        asked = self.converse(ask_version)
        self.connect_to(Leaving())
        message = str(self.failureResultOf(asked, NoDaemon).value)
        assert f"the daemon at {PATH} closed the connection" in message

    def test_nobody_listens(self) -> None:
        """A socket that nobody listens on is named, with what to do."""
        asked = self.converse(ask_version)
        self.refuse(NobodyListens(errno.ECONNREFUSED))
        message = str(self.failureResultOf(asked, NoDaemon).value)
        assert f"no daemon answers at {PATH}: no process listens there any more" in message

    def test_permission_denied(self) -> None:
        """A socket that is not for this user is said to be so."""
        asked = self.converse(ask_version)
        self.refuse(ConnectError(errno.EACCES))
        message = str(self.failureResultOf(asked, NoDaemon).value)
        assert f"permission denied for the control socket {PATH}" in message

    def test_patience(self) -> None:
        """A conversation that is given up leaves no connection behind."""
        asked = self.converse(lambda _daemon: Deferred())
        server, pump = self.serve()
        assert server.transport is not None
        asked.cancel()
        pump.flush()
        self.failureResultOf(asked, CancelledError)
        assert server.transport is None


class UnreachableTests(SynchronousTestCase):
    def test_permission(self) -> None:
        """Who may not connect is told the group that may, and how to get the right."""
        message = str(unreachable(PATH, errno.EACCES, "operators"))
        assert "members of the group operators" in message
        assert "log in again" in message

    def test_others(self) -> None:
        """Any other failure names the socket, the cause and what to do."""
        for number, cause in (
            (errno.ECONNREFUSED, "no process listens"),
            (errno.ENOENT, os.strerror(errno.ENOENT)),
            (None, "connecting failed"),
        ):
            message = str(unreachable(PATH, number, "operators"))
            for words in (PATH, cause, "systemctl start cortexd", "--socket", "CORTEX_SOCKET"):
                assert words in message

    def test_owning_group(self) -> None:
        """The group is the file's or, where there is no seeing it, that of what hides it."""
        with tempfile.TemporaryDirectory() as directory:
            expected = grp.getgrgid(Path(directory).stat().st_gid).gr_name
            assert expected == owning_group(directory)
            assert expected == owning_group(f"{directory}/none/control.sock")

    def test_group_without_name(self) -> None:
        """A group that has no name is told by its number."""
        nameless = max(group.gr_gid for group in grp.getgrall() if group.gr_gid < 65000) + 1
        assert ("root", str(nameless)) == (group_name(0), group_name(nameless))


class HiddenPath(PosixPath):
    """A path in a directory that this user may not search."""

    def lstat(self) -> os.stat_result:
        """Fail as the kernel would; it lets root see everything."""
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))


class FindSocketTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a directory with two files in the place of sockets."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.own, self.system = self.directory / "own", self.directory / "system"

    def test_first(self) -> None:
        """The first place with something in it is taken."""
        self.system.touch()
        assert self.system == find_socket((self.own, self.system))
        self.own.touch()
        assert self.own == find_socket((self.own, self.system))

    def test_hidden(self) -> None:
        """A place that may not be looked at counts as one with a socket: why will be said then."""
        hidden = HiddenPath("/run/cortex/control.sock")
        self.system.touch()
        assert hidden == find_socket((self.own, hidden, self.system))

    def test_none(self) -> None:
        """Without any the person is told where it was looked for and what to do."""
        file = self.directory / "file"
        file.touch()
        error = self.assertRaises(NoDaemon, find_socket, (self.own, file / "control.sock"))
        for words in (f"{self.own} or {file}/control.sock", "--socket", "systemctl start"):
            assert words in str(error)
