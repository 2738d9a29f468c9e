import os
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.looking.listeners import listening_sockets, pid_at
from tests.doubles.proc import Proc

V6 = (
    "  sl  local_address                         remote_address                        st\n"
    "   0: 00000000000000000000000000000000:04D2 00000000000000000000000000000000:0000 0A "
    "00000000:00000000 00:00000000 00000000  1000        0 55 1 0000000000000000 100 0 0 10 0\n"
)


class ListenersTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.proc = Proc(Path(folder.name) / "proc")

    def find(self, port: int, host: str | None = None) -> tuple[int | None, bool]:
        return pid_at(host, port, str(self.proc.path))

    def test_found(self) -> None:
        """The process with the socket that listens is found."""
        self.proc.add(7)
        self.proc.add(8)
        self.proc.listen(8, 1234)

        assert (8, True) == self.find(1234)

    def test_nothing_listens(self) -> None:
        """A connection at the port is no listener."""
        assert (None, False) == self.find(8080)

    def test_unseen(self) -> None:
        """Another user's process listens, and is not found."""
        self.proc.listen(None, 1234)

        assert (None, True) == self.find(1234)

    def test_another_address(self) -> None:
        """Of several addresses of the machine, the engine's counts, before those for all."""
        for pid, address in ((7, "127.0.0.1"), (8, "127.0.0.2"), (9, "0.0.0.0")):
            self.proc.add(pid)
            self.proc.listen(pid, 1234, pid, address=address)

        assert (7, True) == self.find(1234, "127.0.0.1")
        assert (7, True) == self.find(1234, "localhost")
        assert (8, True) == self.find(1234, "127.0.0.2")
        assert (9, True) == self.find(1234, "10.0.0.7")
        assert (7, True) == self.find(1234, "gpu.example.com")
        self.proc.add(10)
        self.proc.listen(10, 1235, 9)
        assert (None, False) == self.find(1234, "10.0.0.7")

    def test_tables(self) -> None:
        """Addresses of both families count; damaged lines do not."""
        assert {"55": "::"} == listening_sockets(V6, 1234)
        assert {} == listening_sockets(V6, 1235)
        assert {} == listening_sockets("head\nx y z 0A\n\n" + "0A " * 12, 1234)
        assert {} == listening_sockets(V6.replace("00:04D2", "XY:04D2"), 1234)

    def test_this_machine(self) -> None:
        """The kernel's own tables are read: of both families, and of an address within another."""
        for family, bound, host in (
            (socket.AF_INET, "127.9.8.7", "127.9.8.7"),
            (socket.AF_INET6, "::1", "::1"),
            (socket.AF_INET6, "::ffff:127.9.8.7", "127.9.8.7"),
        ):
            with socket.socket(family) as listening:
                listening.bind((bound, 0))
                listening.listen()
                port = listening.getsockname()[1]
                assert (os.getpid(), True) == pid_at(host, port)
                assert (None, False) == pid_at("127.9.8.6", port)
