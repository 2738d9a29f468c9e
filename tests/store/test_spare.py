"""Files that cannot be used: the daemon does without, and takes them up once they can be."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from cortexd.store import file
from cortexd.store.file import FILE_NAME, StateInUseError
from cortexd.store.journal import Store
from tests.support.stores import (
    LEARNED,
    NOW,
    StoreTestCase,
    database,
    names,
    reasons,
    rows,
    without_privileges,
)

PIN = ("gpu-1", "acme/thinker")

# Files are slow.
some_examples = settings(max_examples=25, deadline=None)

Change = Callable[[Store], object]

words = st.sampled_from(["gpu-1", "gpu-2", "gpu-3"])
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        lambda node, model, pinned: lambda store: store.set_pin_override(node, model, pinned),
        words,
        words,
        st.booleans(),
    ),
    st.builds(lambda node: lambda store: store.add_cordon(node), words),
    st.builds(lambda node: lambda store: store.remove_cordon(node), words),
    st.builds(
        lambda node, number: lambda store: store.append(NOW, "load", node, None, {"n": number}),
        words,
        st.integers(0, 9),
    ),
)


def whole(store: Store) -> tuple[object, ...]:
    """Return all that a store has."""
    return store.pin_overrides(), store.cordons(), store.entries(0, 1000), store.last_number


class SpareTests(StoreTestCase):
    def fill(self) -> None:
        """Store a pin, a cordon, figures and two entries, and end the daemon."""
        opened = self.open()
        opened.set_pin_override(*PIN, True)
        opened.add_cordon("gpu-2")
        opened.put_learned(*PIN, LEARNED)
        for number in range(2):
            opened.append(NOW, "load", *PIN, {"number": number})
        opened.close()

    def without(self, reason: str) -> Store:
        """Open a store whose file cannot be used for a reason, and see that it says so."""
        with capturedLogs() as events:
            opened = self.open()
        (logged,) = reasons(events, "store_unavailable")
        assert reason in logged
        assert reason in (opened.unstored or "")
        return opened

    def assert_filled(self, opened: Store) -> None:
        assert {PIN: True} == opened.pin_overrides()
        assert frozenset({"gpu-2"}) == opened.cordons()
        assert {PIN: LEARNED} == opened.learned()
        assert [0, 1] == [entry.fields["number"] for entry in opened.entries(0, 10)]

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have the file and its directory in a place where this user may not write."""
        self.directory.parent.chmod(0o755)
        self.directory.chmod(0o555)
        for path in self.directory.iterdir():
            path.chmod(0o444)
        with without_privileges():
            yield
        self.directory.chmod(0o755)
        for path in self.directory.iterdir():
            path.chmod(0o666)

    def test_no_directory(self) -> None:
        """Where the directory is a file, the state is in memory, the journal too."""
        self.directory.write_text("in the way")

        opened = self.without("File exists")

        opened.add_cordon("gpu-1")
        opened.append(NOW, "cordoned", "gpu-1", None, {})
        assert frozenset({"gpu-1"}) == opened.cordons()
        assert ["cordoned"] == [entry.kind for entry in opened.entries(0, 10)]
        assert "in the way" == self.directory.read_text()

    def test_file_that_is_a_directory(self) -> None:
        """A directory in the file's place is left where it is; the lock is free after the end."""
        self.path.mkdir(parents=True)
        for _ in range(2):
            self.without("Is a directory").close()
        assert self.path.is_dir()

    def test_read_only(self) -> None:
        """On a disk that is read-only now, what the file has counts; the file stays unchanged."""
        self.fill()
        before = self.path.read_bytes()
        with self.read_only():
            opened = self.without("Permission denied")

            self.assert_filled(opened)
            opened.remove_cordon("gpu-2")
            assert frozenset() == opened.cordons()
            assert not opened.retry(NOW)
        assert before == self.path.read_bytes()

    def test_read_only_with_a_log(self) -> None:
        """What a killed daemon has left in the log beside the file counts too."""
        opened = self.open()
        opened.add_cordon("gpu-2")
        kept = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        opened.close()
        for name, content in kept.items():
            (self.directory / name).write_bytes(content)
        with self.read_only():
            assert frozenset({"gpu-2"}) == self.without("Permission denied").cordons()

    def test_locked(self) -> None:
        """A file that another program holds is not damaged; what it has is read all the same."""
        self.patch(file, "OPENING_SECONDS", 0.01)
        self.fill()
        with closing(database(self.directory)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            opened = self.without("database is locked")
            self.assert_filled(opened)
            assert not opened.retry(NOW)

        assert opened.retry(NOW)
        self.assert_filled(opened)

    def test_newer(self) -> None:
        """The file of a newer version stays as it is, and what this version knows of it counts."""
        self.fill()
        with closing(database(self.directory)) as connection:
            connection.execute("ALTER TABLE cordons ADD COLUMN reason TEXT")
            connection.execute("DROP TABLE abilities")
            connection.execute("UPDATE learned_loads SET node = 'gpu-1'")
            connection.execute(f"PRAGMA user_version = {len(file.MIGRATIONS) + 1}")
        before = self.path.read_bytes()
        known = len(file.MIGRATIONS)

        opened = self.without(
            f"its version is {known + 1}, but this cortexd knows only up to {known}"
        )

        self.assert_filled(opened)
        opened.add_cordon("gpu-3")
        assert not opened.retry(NOW)
        opened.close()
        assert before == self.path.read_bytes()
        assert [FILE_NAME] == [path.name for path in self.directory.glob("*sqlite3*")]

    def test_older(self) -> None:
        """A file of an older version that cannot be updated now is read as if it were."""
        self.fill()
        step = ("CREATE TABLE notes (text TEXT NOT NULL)",)
        self.patch(file, "MIGRATIONS", (*file.MIGRATIONS, step))
        with self.read_only():
            self.assert_filled(self.without("Permission denied"))

    def test_unreadable(self) -> None:
        """Where not even that can be read, the log says so, and all begins empty."""
        self.fill()
        self.path.write_bytes(b"no database" * 100)
        with self.read_only(), capturedLogs() as events:
            opened = self.open()

        (line,) = [event["fields"] for event in events if "fields" in event]
        assert ("Permission denied", "file is not a database") == (line["reason"], line["unread"])
        assert ({}, frozenset(), 0) == (
            opened.pin_overrides(),
            opened.cordons(),
            opened.last_number,
        )

    def test_taken_up(self) -> None:
        """Once the file can be used it gets all changes, and gives what could not be read."""
        self.fill()
        hidden = self.directory.with_name("hidden")
        self.directory.rename(hidden)
        self.directory.write_text("in the way")
        opened = self.without("File exists")
        opened.add_cordon("gpu-3")
        opened.set_pin_override("gpu-9", "acme/tiny", False)
        assert 1 == opened.append(NOW, "cordoned", "gpu-3", None, {"number": 2})
        assert not opened.retry(NOW)
        self.directory.unlink()
        hidden.rename(self.directory)

        with capturedLogs() as events:
            assert opened.retry(NOW)

        assert (["store_available_again"], None) == (names(events), opened.unstored)
        for reopen in (lambda: opened, lambda: self.reopened(opened)):
            each = reopen()
            assert {PIN: True, ("gpu-9", "acme/tiny"): False} == each.pin_overrides()
            assert frozenset({"gpu-2", "gpu-3"}) == each.cordons()
            assert [0, 1, 2] == [entry.fields["number"] for entry in each.entries(0, 10)]
            assert 3 == each.last_number

    def test_nothing_is_lost(self) -> None:
        """Whatever is changed without the file, in the end it is as if the file had been there."""

        @some_examples
        @given(st.lists(changes, max_size=12), st.lists(changes, max_size=12))
        def change(before: list[Change], later: list[Change]) -> None:
            self.move()
            plain = self.open()
            for each in (*before, *later):
                each(plain)
            expected = whole(plain)
            plain.close()

            self.move()
            opened = self.open()
            for each in before:
                each(opened)
            opened.close()
            self.path.rename(self.directory / "hidden")
            self.path.mkdir()
            opened = self.open()
            for each in later:
                each(opened)
            self.path.rmdir()
            (self.directory / "hidden").rename(self.path)
            assert opened.retry(NOW)
            assert expected == whole(opened)
            assert expected == whole(self.reopened(opened))

        change()

    def test_no_litter(self) -> None:
        """A disk without room for the tables leaves no file that the next try calls damaged."""
        self.directory.mkdir()

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        room = self.patch(file, "_prepare", full)
        opened = self.without("database or disk is full")
        assert not opened.retry(NOW)
        assert [] == list(self.directory.glob("*sqlite3*"))
        room.restore()
        assert opened.retry(NOW)

    def test_the_lock_stays(self) -> None:
        """A daemon without its file keeps others from the directory, also from a read-only one."""
        self.path.mkdir(parents=True)
        self.without("Is a directory")

        refusal = self.refused()

        assert f"{self.directory}: another daemon (process {os.getpid()}) stores" in refusal
        with self.read_only():
            self.assertRaises(StateInUseError, Store, self.directory, NOW)

    def test_another_daemon_came_first(self) -> None:
        """A directory that another daemon has taken in the meantime is left to it."""
        self.directory.write_text("in the way")
        opened = self.without("File exists")
        self.directory.unlink()
        other = self.open()

        assert not opened.retry(NOW)
        assert "another daemon" in (opened.unstored or "")
        other.close()
        assert opened.retry(NOW)

    def test_a_failed_write_is_a_trouble(self) -> None:
        """A change that could not be written is told as long as it is only in memory."""
        opened = self.open()
        with closing(database(self.directory)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            opened.add_cordon("gpu-1")
            assert "database is locked" == opened.unstored
            opened.retry(NOW)
            assert "database is locked" == opened.unstored

        assert not opened.retry(NOW)
        assert opened.unstored is None
        assert [("gpu-1",)] == rows(self.directory, "SELECT * FROM cordons")
