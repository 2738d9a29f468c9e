import errno
import grp
import json
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path, PosixPath
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols import amp
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__, ctl
from cortexd.commands import PROTOCOL, LeaseSummary, NodeSummary, Refused, ReplicaSummary, Version
from cortexd.control import ControlFactory, ControlProtocol
from cortexd.fleet import Fleet, Observation, PollFailure, ReplicaState, SystemInfo

PATH = "/run/cortex/control.sock"


def node(name: str, **changes: Any) -> NodeSummary:
    """Return a node that works, but for the changes."""
    working = NodeSummary(
        name=name,
        endpoint=f"http://{name}:8000",
        health="up",
        reason="answers",
        since=1000.0,
        last_answer_at=1100.0,
        version="0.9.5",
        memory_total_mb=81920,
        memory_free_mb=40960,
        memory_budget_mb=76800,
        restarts=0,
        leases=1,
        replica_states={"loaded": 1, "stuck": 1, "unloaded": 1},
    )
    return msgspec.structs.replace(working, **changes)


LARGE = node("gpu-large")
SMALL = node(
    "gpu-2",
    health="down",
    reason="connection refused",
    since=1090.0,
    version=None,
    memory_total_mb=None,
    memory_free_mb=None,
    memory_budget_mb=20480,
    leases=0,
    replica_states={},
)
CHAT = ReplicaSummary(model="org/chat", state="loaded", leases=1, capacity=32)
LEASE = LeaseSummary(request_id="request-1", model="org/chat", node="gpu-large", age_seconds=3.2)
WHOLE = ctl.Status(
    nodes=[LARGE, SMALL], replicas={"gpu-large": [CHAT], "gpu-2": []}, leases=[LEASE]
)
IDLE = ctl.Status(nodes=[node("gpu-large")], replicas={"gpu-large": []}, leases=[])


class VisibleTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """What a terminal shows as it is stays as it is."""
        assert "Qwen/Qwen3-8B größe 模型" == ctl.visible("Qwen/Qwen3-8B größe 模型")

    def test_escapes(self) -> None:
        """What a terminal would obey or hide is shown by its code."""
        assert r"\x1b[2Jred\r\n\x9b\u202e" == ctl.visible("\x1b[2Jred\r\n\x9b\u202e")

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever a node calls its models, nothing but printable characters comes out."""
        assert ctl.visible(text).isprintable()


class DurationTests(SynchronousTestCase):
    def test_two_largest_units(self) -> None:
        """A time span is told by its two largest units."""
        spans = {
            0.0: "0s",
            0.9: "0s",
            12: "12s",
            60: "1m0s",
            310: "5m10s",
            3600: "1h0m",
            86399: "23h59m",
            183600: "2d3h",
        }
        assert list(spans.values()) == [ctl.duration(seconds) for seconds in spans]

    def test_clocks_that_disagree(self) -> None:
        """A time that is yet to come is now."""
        assert "0s" == ctl.duration(-5.0)


class TableTests(SynchronousTestCase):
    def test_aligned(self) -> None:
        """Columns begin where their header does, and lines end without blanks."""
        expected = "NAME  HEALTH\na     up\nlong  down\n"
        assert expected == ctl.table(("NAME", "HEALTH"), [("a", "up"), ("long", "down")])

    def test_escapes_take_place(self) -> None:
        """An escaped cell is as wide as its escape."""
        assert "NAME  X\n\\x1b  1\n" == ctl.table(("NAME", "X"), [("\x1b", "1")])

    @given(st.lists(st.tuples(st.text(min_size=1), st.integers().map(str))))
    def test_one_line_each(self, rows: list[tuple[str, str]]) -> None:
        """Whatever is in the cells, each row is one line and its last column is aligned."""
        lines = ctl.table(("NAME", "COUNT"), rows).split("\n")
        assert len(rows) + 2 == len(lines)
        column = lines[0].index("COUNT")
        for line, (_name, count) in zip(lines[1:-1], rows, strict=True):
            assert count == line[column:]


class StatusTextTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """Nodes, why one is not up, replicas and leases stand in tables below each other."""
        expected = """\
NAME       HEALTH  VERSION  MEMORY              BUDGET    REPLICAS  LEASES  SINCE
gpu-large  up      0.9.5    40.0/80.0 GiB free  75.0 GiB  2/3       1       1m40s
gpu-2      down    -        -                   20.0 GiB  0/0       0       10s

gpu-2 is down: connection refused

NODE       MODEL     STATE   LEASES
gpu-large  org/chat  loaded  1/32

REQUEST    MODEL     NODE       AGE
request-1  org/chat  gpu-large  3s
"""
        assert expected == ctl.status_text(WHOLE, 1100.0)

    def test_idle(self) -> None:
        """What there is none of has no table."""
        text = ctl.status_text(IDLE, 1100.0)
        assert 2 == len(text.splitlines())

    def test_total_memory_only(self) -> None:
        """A node that tells its total memory alone is shown with that."""
        half = ctl.Status(nodes=[node("n", memory_free_mb=None)], replicas={"n": []}, leases=[])
        assert "?/80.0 GiB free" in ctl.status_text(half, 1100.0)

    def test_hostile_words(self) -> None:
        """No word of a node or a client reaches the terminal raw, wherever it is shown."""
        evil = "\x1b]0;owned\x07\n"
        status = ctl.Status(
            nodes=[node("n", health="down", reason=evil, version=evil)],
            replicas={"n": [msgspec.structs.replace(CHAT, model=evil, state=evil)]},
            leases=[msgspec.structs.replace(LEASE, request_id=evil, model=evil)],
        )
        text = ctl.status_text(status, 1100.0)
        assert text.replace("\n", "").isprintable()
        assert 6 == text.count("owned")


class StatusDataTests(SynchronousTestCase):
    def test_shape(self) -> None:
        """The JSON has every node with its replicas, and the leases."""
        data = ctl.status_data(WHOLE)
        assert ["nodes", "leases"] == list(data)
        large, small = data["nodes"]
        chat = {"model": "org/chat", "state": "loaded", "leases": 1, "capacity": 32}
        assert ("gpu-large", "up", [chat]) == (large["name"], large["health"], large["replicas"])
        assert (None, []) == (small["version"], small["replicas"])
        assert [msgspec.to_builtins(LEASE)] == data["leases"]
        assert data == json.loads(json.dumps(data))


class VersionTests(SynchronousTestCase):
    version = ctl.DaemonVersion(version="9.8.7", pid=42, started_at=1000.0, protocol=3)

    def test_text(self) -> None:
        """Both versions and protocols are shown, and since when the daemon runs."""
        expected = (
            f"cortexctl {__version__}, control protocol {PROTOCOL}\n"
            "cortexd 9.8.7, control protocol 3, process 42, up 1m40s\n"
        )
        assert expected == ctl.version_text(self.version, 1100.0)

    def test_data(self) -> None:
        """The JSON has the daemon's answer and the client's own version beside it."""
        expected = {
            "version": "9.8.7",
            "pid": 42,
            "started_at": 1000.0,
            "protocol": 3,
            "client_version": __version__,
            "client_protocol": PROTOCOL,
        }
        assert expected == ctl.version_data(self.version)


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


class SocketTransport(FakeTransport):
    """An in-memory transport whose peer is this process, as a real socket says."""

    connection: socket.socket

    def getHandle(self) -> socket.socket:
        """Return the socket whose other end is ours too."""
        return self.connection


class ConverseTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a daemon with a fleet, and a reactor that connects to nothing by itself."""
        self.fleet = Fleet(
            [("large", "http://large:8000", 80000), ("small", "http://small:8000", 20000)],
            now=1000.0,
            down_after=1,
            load_timeout=60.0,
            default_capacity=32,
            capacities={},
        )
        self.reactor = MemoryReactorClock()
        self.connection, other_end = socket.socketpair()
        self.addCleanup(other_end.close)
        self.addCleanup(self.connection.close)

    def ask(self, ask: Callable[[amp.AMP], Awaitable[Any]]) -> Deferred[Any]:
        """Begin a conversation; it stands before the connection."""
        return Deferred.fromCoroutine(ctl.converse(self.reactor, PATH, ask, 10.0))

    def refuse(self, error: Exception) -> None:
        """Let the connection fail."""
        factory = self.reactor.unixClients[-1][1]
        factory.clientConnectionFailed(self.reactor.connectors[-1], Failure(error))

    def connect(self, server: Protocol) -> IOPump:
        """Let the connection succeed, to this server."""
        path, factory, timeout, _check = self.reactor.unixClients[-1]
        assert (PATH, 10.0) == (path, timeout)
        transport = SocketTransport(server, isServer=True)
        transport.connection = self.connection
        client = factory.buildProtocol(None)
        pump: IOPump = connect(server, transport, client, FakeTransport(client, isServer=False))
        pump.flush()
        return pump

    def serve(self) -> tuple[ControlProtocol, IOPump]:
        """Let the connection succeed, to a daemon with the fleet."""
        server = ControlFactory(self.fleet, Clock(), 0.0).buildProtocol(None)
        assert server is not None
        return server, self.connect(server)

    def test_status(self) -> None:
        """The whole fleet is asked for, and then the connection is closed."""
        states = {"org/chat": ReplicaState.LOADED, "org/old": ReplicaState.UNLOADED}
        self.fleet.observe("large", Observation(created=1, replicas=states), 1010.0)
        self.fleet.record_system("large", SystemInfo("0.9.5", 81920, 40960))
        self.fleet.fail("small", PollFailure("connection refused", silent=False), 1010.0)
        self.fleet.grant("large", "org/chat", "request-1", -7.0)
        asked = self.ask(ctl.ask_status)
        server, _pump = self.serve()
        status: ctl.Status = self.successResultOf(asked)
        assert ["large", "small"] == [node.name for node in status.nodes]
        assert ["org/chat", "org/old"] == [replica.model for replica in status.replicas["large"]]
        assert [] == status.replicas["small"]
        assert [("request-1", 7.0)] == [(x.request_id, x.age_seconds) for x in status.leases]
        assert server.transport is None

    def test_many_pages(self) -> None:
        """A fleet that does not fit into one answer is asked for until it is whole."""
        models = [f"organisation/model-{number:04}" for number in range(2000)]
        states = dict.fromkeys(models, ReplicaState.LOADED)
        self.fleet.observe("large", Observation(created=1, replicas=states), 1010.0)
        for number in range(2000):
            self.fleet.grant("large", models[0], f"request-{number}", 0.0)
        asked = self.ask(ctl.ask_status)
        self.serve()
        status: ctl.Status = self.successResultOf(asked)
        assert models == [replica.model for replica in status.replicas["large"]]
        expected = [f"request-{number}" for number in range(2000)]
        assert expected == [lease.request_id for lease in status.leases]

    def test_version(self) -> None:
        """The version is the daemon's own."""
        asked = self.ask(ctl.ask_version)
        self.serve()
        expected = ctl.DaemonVersion(
            version=__version__, pid=os.getpid(), started_at=0.0, protocol=PROTOCOL
        )
        assert expected == self.successResultOf(asked)

    def test_another_protocol(self) -> None:
        """A daemon with another contract is asked for its version, and for nothing else."""
        asked = self.ask(ctl.ask_status)
        self.connect(FutureDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert "cortexd 9.0 speaks control protocol 2" in message
        version = self.ask(ctl.ask_version)
        self.connect(FutureDaemon())
        assert PROTOCOL + 1 == self.successResultOf(version).protocol

    def test_unknown_command(self) -> None:
        """A command that the daemon does not know is refused in words."""
        asked = self.ask(ctl.ask_status)
        self.connect(BareDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert "the daemon does not know this command: it is of another version" == message

    def test_failing_daemon(self) -> None:
        """A mistake in the daemon is a refusal that points to its log."""
        asked = self.ask(ctl.ask_version)
        self.connect(FailingDaemon())
        message = str(self.failureResultOf(asked, Refused).value)
        assert "the daemon failed at this command; its log says why" == message
        assert 1 == len(self.flushLoggedErrors(RuntimeError))

    def test_no_daemon_of_ours(self) -> None:
        """What answers in another language is not taken for a daemon."""
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x07_answer\x00\x011\x00\x00"):
            asked = self.ask(ctl.ask_version)
            self.connect(Stranger(answer))
            message = str(self.failureResultOf(asked, Refused).value)
            assert f"what answers at {PATH} cannot be understood" in message

    def test_turned_away(self) -> None:
        """A daemon that hangs up at once does not answer."""
        asked = self.ask(ctl.ask_version)
        self.connect(Leaving())
        message = str(self.failureResultOf(asked, ctl.NoDaemon).value)
        assert f"the daemon at {PATH} closed the connection" in message

    def test_nobody_listens(self) -> None:
        """A socket that nobody listens on is named, with what to do."""
        asked = self.ask(ctl.ask_version)
        self.refuse(NobodyListens(errno.ECONNREFUSED))
        message = str(self.failureResultOf(asked, ctl.NoDaemon).value)
        assert f"no daemon answers at {PATH}: nobody listens there any more" in message

    def test_permission_denied(self) -> None:
        """A socket that is not for this user is said to be so."""
        asked = self.ask(ctl.ask_version)
        self.refuse(ConnectError(errno.EACCES))
        message = str(self.failureResultOf(asked, ctl.NoDaemon).value)
        assert f"permission denied for the control socket {PATH}" in message

    def test_patience(self) -> None:
        """A conversation that is given up leaves no connection behind."""
        asked = self.ask(lambda _daemon: Deferred())
        server, pump = self.serve()
        assert server.transport is not None
        asked.cancel()
        pump.flush()
        self.failureResultOf(asked, CancelledError)
        assert server.transport is None


class UnreachableTests(SynchronousTestCase):
    def test_permission(self) -> None:
        """Who may not connect is told the group that may, and how to get the right."""
        message = str(ctl.unreachable(PATH, errno.EACCES, "operators"))
        assert "members of the group operators" in message
        assert "log in again" in message

    def test_others(self) -> None:
        """Any other failure names the socket, the cause and what to do."""
        for number, cause in (
            (errno.ECONNREFUSED, "nobody listens"),
            (errno.ENOENT, os.strerror(errno.ENOENT)),
            (None, "cannot be connected to"),
        ):
            message = str(ctl.unreachable(PATH, number, "operators"))
            for words in (PATH, cause, "systemctl start cortexd", "--socket", "CORTEX_SOCKET"):
                assert words in message

    def test_owning_group(self) -> None:
        """The group is the file's or, where there is no seeing it, that of what hides it."""
        with tempfile.TemporaryDirectory() as directory:
            expected = grp.getgrgid(Path(directory).stat().st_gid).gr_name
            assert expected == ctl.owning_group(directory)
            assert expected == ctl.owning_group(f"{directory}/none/control.sock")

    def test_group_without_name(self) -> None:
        """A group that has no name is told by its number."""
        nameless = max(group.gr_gid for group in grp.getgrall() if group.gr_gid < 65000) + 1
        assert ("root", str(nameless)) == (ctl.group_name(0), ctl.group_name(nameless))


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
        assert self.system == ctl.find_socket((self.own, self.system))
        self.own.touch()
        assert self.own == ctl.find_socket((self.own, self.system))

    def test_hidden(self) -> None:
        """A place that may not be looked at counts as one with a socket: why will be said then."""
        hidden = HiddenPath("/run/cortex/control.sock")
        self.system.touch()
        assert hidden == ctl.find_socket((self.own, hidden, self.system))

    def test_none(self) -> None:
        """Without any the person is told where it was looked for and what to do."""
        file = self.directory / "file"
        file.touch()
        error = self.assertRaises(ctl.NoDaemon, ctl.find_socket, (self.own, file / "control.sock"))
        for words in (f"{self.own} or {file}/control.sock", "--socket", "systemctl start"):
            assert words in str(error)


class ParserTests(SynchronousTestCase):
    def usage_error(self, *argv: str) -> int:
        """Return the exit status of a command line that ends in the parser."""
        error = self.assertRaises(SystemExit, ctl.make_parser().parse_args, argv)
        assert isinstance(error.code, int)
        return error.code

    def test_defaults(self) -> None:
        """Without options the socket is looked for, the wait is short, and people read."""
        arguments = ctl.make_parser().parse_args(["status"])
        assert (None, 10.0, False) == (arguments.socket, arguments.timeout, arguments.json)

    def test_relative_socket(self) -> None:
        """A relative socket is meant from the current directory."""
        arguments = ctl.make_parser().parse_args(["--socket", "x.sock", "version"])
        assert str(Path.cwd() / "x.sock") == arguments.socket

    def test_usage(self) -> None:
        """A wrong command line ends with 2."""
        for argv in (
            [],
            ["levitate"],
            ["status", "--jsno"],
            ["--timeout", "0", "status"],
            ["--timeout", "nan", "status"],
            ["--timeout", "inf", "status"],
            ["--timeout", "soon", "status"],
            ["--socket", "/" + 200 * "x", "status"],
        ):
            assert 2 == self.usage_error(*argv)

    def test_help(self) -> None:
        """Help shows examples, the commands and every exit status."""
        text = ctl.make_parser().format_help()
        for words in (
            "cortexctl status --json",
            "CORTEX_SOCKET",
            "3  no daemon answers",
            "version",
        ):
            assert words in text
