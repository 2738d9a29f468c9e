"""Stores in a temporary directory, with helpers around them, for tests of `cortexd.store`."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.footprints import LearnedLoad
from cortexd.logs import fields_of
from cortexd.store.file import FILE_NAME, StoreError
from cortexd.store.journal import Store

NOW = 1_790_000_000.5
ASIDE = f"{FILE_NAME}.damaged-1790000000"
NOBODY = 65534
LEARNED = LearnedLoad(3, 4096.5, 12.25, 4, 17.5)


def reasons(events: Sequence[LogEvent], event: str) -> list[str]:
    """Return the reasons in the log lines of one event."""
    lines = [fields for fields in map(fields_of, events) if fields is not None]
    return [line["reason"] for line in lines if line["event"] == event]


def names(events: Sequence[LogEvent]) -> list[str]:
    """Return the names of the events that our own modules have logged."""
    return [fields["event"] for fields in map(fields_of, events) if fields is not None]


def database(directory: Path) -> sqlite3.Connection:
    """Return a connection to the file, like another program's."""
    return sqlite3.connect(directory / FILE_NAME, isolation_level=None)


def rows(directory: Path, query: str) -> list[Any]:
    """Return a query's rows, as another program reads them from the file."""
    with closing(database(directory)) as connection:
        return connection.execute(query).fetchall()


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Lock the file from another connection, so that no other connection can write."""
    with closing(database(directory)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def without_privileges() -> Iterator[None]:
    """Drop to the user `nobody` where the tests run as root, which may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def free_path(test: SynchronousTestCase) -> Path:
    """Return a path where nothing is yet; what a test puts there is removed at its end."""
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    return Path(folder.name, "temporary")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class StoreTestCase(SynchronousTestCase):
    """Has a directory of its own, and closes the stores that a test has opened."""

    def setUp(self) -> None:
        self.move()

    def move(self) -> None:
        """Continue in a directory that does not exist yet."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name, "state")
        self.path = self.directory / FILE_NAME

    def open(self, now: float = NOW) -> Store:
        opened = Store(self.directory, now)
        self.addCleanup(opened.close)
        return opened

    def reopened(self, opened: Store) -> Store:
        opened.close()
        return self.open()

    def refused(self) -> str:
        with self.assertRaises(StoreError) as raised:
            Store(self.directory, NOW)
        assert "\n" not in str(raised.exception)
        return str(raised.exception)


class HeldWorker:
    """A thread in the test's hand: it does its jobs at once, or while ``is_held`` in ``release``.

    Each job gets the Deferred of its result as from a real thread: after the call has returned if
    it was held.
    """

    def __init__(self) -> None:
        self.is_held = False
        self.is_running = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def start(self) -> None:
        """Begin."""
        self.is_running = True

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Do a job, or hold it."""
        assert self.is_running
        if not self.is_held:
            return execute(job)
        waiting: Deferred[Any] = Deferred()
        self._waiting.append((job, waiting))
        return waiting

    def release(self) -> None:
        """Do the jobs that are held, and those that follow at once."""
        self.is_held = False
        while self._waiting:
            job, waiting = self._waiting.pop(0)
            execute(job).chainDeferred(waiting)

    def stop(self) -> None:
        """End."""
        assert self._waiting == []
        self.is_running = False
