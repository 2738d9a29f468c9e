import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.commands import (
    LAST_PAGE,
    PROTOCOL,
    LeaseSummary,
    ListLeases,
    ListNodes,
    ListReplicas,
    NodeSummary,
    ReplicaSummary,
    UnknownNode,
    Version,
)
from cortexd.control import (
    IDLE_SECONDS,
    MAX_CONNECTIONS,
    ControlFactory,
    ControlProtocol,
    ControlSocketError,
    PeerCredentials,
    control_service,
    peer_credentials,
)
from cortexd.fleet import Fleet, Lease, Observation, PollFailure, ReplicaState, SystemInfo

STARTED_AT = 1000.0
OWN_CREDENTIALS = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())


def make_fleet(kind: type[Fleet] = Fleet) -> Fleet:
    """Return a fleet with one node that works and one that never answered."""
    fleet = kind(
        [("large", "http://large:8000", 80000), ("small", "http://small:8000", 20000)],
        now=STARTED_AT,
        down_after=1,
        load_timeout=60.0,
        default_capacity=32,
        capacities={"org/chat": 4},
    )
    states = {
        "org/chat": ReplicaState.LOADED,
        "org/embed": ReplicaState.LOADED,
        "org/old": ReplicaState.UNLOADED,
    }
    fleet.observe("large", Observation(created=900, replicas=states), 1010.0)
    fleet.record_system("large", SystemInfo("0.9.5", 81920, 40960))
    fleet.fail("small", PollFailure("connection refused", silent=False), 1011.0)
    fleet.grant("large", "org/chat", "request-1", 1020.0)
    return fleet


class SocketTransport(FakeTransport):
    """An in-memory transport whose peer is this process, as a real socket says."""

    def __init__(self, protocol: ControlProtocol, connection: socket.socket) -> None:
        super().__init__(protocol, isServer=True)
        self._connection = connection

    def getHandle(self) -> socket.socket:
        """Return the socket whose other end is ours too."""
        return self._connection


class BrokenFleet(Fleet):
    """A fleet with a mistake in it."""

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Fail, as nobody foresaw."""
        raise RuntimeError("secret")


def send(client: amp.AMP, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
    """Send a command; the result is ours to look at, and an error is none of AMP's business."""
    outcome: Deferred[Any] = Deferred()
    client.callRemote(command, **arguments).chainDeferred(outcome)
    return outcome


class ControlTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a factory whose connections all come from this process."""
        self.clock = Clock()
        self.clock.advance(1030.0)
        self.fleet = make_fleet()
        self.factory = ControlFactory(self.fleet, self.clock, STARTED_AT)
        self.connection, other_end = socket.socketpair()
        self.addCleanup(other_end.close)
        self.addCleanup(self.connection.close)

    def connect(self) -> tuple[amp.AMP, ControlProtocol, IOPump]:
        """Return a client that is connected to a server of the factory."""
        client = amp.AMP()
        server = self.factory.buildProtocol(None)
        assert server is not None
        transport = SocketTransport(server, self.connection)
        pump = connect(server, transport, client, FakeTransport(client, isServer=False))
        return client, server, pump

    def ask(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """Return the answer to one command on a connection of its own."""
        client, _server, pump = self.connect()
        answered = send(client, command, **arguments)
        pump.flush()
        answer: dict[str, Any] = self.successResultOf(answered)
        return answer


class AnswersTests(ControlTestCase):
    def test_version(self) -> None:
        """The daemon tells its version, process, start and protocol."""
        expected = {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": STARTED_AT,
            "protocol": PROTOCOL,
        }
        assert expected == self.ask(Version)

    def test_nodes(self) -> None:
        """Nodes come in the order of the configuration, with what was last heard of them."""
        large = NodeSummary(
            name="large",
            endpoint="http://large:8000",
            health="up",
            reason="answers",
            since=1010.0,
            last_answer_at=1010.0,
            version="0.9.5",
            memory_total_mb=81920,
            memory_free_mb=40960,
            memory_budget_mb=80000,
            restarts=0,
            leases=1,
            replica_states={"loaded": 2, "unloaded": 1},
        )
        small = NodeSummary(
            name="small",
            endpoint="http://small:8000",
            health="down",
            reason="connection refused",
            since=1011.0,
            last_answer_at=None,
            version=None,
            memory_total_mb=None,
            memory_free_mb=None,
            memory_budget_mb=20000,
            restarts=0,
            leases=0,
            replica_states={},
        )
        assert {"items": [large, small], "next": LAST_PAGE} == self.ask(ListNodes, offset=0)
        assert {"items": [small], "next": LAST_PAGE} == self.ask(ListNodes, offset=1)

    def test_replicas(self) -> None:
        """A node's replicas come by model id, each with its leases and how many it may hold."""
        chat = ReplicaSummary(model="org/chat", state="loaded", leases=1, capacity=4)
        embed = ReplicaSummary(model="org/embed", state="loaded", leases=0, capacity=32)
        old = ReplicaSummary(model="org/old", state="unloaded", leases=0, capacity=32)
        answer = self.ask(ListReplicas, node="large", offset=0)
        assert {"items": [chat, embed, old], "next": LAST_PAGE} == answer
        assert [] == self.ask(ListReplicas, node="small", offset=0)["items"]

    def test_leases(self) -> None:
        """A lease is told with its request, its replica and its age by the fleet's clock."""
        lease = LeaseSummary(
            request_id="request-1", model="org/chat", node="large", age_seconds=10.0
        )
        assert {"items": [lease], "next": LAST_PAGE} == self.ask(ListLeases, offset=0)

    def test_large_fleet(self) -> None:
        """What does not fit into one value comes in pages, and nothing is missing or double."""
        models = [f"organisation/model-{number:04}" for number in range(2000)]
        states = dict.fromkeys(models, ReplicaState.UNLOADED)
        self.fleet.observe("small", Observation(created=1, replicas=states), 1030.0)
        client, _server, pump = self.connect()
        found: list[str] = []
        pages = offset = 0
        while offset != LAST_PAGE:
            answered = send(client, ListReplicas, node="small", offset=offset)
            pump.flush()
            answer = self.successResultOf(answered)
            found += [replica.model for replica in answer["items"]]
            offset = answer["next"]
            pages += 1
        assert models == found
        assert pages > 1

    def test_unknown_node(self) -> None:
        """A node that is not configured is refused by name, and the connection lives on."""
        client, _server, pump = self.connect()
        refused = send(client, ListReplicas, node="huge", offset=0)
        answered = send(client, Version)
        pump.flush()
        error = self.failureResultOf(refused, UnknownNode).value
        assert "no node is called 'huge'; there are large, small" == str(error)
        assert __version__ == self.successResultOf(answered)["version"]

    def test_long_name(self) -> None:
        """The longest name that AMP can carry is refused like any other."""
        client, _server, pump = self.connect()
        refused = send(client, ListReplicas, node="x" * amp.MAX_VALUE_LENGTH, offset=0)
        pump.flush()
        self.failureResultOf(refused, UnknownNode)


class BadClientTests(ControlTestCase):
    def test_unknown_command(self) -> None:
        """A command of a later version is refused by AMP itself, and the connection lives on."""

        class Levitate(amp.Command):
            """Something no daemon can do."""

        client, _server, pump = self.connect()
        refused = send(client, Levitate)
        answered = send(client, Version)
        pump.flush()
        self.failureResultOf(refused, amp.UnhandledCommand)
        self.successResultOf(answered)

    def test_internal_error(self) -> None:
        """An unforeseen error tells the client nothing, is logged, and spares the daemon."""
        self.factory = ControlFactory(make_fleet(BrokenFleet), self.clock, STARTED_AT)
        client, server, pump = self.connect()
        failed = send(client, ListLeases, offset=0)
        pump.flush()
        error = self.failureResultOf(failed, amp.UnknownRemoteError).value
        assert "secret" not in str(error)
        assert "Unknown Error" in str(error)
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        assert server.transport is None
        assert __version__ == self.ask(Version)["version"]

    def test_garbage(self) -> None:
        """A client that speaks HTTP loses its connection, without a traceback in the log."""
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00", b"\x00\x01a\x00\x01b\x00\x00"):
            client, server, pump = self.connect()
            transport: Any = client.transport
            transport.write(garbage)
            pump.flush()
            assert server.transport is None

    def test_unasked_answer(self) -> None:
        """An answer to nothing ends the connection: the daemon asks nothing of its clients."""
        for box in (amp.AmpBox(_answer=b"1"), amp.AmpBox(_error=b"1")):
            client, server, pump = self.connect()
            client.sendBox(box)
            pump.flush()
            assert server.transport is None

    def test_idle(self) -> None:
        """A client that asks nothing for a while is disconnected; one that asks is not."""
        client, server, pump = self.connect()
        self.clock.advance(IDLE_SECONDS - 1)
        answered = send(client, Version)
        pump.flush()
        self.successResultOf(answered)
        self.clock.advance(IDLE_SECONDS - 1)
        pump.flush()
        assert server.transport is not None
        self.clock.advance(1)
        pump.flush()
        assert server.transport is None

    def test_half_a_command(self) -> None:
        """Bytes that never become a command do not keep a connection open."""
        client, server, pump = self.connect()
        transport: Any = client.transport
        for _ in range(3):
            transport.write(b"\x00\x01a\x00\x01b")
            pump.flush()
            assert server.transport is not None
            self.clock.advance(IDLE_SECONDS / 3)
        pump.flush()
        assert server.transport is None

    def test_client_leaves(self) -> None:
        """Nothing is left waiting for a client that has gone."""
        client, _server, pump = self.connect()
        client_transport: Any = client.transport
        client_transport.loseConnection()
        pump.flush()
        assert [] == self.clock.getDelayedCalls()

    def test_too_many(self) -> None:
        """Above the limit a client is turned away, until another one leaves."""
        clients = [self.connect() for _ in range(MAX_CONNECTIONS)]
        assert self.factory.buildProtocol(None) is None
        client, _server, pump = clients[0]
        client_transport: Any = client.transport
        client_transport.loseConnection()
        pump.flush()
        assert self.factory.buildProtocol(None) is not None

    def test_client_that_does_not_read(self) -> None:
        """While answers wait to be read no command is carried out; then all of them are."""
        client, server, pump = self.connect()
        assert server.transport.producer is server
        server.pauseProducing()
        answered = [send(client, Version) for _ in range(3)]
        pump.flush()
        for waiting in answered:
            self.assertNoResult(waiting)
        server.resumeProducing()
        pump.flush()
        for done in answered:
            self.successResultOf(done)

    def test_daemon_stops(self) -> None:
        """When the daemon stops listening, clients that are still there are disconnected."""
        client, _server, pump = self.connect()
        self.factory.doStart()
        self.factory.doStop()
        pump.flush()
        self.failureResultOf(send(client, Version), ConnectionDone)


class PeerCredentialsTests(ControlTestCase):
    def test_socket(self) -> None:
        """The kernel says which process, user and group is at the other end."""
        assert OWN_CREDENTIALS == peer_credentials(self.connection)

    def test_protocol(self) -> None:
        """A connection knows its peer before the first command."""
        _client, server, _pump = self.connect()
        assert OWN_CREDENTIALS == server.peer


class ServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Choose a path in a directory that is not there yet."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / "run" / "control.sock"
        self.lock = self.path.with_name("control.sock.lock")
        self.factory = ControlFactory(make_fleet(), Clock(), STARTED_AT)

    def start(self, reactor: Any, path: Path) -> None:
        """Start a service for the path on a reactor."""
        control_service(reactor, str(path), "660", self.factory).startService()

    def test_listens(self) -> None:
        """The service listens at exactly the path and mode it was given, with a lock."""
        for name in ("control.sock", "a:b=c\\d.sock"):
            reactor = MemoryReactorClock()
            path = self.directory / name
            self.start(reactor, path)
            [(address, factory, _backlog, mode, lock)] = reactor.unixServers
            assert (str(path), self.factory, 0o660) == (address, factory, mode)
            assert lock

    def test_directory(self) -> None:
        """A missing directory is made for the daemon's user and group alone."""
        umask = os.umask(0)
        try:
            self.start(MemoryReactorClock(), self.path)
        finally:
            os.umask(umask)
        assert 0o750 == stat.S_IMODE(self.path.parent.stat().st_mode)

    def test_present_directory(self) -> None:
        """A directory that is there keeps its mode."""
        self.path.parent.mkdir(mode=0o700)
        self.start(MemoryReactorClock(), self.path)
        assert 0o700 == stat.S_IMODE(self.path.parent.stat().st_mode)

    def test_cannot_listen(self) -> None:
        """A socket that cannot be had stops the start, in words that name it and its holder."""

        class Reactor(MemoryReactorClock):
            def listenUNIX(self, address: Any, *_args: Any, **_kwargs: Any) -> Any:
                raise CannotListenError(None, address, "Cannot acquire lock")

        self.path.parent.mkdir()
        self.lock.symlink_to("1")
        error = self.assertRaises(ControlSocketError, self.start, Reactor(), self.path)
        assert str(self.path) in str(error)
        assert "Cannot acquire lock" in str(error)
        assert "says that process 1 has it" in str(error)
        assert "gateway.control_socket" in str(error)

    def test_no_directory(self) -> None:
        """A directory that cannot be made stops the start in the same words."""
        blocking = self.directory / "file"
        blocking.touch()
        path = blocking / "run" / "control.sock"
        error = self.assertRaises(ControlSocketError, self.start, MemoryReactorClock(), path)
        assert os.strerror(errno.ENOTDIR) in str(error)

    def test_stop_after_failed_start(self) -> None:
        """A service that could not start can be told to stop."""
        (self.directory / "run").touch()
        service = control_service(MemoryReactorClock(), str(self.path), "660", self.factory)
        self.assertRaises(ControlSocketError, service.startService)
        assert service.stopService() is None

    def test_own_leftovers(self) -> None:
        """A lock with our own process id, left in a container, goes together with its socket."""
        self.path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(self.path))
        self.lock.symlink_to(str(os.getpid()))
        self.start(MemoryReactorClock(), self.path)
        assert [] == list(self.path.parent.iterdir())

    def test_own_live_socket(self) -> None:
        """A lock with our own process id is kept where somebody does listen."""
        self.path.parent.mkdir()
        self.lock.symlink_to(str(os.getpid()))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.path))
            listening.listen()
            self.start(MemoryReactorClock(), self.path)
            assert self.lock.is_symlink()
            assert self.path.is_socket()

    def test_lock_of_another(self) -> None:
        """A lock that names another process is left to Twisted to judge."""
        self.path.parent.mkdir()
        finished = subprocess.Popen([sys.executable, "-c", ""])
        finished.wait(timeout=30)
        self.lock.symlink_to(str(finished.pid))
        self.start(MemoryReactorClock(), self.path)
        assert str(finished.pid) == str(self.lock.readlink())
