"""The log, the pidfile and the end of a start under twistd."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs.observers import LineObserver
from cortexd.logs.outputs import FileOutput
from cortexd.service.launch import LOG_FILE, Launch, LaunchError, remove_stale_pidfile
from tests.support.stores import free_path


class Reactor(MemoryReactorClock):
    """Runs at once what a signal handler has asked for."""

    def callFromThread(self, function: Callable[[], object]) -> None:
        """Call it."""
        function()


EVENT: LogEvent = {"log_format": "hello"}


class ObserverTests(SynchronousTestCase):
    def setUp(self) -> None:
        before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        self.reactor = Reactor()
        self.folder = free_path(self)
        self.folder.mkdir()

    def launch(self, **options: Any) -> Launch:
        launch = Launch(options)
        self.addCleanup(launch.done)
        return launch

    def written_to(self, path: Path, **options: Any) -> str:
        """Let an observer write an event, and return what is in the file."""
        observer = self.launch(**options).observer(self.reactor)
        assert isinstance(observer, LineObserver)
        assert isinstance(observer._output, FileOutput)
        self.addCleanup(observer._output.close)
        observer(EVENT)
        return path.read_text()

    def test_text_in_the_foreground(self) -> None:
        """Twistd -n prints text, unless --logger or --syslog has chosen another observer."""
        stream = StringIO()
        self.patch(sys, "stdout", stream)
        for path in (None, "-"):
            observer = self.launch(nodaemon=1, logfile=path).observer(self.reactor)
            assert observer is not None
            observer(EVENT)
        assert 2 == stream.getvalue().count("] hello\n")
        for options in ({"logger": object()}, {"syslog": 1}):
            assert self.launch(nodaemon=1, **options).observer(self.reactor) is None
        assert Launch(None).observer(self.reactor) is None

    def test_text_in_a_file(self) -> None:
        """With --logfile, and for a daemon, it goes to a file."""
        path = self.folder / "own.log"
        assert "] hello\n" in self.written_to(path, nodaemon=1, logfile=str(path))
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            assert "] hello\n" in self.written_to(self.folder / LOG_FILE, nodaemon=0)
        finally:
            os.chdir(before)
        assert self.launch(nodaemon=0, logfile="-").observer(self.reactor) is None

    def test_rotation(self) -> None:
        """SIGUSR1 begins a new file, as with twistd's own log."""
        path = self.folder / "own.log"
        self.written_to(path, nodaemon=1, logfile=str(path))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert "" == path.read_text()
        assert "hello" in path.with_name("own.log.1").read_text()

    def test_no_file(self) -> None:
        """A log that cannot be written ends the start in one line."""
        launch = self.launch(nodaemon=1, logfile=str(self.folder / "no" / "log"))
        error = self.assertRaises(LaunchError, launch.observer, self.reactor)
        assert "the log cannot be written: No such file or directory; " in str(error)


class EndTests(SynchronousTestCase):
    def test_in_the_foreground(self) -> None:
        """The line goes to standard error, and the pidfile of this process goes."""
        pidfile = free_path(self)
        pidfile.write_text(str(os.getpid()))
        complaints = StringIO()
        self.patch(sys, "__stderr__", complaints)

        launch = Launch({"nodaemon": 1, "pidfile": str(pidfile)})
        ended = self.assertRaises(SystemExit, launch.give_up, ValueError("in use"))

        assert (1, "in use\n", False) == (ended.code, complaints.getvalue(), pidfile.exists())

    def test_pidfile_of_another(self) -> None:
        """The pidfile of another process stays."""
        pidfile = free_path(self)
        pidfile.write_text("1")
        self.patch(sys, "__stderr__", None)
        launch = Launch({"nodaemon": 1, "pidfile": str(pidfile)})
        self.assertRaises(SystemExit, launch.give_up, ValueError("in use"))
        assert pidfile.exists()

    def test_after_the_fork(self) -> None:
        """The caller gets the line, and twistd's first process the word that ends it."""
        told, word = os.pipe(), os.pipe()
        for end in (*told, *word):
            self.addCleanup(os.close, end)
        terminal = os.dup(2)
        os.dup2(told[1], 2)
        try:
            launch = Launch({"nodaemon": 0, "statusPipe": word[1]})
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        self.addCleanup(launch.done)

        self.assertRaises(SystemExit, launch.give_up, ValueError("in use"))

        assert (b"in use\n", b"1 ") == (os.read(told[0], 100), os.read(word[0], 100)[:2])

    def tearDown(self) -> None:
        self.flushLoggedErrors()


def is_a_daemon(_pid: int, _written_at: float) -> bool:
    return True


def is_no_daemon(_pid: int, _written_at: float) -> bool:
    return False


class PidfileTests(SynchronousTestCase):
    def test_stale(self) -> None:
        """A pidfile stays as long as its process may be a daemon."""
        path = free_path(self)
        for content, is_daemon, stays in (
            ("7\n", True, True),
            ("7\n", False, False),
            ("words", False, True),
        ):
            path.write_text(content)
            remove_stale_pidfile(path, is_a_daemon if is_daemon else is_no_daemon)
            assert path.exists() == stays
        path.unlink()
        remove_stale_pidfile(path)
