"""Files that are damaged, directories that cannot be used, and disks that fail later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, capturedLogs

from cortexd.logs import fields_of
from cortexd.store.file import FILE_NAME
from cortexd.store.journal import JOURNAL_ROWS, Store
from cortexd.store.statements import UNWRITTEN_ENTRIES
from tests.support.stores import (
    ASIDE,
    LEARNED,
    NOW,
    StoreTestCase,
    database,
    held,
    names,
    reasons,
    rows,
)

# Files are slow.
some_examples = settings(max_examples=120)


class DamageTests(StoreTestCase):
    def fill(self) -> bytes:
        """Keep something in every table, end the daemon, and return the file's bytes."""
        opened = self.open()
        opened.set_pin_override("gpu-1", "acme/thinker", True)
        opened.add_cordon("gpu-2")
        opened.put_learned("gpu-1", "acme/thinker", LEARNED)
        for number in range(200):
            opened.append(NOW, "load", "gpu-1", f"model-{number % 5}", {"seconds": number})
        opened.close()
        return self.path.read_bytes()

    def begun_anew(self, damaged: bytes) -> str:
        """Open what is damaged; return the reason in the log once all has been seen to be new."""
        with capturedLogs() as events:
            opened = self.open()
        assert ({}, frozenset(), 0) == (
            opened.pin_overrides(),
            opened.cordons(),
            opened.last_number,
        )
        opened.add_cordon("gpu-9")
        with capturedLogs() as later:
            again = self.reopened(opened)
        assert frozenset({"gpu-9"}) == again.cordons()
        again.close()
        assert damaged == (self.directory / ASIDE).read_bytes()
        (reason,) = reasons(events, "store_damaged")
        assert [] == names(later)
        return reason

    def change(self, *statements: str) -> bytes:
        """Change the file as another program would, and return its bytes."""
        with closing(database(self.directory)) as connection:
            for statement in statements:
                connection.execute(statement)
        return self.path.read_bytes()

    def test_no_database(self) -> None:
        """What is no database is set aside, the log says what and where, and all begins anew."""
        self.directory.mkdir()
        self.path.write_bytes(b"[gateway]\nlisten = ':8000'\n" * 100)

        with capturedLogs() as events:
            self.open()

        (fields,) = [fields for fields in map(fields_of, events) if fields is not None]
        assert "file is not a database" == fields["reason"]
        assert str(self.path) == fields["path"]
        assert str(self.directory / ASIDE) == fields["set_aside"]
        assert b"[gateway]" == (self.directory / ASIDE).read_bytes()[:9]

    def test_kinds_of_damage(self) -> None:
        """Each kind of damage to the bytes is noticed and named."""
        whole = self.fill()
        page = int.from_bytes(whole[16:18], "big")
        unnamed = whole.replace(b"pin_overrides", b"pin\xffoverrides").replace(b"TABLE", b"TAXXX")
        for damaged, reason in [
            (b"", "it is empty"),
            (whole[:60], "database disk image is malformed"),
            (b"\0" * 100 + whole[100:], "file is not a database"),
            (whole[:18] + b"\3" + whole[19:], "attempt to write a readonly database"),
            (unnamed, "it contains a name that is not text"),
            (whole[: 2 * page], "database disk image is malformed"),
            (whole[:-page] + b"\xff" * page, "*** in database main ***"),
        ]:
            shutil.rmtree(self.directory)
            self.directory.mkdir()
            self.path.write_bytes(damaged)

            assert self.begun_anew(damaged)[: len(reason)] == reason

    def test_foreign(self) -> None:
        """The database of another program is set aside unchanged."""
        self.directory.mkdir()
        foreign = self.change("CREATE TABLE letters (text)", "INSERT INTO letters VALUES ('dear')")

        assert "it is a database of another program" == self.begun_anew(foreign)

    def test_foreign_of_a_higher_version(self) -> None:
        """A database without any table of ours is not a newer cortexd's, whatever its version."""
        self.directory.mkdir()
        foreign = self.change("CREATE TABLE letters (text)", "PRAGMA user_version = 7")

        assert "it is a database of another program" == self.begun_anew(foreign)

    def test_wrong_tables(self) -> None:
        """A file whose tables are not those of its version is set aside."""
        for statement in ("DROP TABLE cordons", "ALTER TABLE journal RENAME COLUMN at TO time"):
            self.move()
            self.fill()
            damaged = self.change(statement)

            assert "its tables are not those of cortexd" == self.begun_anew(damaged)

    def test_wrong_values(self) -> None:
        """A value that its column does not allow is damage, found before anybody counts with it."""
        self.fill()
        damaged = self.change(
            "PRAGMA ignore_check_constraints = ON", "UPDATE learned_loads SET mean_mb = 'much'"
        )

        assert "CHECK constraint failed in learned_loads" == self.begun_anew(damaged)

    def test_additions(self) -> None:
        """What somebody has added to the file, such as an index, is no damage."""
        self.fill()
        self.change("CREATE INDEX extra ON journal (kind)", "ANALYZE")

        with capturedLogs() as events:
            assert frozenset({"gpu-2"}) == self.open().cordons()

        assert [] == names(events)

    def test_begun_and_killed(self) -> None:
        """A database that has no tables yet is one whose making was cut off: it is made whole."""
        self.directory.mkdir()
        self.change("PRAGMA journal_mode = WAL")

        with capturedLogs() as events:
            opened = self.open()

        opened.add_cordon("gpu-1")
        assert ([], frozenset({"gpu-1"})) == (names(events), self.reopened(opened).cordons())

    def test_companions(self) -> None:
        """The logs of a damaged file go with it, so that none is played into the fresh one."""
        self.fill()
        for suffix in ("-wal", "-shm", "-journal"):
            self.path.with_name(FILE_NAME + suffix).write_bytes(b"left behind")
        self.path.write_bytes(b"")

        self.begun_anew(b"")

        for suffix in ("-wal", "-shm", "-journal"):
            assert b"left behind" == (self.directory / (ASIDE + suffix)).read_bytes()

    def test_twice_in_a_second(self) -> None:
        """A second damaged file takes the next free name: the first is kept."""
        self.directory.mkdir()
        for text in (b"one", b"two"):
            self.path.write_bytes(text)
            self.open().close()

        found = {path.name: path.read_bytes() for path in self.directory.glob("*damaged*")}

        assert {ASIDE: b"one", f"{FILE_NAME}.damaged-1790000001": b"two"} == found

    def test_any_bytes(self) -> None:
        """Whatever a disk makes of the bytes, the daemon starts and has a store that works."""
        whole = self.fill()

        @some_examples
        @given(
            st.integers(0, 99) | st.integers(0, len(whole) - 1),
            st.binary(min_size=1, max_size=200),
            st.none() | st.integers(0, len(whole)),
        )
        def start(position: int, noise: bytes, length: int | None) -> None:
            shutil.rmtree(self.directory)
            self.directory.mkdir()
            damaged = whole[:position] + noise + whole[position + len(noise) :]
            self.path.write_bytes(damaged[:length])
            opened = self.open()
            assume(opened.unstored is None)  # the version of the file may have become a newer one
            opened.set_pin_override("gpu-7", "acme/tiny", False)
            number = opened.append(NOW, "load", "gpu-7", "acme/tiny", {"seconds": 1})
            (entry,) = opened.entries(number - 1, 10)
            again = self.reopened(opened)
            assert again.pin_overrides()["gpu-7", "acme/tiny"] is False
            assert [entry] == again.entries(number - 1, 10)
            assert {"seconds": 1} == entry.fields
            again.close()

        start()

    def test_broken_text(self) -> None:
        """Bits changed inside a text, which SQLite does not see, cost that text and no more."""
        self.fill()
        for statement in (
            "UPDATE journal SET fields = '{\"seconds\": ' WHERE number = 1",
            "UPDATE journal SET node = CAST(x'67ff70' AS TEXT) WHERE number = 2",
            "UPDATE journal SET fields = '[1]' WHERE number = 3",
        ):
            self.change(statement)

        entries = self.open().entries(0, 4)

        expected = [{"damaged": '{"seconds": '}, {"seconds": 1}, {"damaged": "[1]"}, {"seconds": 3}]
        assert expected == [entry.fields for entry in entries]
        assert "g\\xffp" == entries[1].node


class RefusalTests(StoreTestCase):
    def test_second_daemon(self) -> None:
        """A second daemon is refused, and told which process has the directory, until it ends."""
        opened = self.open()
        opened.add_cordon("gpu-1")

        refusal = self.refused()

        assert f"{self.directory}: another daemon (process {os.getpid()}) stores" in refusal
        assert "gateway.state_dir" in refusal
        assert frozenset({"gpu-1"}) == self.reopened(opened).cordons()


class FailedWriteTests(StoreTestCase):
    def fail_once_and_again(self, opened: Store) -> Sequence[LogEvent]:
        """Change something of each kind while the file cannot be written; return the log."""
        with capturedLogs() as events:
            opened.set_pin_override("gpu-1", "acme/thinker", True)
            opened.add_cordon("gpu-1")
            opened.add_cordon("gpu-2")
            opened.remove_cordon("gpu-1")
            opened.put_learned("gpu-1", "acme/thinker", LEARNED)
            assert [2, 3] == [opened.append(NOW, "load", None, "m", {"n": n}) for n in (2, 3)]
        return events

    def assert_all_there(self, opened: Store) -> None:
        assert {("gpu-1", "acme/thinker"): True} == opened.pin_overrides()
        assert frozenset({"gpu-2"}) == opened.cordons()
        assert {("gpu-1", "acme/thinker"): LEARNED} == opened.learned()
        assert 3 == opened.last_number
        assert [1, 2, 3] == [entry.number for entry in opened.entries(0, 10)]
        assert [3] == [entry.number for entry in opened.entries(2, 10)]
        assert [2] == [entry.number for entry in opened.entries(1, 1, "m")]
        assert [] == opened.entries(0, 10, "other")

    def test_kept_in_memory(self) -> None:
        """While the file cannot be written the changes count, and the log says it once."""
        opened = self.open()
        opened.append(NOW, "start", None, None, {})
        with held(self.directory):
            events = self.fail_once_and_again(opened)
            self.assert_all_there(opened)

            assert [(1,)] == rows(self.directory, "SELECT max(number) FROM journal")
        assert ["database is locked"] == reasons(events, "store_failed")

    def test_written_later(self) -> None:
        """The next change that can be written brings all that was missing, and the log says so."""
        opened = self.open()
        opened.append(NOW, "start", None, None, {})
        with held(self.directory):
            self.fail_once_and_again(opened)
        with capturedLogs() as events:
            opened.add_cordon("gpu-2")
            opened.add_cordon("gpu-2")

        assert ["store_writes_again"] == names(events)
        self.assert_all_there(self.reopened(opened))

    def test_written_at_the_end(self) -> None:
        """What is missing is written when the store is closed."""
        opened = self.open()
        opened.append(NOW, "start", None, None, {})
        with held(self.directory):
            self.fail_once_and_again(opened)

        self.assert_all_there(self.reopened(opened))

    def test_said_again(self) -> None:
        """A failure that comes back after the file could be written is said again."""
        opened = self.open()
        for _ in range(2):
            with held(self.directory), capturedLogs() as events:
                opened.add_cordon("gpu-1")
            opened.add_cordon("gpu-2")

            assert ["database is locked"] == reasons(events, "store_failed")

    def lose(self, lose: Callable[[], object], reason: str) -> None:
        opened = self.open()
        opened.append(NOW, "start", None, None, {})
        lose()

        events = self.fail_once_and_again(opened)

        assert [reason] == reasons(events, "store_failed")
        self.assert_all_there(opened)
        with capturedLogs() as later:
            opened.close()
        assert [] == names(later)

    def test_removed_file(self) -> None:
        """A file that has been removed is noticed, though SQLite goes on writing into it."""
        self.lose(self.path.unlink, "No such file or directory")

    def test_replaced_file(self) -> None:
        """A file put in the place of ours is noticed, and not written."""

        def replace() -> None:
            self.path.rename(self.directory / "moved")
            self.path.write_bytes(b"mine")

        self.lose(replace, "it was replaced by another file")
        assert b"mine" == self.path.read_bytes()

    def test_bounded(self) -> None:
        """Of entries that cannot be written the newest are kept, so that memory does not fill."""
        opened = self.open()
        self.path.unlink()
        opened.add_cordon("gpu-1")
        with capturedLogs() as events:
            for _ in range(UNWRITTEN_ENTRIES + 10):
                opened.append(NOW, "load", None, None, {})

        numbers = [entry.number for entry in opened.entries(0, JOURNAL_ROWS)]

        assert list(range(11, UNWRITTEN_ENTRIES + 11)) == numbers
        assert frozenset({"gpu-1"}) == opened.cordons()
        assert [] == names(events)

    def test_unreadable_journal(self) -> None:
        """A journal that breaks under a running daemon reads as empty, and the log says why."""
        opened = self.open()
        for _ in range(100):
            opened.append(NOW, "load", None, "m" * 100, {})
        opened.close()
        opened = self.open()
        whole = self.path.read_bytes()
        with self.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (len(whole) - 4096))
        # The checks have read the file; this process is not to remember it.
        opened._file._connection.execute("PRAGMA shrink_memory")
        with capturedLogs() as events:
            assert [[], []] == [opened.entries(0, 1000), opened.entries(0, 1000, "m" * 100)]

        assert ["database disk image is malformed"] == reasons(events, "store_failed")
