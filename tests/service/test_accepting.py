"""How many clients a port accepts in a turn, on real sockets that no reactor watches."""

import errno
import resource
import socket
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.service.accepting import PAUSE_SECONDS, pace, raise_open_files


class Watching(Clock):
    """A reactor that only notes which descriptors it would watch."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        pass


class AcceptingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Watching()
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        self.port: Any = Port(0, factory, 50, "127.0.0.1", self.reactor)
        self.port.startListening()
        self.addCleanup(self.port.connectionLost, Failure(ConnectionDone()))
        self.end = pace(self.reactor, lambda: 3)(self.port)

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self.port.getHost().port))
            self.addCleanup(client.close)

    def accepted(self) -> int:
        """Return how many connections the reactor watches beside the port."""
        return len(self.reactor.readers - {self.port})

    def turn(self) -> None:
        self.port.doRead()
        for connection in self.reactor.readers - {self.port}:
            self.addCleanup(connection.connectionLost, Failure(ConnectionDone()))

    def test_some_in_each_turn(self) -> None:
        """No turn accepts more than the batch, however many wait and whatever came before."""
        self.connect(8)
        counts = []
        for _ in range(3):
            self.turn()
            counts.append(self.accepted())

        assert [3, 6, 8] == counts

    def test_no_file_is_left(self) -> None:
        """The port rests, logs one line, and accepts again once there are files."""
        self.connect(1)
        listener = self.port.socket

        class Exhausted:
            def accept(self) -> None:
                raise OSError(errno.ENFILE, "too many open files in system")

        with capturedLogs() as events:
            for _ in range(3):
                self.patch(self.port, "socket", Exhausted())
                self.port.doRead()
                assert self.port not in self.reactor.readers
                self.reactor.advance(PAUSE_SECONDS)
                assert self.port in self.reactor.readers
        assert 1 == len([each for each in events if "nothing_accepted" in str(each)])

        self.port.socket = listener
        self.turn()
        assert 1 == self.accepted()

    def test_its_end(self) -> None:
        """A port that rests when it closes leaves no timer."""
        listener = self.port.socket
        listener.setblocking(False)
        self.port.doRead()
        assert 1 == len(self.reactor.getDelayedCalls())
        self.end()

        assert [] == self.reactor.getDelayedCalls()

    def test_a_port_of_another_kind(self) -> None:
        """A double is left as it is."""
        pace(self.reactor, lambda: 3)(object())()  # type: ignore[arg-type] # what no code of ours knows


class OpenFilesTests(SynchronousTestCase):
    def test_the_soft_limit_becomes_the_hard_one(self) -> None:
        """Without any privilege; a limit that is there already stays."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1] - 1, limits[1]))

        assert limits[1] == raise_open_files()
        assert (limits[1], limits[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
        assert limits[1] == raise_open_files()
