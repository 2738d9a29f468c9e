import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.looking.engine_process import (
    FAMILY_SECONDS,
    SEEK_SECONDS,
    UNNAMED,
    UNSEEN,
    ProcessWatch,
)
from tests.doubles.proc import Proc


class Control:
    """What an agent's file says of the process; by default nothing."""

    changed: Callable[[], None]

    def __init__(self) -> None:
        self.sees_process = False
        self.found: tuple[int, ...] = ()
        self.restarts = 0
        self.reason = ""
        self.is_given_up = False
        self.notes: tuple[str, ...] = ()

    def pids(self) -> tuple[int, ...]:
        return self.found


class ProcessWatchTests(SynchronousTestCase):
    control: Any

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.proc = Proc(Path(folder.name) / "proc")
        self.clock = Clock()
        self.control = Control()
        address = ("127.0.0.1", 1234)
        self.watch = ProcessWatch(self.clock, self.control, address, str(self.proc.path))

    def test_known_process(self) -> None:
        """The process that the file names is read, with its number of restarts."""
        self.proc.add(7, environ={"A": "b"})
        self.control.sees_process, self.control.found, self.control.restarts = True, (7,), 3

        seen = self.watch.look(answers=False)

        assert seen.process is not None
        assert (7, 3, 32_000) == (seen.process.pid, seen.process.restarts, seen.limit_mb)
        assert {"A": "b"} == self.watch.environment

    def test_known_process_ends(self) -> None:
        """Its end is visible, with the reason."""
        self.control.sees_process, self.control.reason = True, "killed by SIGKILL"

        seen = self.watch.look(answers=False)

        assert seen.process is None
        assert (True, "killed by SIGKILL") == (seen.is_visible, seen.reason)

    def test_sought_at_the_port(self) -> None:
        """Otherwise it is the one that listens at the port, once the engine answers."""
        self.proc.add(7)
        self.proc.listen(7, 1234)

        assert not self.watch.look(answers=False).is_visible
        seen = self.watch.look(answers=True)
        assert seen.process is not None
        assert (7, True) == (seen.process.pid, seen.is_visible)

    def test_it_ends_and_comes_back(self) -> None:
        """Its end counts as a restart; the next one is found as soon as it answers."""
        self.proc.add(7)
        self.proc.listen(7, 1234)
        self.watch.look(answers=True)
        self.proc.end(7)

        ended = self.watch.look(answers=False)
        self.proc.add(8, started=50.0)
        self.proc.listen(8, 1234, inode=8)
        back = self.watch.look(answers=True)

        assert (None, True) == (ended.process, ended.is_visible)
        assert back.process is not None
        assert (8, 1) == (back.process.pid, back.process.restarts)

    def test_number_used_again(self) -> None:
        """Another process with the same number is not the engine's."""
        self.proc.add(7)
        self.proc.listen(7, 1234)
        self.watch.look(answers=True)
        self.proc.add(7, started=500.0)

        assert self.watch.look(answers=False).process is None

    def test_unseen(self) -> None:
        """Another user's process, or another namespace's, is noted, and sought again later."""
        self.proc.listen(None, 1234)
        self.watch.look(answers=True)
        assert (UNSEEN,) == self.watch.notes
        self.proc.add(7)
        self.proc.listen(7, 1234, inode=8)

        assert self.watch.look(answers=True).process is None
        self.clock.advance(SEEK_SECONDS)
        assert self.watch.look(answers=True).process is not None
        assert [] == list(self.watch.notes)

    def test_unnamed(self) -> None:
        """An engine that answers while nothing listens here is in another namespace."""
        self.watch.look(answers=True)

        assert (UNNAMED,) == self.watch.notes

    def test_children(self) -> None:
        """Children are looked for now and then."""
        for pid in (7, 8):
            self.proc.add(pid, rss_mb=100)
        self.proc.listen(7, 1234)
        self.watch.look(answers=True)
        self.proc.adopt(7, 8)
        self.clock.advance(FAMILY_SECONDS)

        seen = self.watch.look(answers=True)

        assert seen.process is not None
        assert ((7, 8), 200) == (self.watch.pids, seen.process.rss_mb)
