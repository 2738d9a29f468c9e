import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.server import ControlFactory
from cortexd.control.socket import ControlSocketError, control_service
from tests.support.control import (
    STARTED_AT,
    ControlledFleet,
)


class ServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Choose a path in a directory that is not there yet."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / "run" / "control.sock"
        self.lock = self.path.with_name("control.sock.lock")
        given = ControlledFleet({"large": 80000})
        self.factory = ControlFactory(given.dispatcher, None, given.clock, STARTED_AT, {})

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
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.path))
            listening.listen()
            error = self.assertRaises(ControlSocketError, self.start, Reactor(), self.path)
        assert str(self.path) in str(error)
        assert "Cannot acquire lock" in str(error)
        assert "says that process 1 uses it" in str(error)
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

    def test_leftovers(self) -> None:
        """A lock goes with its socket if no process listens, whatever process has its id now.

        It may be our own id, left in a container, or that of a process that lives or has ended.
        """
        self.path.parent.mkdir()
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait(timeout=30)
        for pid in (os.getpid(), os.getppid(), 1, ended.pid):
            with socket.socket(socket.AF_UNIX) as killed:
                killed.bind(str(self.path))
            self.lock.symlink_to(str(pid))
            self.start(MemoryReactorClock(), self.path)
            assert [] == list(self.path.parent.iterdir())

            self.lock.symlink_to(str(pid))
            self.start(MemoryReactorClock(), self.path)
            assert [] == list(self.path.parent.iterdir())

    def test_live_socket(self) -> None:
        """A lock is kept where a process does listen, also while many clients wait there."""
        self.path.parent.mkdir()
        self.lock.symlink_to(str(os.getpid()))
        with socket.socket(socket.AF_UNIX) as listening, ExitStack() as clients:
            listening.bind(str(self.path))
            listening.listen(0)
            for _ in range(3):
                self.start(MemoryReactorClock(), self.path)
                assert self.lock.is_symlink()
                assert self.path.is_socket()
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect_ex(str(self.path))
