from __future__ import annotations

import sqlite3
from contextlib import closing

from twisted.logger import capturedLogs

from cortexd.store import file
from cortexd.store.file import FILE_NAME, LOCK_NAME
from tests.support.stores import ASIDE, StoreTestCase, database, mode, names, reasons, rows


class FileTests(StoreTestCase):
    def test_fresh(self) -> None:
        """A first start finds nothing kept, and says nothing."""
        with capturedLogs() as events:
            opened = self.open()

        assert ({}, frozenset(), {}) == (
            opened.pin_overrides(),
            opened.cordons(),
            opened.learned(),
        )
        assert (0, []) == (opened.last_number, opened.entries(0, 10))
        assert [] == names(events)

    def test_private(self) -> None:
        """Directory and files are for the daemon's user alone, also a file that was not."""
        self.directory = self.directory / "deep" / "state"
        self.path = self.directory / FILE_NAME
        self.open().close()
        self.path.chmod(0o664)
        self.open().add_cordon("gpu-1")

        found = {path.name: mode(path) for path in self.directory.iterdir()}

        expected = {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME}
        assert dict.fromkeys(expected, 0o600) == found
        assert 0o700 == mode(self.directory)

    def test_close(self) -> None:
        """A closed store is one whole file; closing twice does nothing."""
        opened = self.open()
        opened.add_cordon("gpu-1")
        opened.close()
        opened.close()

        assert {FILE_NAME, LOCK_NAME} == {path.name for path in self.directory.iterdir()}
        with closing(sqlite3.connect(f"file:{self.path}?immutable=1", uri=True)) as connection:
            assert [("gpu-1",)] == connection.execute("SELECT * FROM cordons").fetchall()

    def test_close_beside_a_reader(self) -> None:
        """The file is whole after the end, even while another program has it open."""
        opened = self.open()
        opened.add_cordon("gpu-1")
        with closing(database(self.directory)) as reader:
            assert [("gpu-1",)] == reader.execute("SELECT * FROM cordons").fetchall()
            opened.close()

            assert 0 == self.path.with_name(f"{FILE_NAME}-wal").stat().st_size

    def test_durability(self) -> None:
        """The log is written ahead and not synchronised at each change, and nobody waits long."""
        opened = self.open()

        assert [("wal",)] == rows(self.directory, "PRAGMA journal_mode")
        assert (1,) == opened._file._connection.execute("PRAGMA synchronous").fetchone()
        assert (20,) == opened._file._connection.execute("PRAGMA busy_timeout").fetchone()


class MigrationTests(StoreTestCase):
    STEP = ("CREATE TABLE notes (text TEXT NOT NULL)", "INSERT INTO notes VALUES ('new')")

    def test_version(self) -> None:
        """The file says which version it is of."""
        self.open()

        assert [(len(file.MIGRATIONS),)] == rows(self.directory, "PRAGMA user_version")

    def test_older_file(self) -> None:
        """A file of an older version is brought up once, and keeps what it has."""
        opened = self.open()
        opened.add_cordon("gpu-1")
        opened.close()
        self.patch(file, "MIGRATIONS", (*file.MIGRATIONS, self.STEP))
        for _ in range(2):
            opened = self.open()

            assert frozenset({"gpu-1"}) == opened.cordons()
            assert [("new",)] == rows(self.directory, "SELECT * FROM notes")
            opened.close()

    def test_whole_or_not_at_all(self) -> None:
        """A step that fails halfway leaves no half behind in the file that is set aside."""
        opened = self.open()
        opened.add_cordon("gpu-1")
        opened.close()
        with closing(database(self.directory)) as connection:
            connection.execute("CREATE TABLE second (text TEXT)")
        steps = ("CREATE TABLE first (text TEXT)", "CREATE TABLE second (text TEXT)")
        self.patch(file, "MIGRATIONS", (*file.MIGRATIONS, steps))

        with capturedLogs() as events:
            self.open()

        assert ["table second already exists"] == reasons(events, "store_damaged")
        with closing(sqlite3.connect(self.directory / ASIDE)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            made = (len(file.MIGRATIONS) - 1,)
            assert made == connection.execute("PRAGMA user_version").fetchone()
        assert ("second" in tables, "first" in tables) == (True, False)
