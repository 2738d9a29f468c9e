"""The file of the stored responses: its chains, its limits, and its damage."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.store.file import NewerFileError
from cortexd.store.response_file import (
    FILE_NAME,
    MIGRATIONS,
    Limits,
    ResponseFile,
    StoredResponse,
)
from tests.support.stores import NOW, mode, reasons, without_privileges

DAY = 86_400.0
ROOMY = Limits(30 * DAY, 1_000_000)


def stored(
    name: str, previous: str | None = None, *, at: float = NOW, size: int = 100
) -> StoredResponse:
    return StoredResponse(name, previous, "acme/chat", at, at, b"r" * (size - 10), b"i" * 10)


class FileTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.path = self.directory / FILE_NAME

    def open(self, limits: Limits = ROOMY) -> ResponseFile:
        opened = ResponseFile(self.directory, limits)
        self.addCleanup(opened.close)
        return opened

    def names(self, opened: ResponseFile, *names: str, now: float = NOW) -> list[str]:
        """Return those of the names that the file has."""
        return [name for name in names if opened.get(name, now) is not None]


class ChainTests(FileTestCase):
    def test_a_response_comes_back_whole(self) -> None:
        """All fields of it, from another daemon too, in a file for its user only."""
        opened = self.open()
        first = stored("resp_1")
        second = stored("resp_2", "resp_1", size=300)
        opened.write([first, second], (), (), NOW)
        opened.close()

        again = self.open()
        assert second == again.get("resp_2", NOW)
        assert [first, second] == again.chain("resp_2", NOW)
        assert None is again.get("resp_3", NOW)
        assert [] == again.chain("resp_3", NOW)
        assert 0o600 == mode(self.path)

    def test_a_later_state_replaces_the_earlier(self) -> None:
        """Under its id there is one response, the last that was put."""
        opened = self.open()
        opened.write([stored("resp_1")], (), (), NOW)
        later = stored("resp_1", size=500)
        opened.write([later], (), (), NOW)

        assert later == opened.get("resp_1", NOW)
        with closing(sqlite3.connect(self.path)) as connection:
            assert [(1,)] == connection.execute("SELECT count(*) FROM bodies").fetchall()

    def test_a_deleted_one_leaves_a_gap(self) -> None:
        """The chain begins after it, and its words are not in the file any more."""
        opened = self.open()
        secret = StoredResponse("resp_2", "resp_1", "m", NOW, NOW, b"a secret word", b"[]")
        opened.write([stored("resp_1"), secret, stored("resp_3", "resp_2")], (), (), NOW)
        opened.write([], ["resp_2"], (), NOW)

        assert ["resp_3"] == [each.id for each in opened.chain("resp_3", NOW)]
        opened.close()
        assert b"secret" not in self.path.read_bytes()

    def test_a_circle_ends(self) -> None:
        """A damaged file may claim that a response continues itself."""
        opened = self.open()
        opened.write([stored("resp_1", "resp_1", size=11)], (), (), NOW)

        assert {"resp_1"} == {each.id for each in opened.chain("resp_1", NOW)}


class LimitTests(FileTestCase):
    def test_age_counts_from_the_last_use(self) -> None:
        """A response that is continued stays, with all that it continues itself."""
        opened = self.open(Limits(30 * DAY, 1_000_000))
        opened.write([stored("idle"), stored("used")], (), (), NOW)
        opened.write([], (), ["used"], NOW + 20 * DAY)
        later = NOW + 30 * DAY

        assert ["used"] == self.names(opened, "idle", "used", now=later), "even before a write"
        opened.write([], (), (), later)
        assert ["used"] == self.names(opened, "idle", "used")

    def test_size_makes_the_oldest_go_first(self) -> None:
        """As many as needed, and no more."""
        opened = self.open(Limits(30 * DAY, 250))
        opened.write([stored("one", at=NOW - 3), stored("two", at=NOW - 2)], (), (), NOW)
        opened.write([stored("three", at=NOW - 1)], (), (), NOW)

        assert ["two", "three"] == self.names(opened, "one", "two", "three")

    def test_lower_limits_hold_from_the_next_start(self) -> None:
        """The first write brings a file of another configuration under them."""
        opened = self.open()
        opened.write([stored(f"resp_{n}", at=NOW + n) for n in range(5)], (), (), NOW)
        opened.close()

        again = self.open(Limits(30 * DAY, 200))
        again.write([], (), (), NOW)
        assert ["resp_3", "resp_4"] == self.names(again, *(f"resp_{n}" for n in range(5)))


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "use", "delete", "wait"]),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.integers(min_value=1, max_value=60),
    ),
    max_size=20,
)


class EvictionTests(FileTestCase):
    @settings(max_examples=40, deadline=None)
    @given(steps)
    def test_the_file_has_what_the_limits_leave(self, steps: list[tuple[str, str, int]]) -> None:
        """After each write: nothing over the age, at most the size, and always the newest used."""
        limits = Limits(100.0, 120)
        self.path.unlink(missing_ok=True)
        opened = ResponseFile(self.directory, limits)
        expected: dict[str, tuple[float, int, int]] = {}  # the last use, the order, the size
        now = NOW
        for order, (step, name, number) in enumerate(steps):
            now += 1
            match step:
                case "put":
                    size = number + 10
                    known = expected.get(name)
                    opened.write([stored(name, at=now, size=size)], (), (), now)
                    expected[name] = (now, known[1] if known else order, size)
                case "use":
                    opened.write([], (), [name], now)
                    if name in expected:
                        expected[name] = (now, *expected[name][1:])
                case "delete":
                    opened.write([], [name], (), now)
                    expected.pop(name, None)
                case "wait":
                    now += number
                    opened.write([], (), (), now)
            expected = {
                key: value for key, value in expected.items() if value[0] > now - limits.max_age
            }
            while sum(size for _, _, size in expected.values()) > limits.max_bytes:
                del expected[min(expected, key=lambda key: expected[key])]
            assert sorted(expected) == self.names(opened, *"abcde", now=now)
        opened.close()


class DamageTests(FileTestCase):
    def test_damage_is_set_aside_whenever_it_is_noticed(self) -> None:
        """At a read or a write in mid-life; an empty file takes its place, and the log says so."""
        opened = self.open()
        opened.write([stored(f"resp_{n}", size=5_000) for n in range(50)], (), (), NOW)
        opened.close()
        page = 4096
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[:page] + b"\xff" * (len(whole) - page))

        with capturedLogs() as events:
            assert None is self.open().get("resp_1", NOW)
        assert 1 == len(reasons(events, "store_damaged"))
        assert (self.directory / f"{FILE_NAME}.damaged-1790000000").exists()
        again = self.open()
        again.write([stored("resp_9")], (), (), NOW)
        assert ["resp_9"] == self.names(again, "resp_1", "resp_9")

    def test_a_file_that_is_no_database(self) -> None:
        """It is set aside when it is opened."""
        self.path.write_bytes(b"not a database at all" * 100)
        with capturedLogs() as events:
            self.open().write([stored("resp_1")], (), (), NOW)

        assert ["file is not a database"] == reasons(events, "store_damaged")


class UnusableTests(FileTestCase):
    def fill(self) -> None:
        opened = self.open()
        opened.write([stored("resp_1"), stored("resp_2", "resp_1")], (), (), NOW)
        opened.close()

    def test_a_newer_version(self) -> None:
        """The file of a newer version is read as far as this one can, and never written."""
        self.fill()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        before = self.path.read_bytes()

        opened = self.open()
        with self.assertRaises(NewerFileError):
            opened.write([stored("resp_3")], (), (), NOW)
        assert ["resp_1", "resp_2"] == [each.id for each in opened.chain("resp_2", NOW)]
        assert [] == self.names(opened, "resp_3")
        assert (before, [self.path]) == (self.path.read_bytes(), list(self.directory.iterdir()))

    def test_a_read_only_disk(self) -> None:
        """What can be read is read. A file that is missing may come back, and is an error."""
        self.fill()
        self.directory.chmod(0o555)
        self.path.chmod(0o444)
        with without_privileges():
            opened = self.open()
            with self.assertRaises(PermissionError):
                opened.write([stored("resp_3")], (), (), NOW)
            assert ["resp_1"] == self.names(opened, "resp_1", "resp_3")
        self.path.unlink()
        with without_privileges(), self.assertRaises(PermissionError):
            opened.get("resp_1", NOW)
