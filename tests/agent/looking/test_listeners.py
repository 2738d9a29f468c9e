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

    def find(self, port: int) -> tuple[int | None, bool]:
        return pid_at(port, str(self.proc.path))

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

    def test_tables(self) -> None:
        """Addresses of both families count; damaged lines do not."""
        assert {"55"} == listening_sockets(V6, 1234)
        assert set() == listening_sockets(V6, 1235)
        assert set() == listening_sockets("head\nx y z 0A\n\n" + "0A " * 12, 1234)
