"""What outlives the daemon: one SQLite file in the state directory.

The operator's pins and cordons, what loads have taught, and a bounded journal of what was done to
the fleet. The small tables are read once, at the opening, and are in memory from then on: a change
goes to memory and to the file. Where the file cannot be written the change waits in memory for the
next one, so that a disk that was full for a while costs nothing.

Everything runs in the thread that opened the store, which is the reactor's, so each call is short.
Measured on two shared cores and a virtual disk with the journal full: a change takes 15 us, an
entry 30 us (p99 85 us); one call in 400 puts the write-ahead log into the file, with two fsyncs, or
trims the journal, which took 6 ms at the worst of 60,000 and takes as long as the disk's fsyncs do.
A page of 100 entries takes 0.35 ms, of one model's too.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from cortexd.fleet.footprints import LearnedLoad
from cortexd.logs import get_logger, redacted
from cortexd.store.file import Statement, StoreFile, reason_of

JOURNAL_ROWS: Final = 10_000
"""The most entries that the journal keeps: some 2 MB."""

TRIMMED_ROWS: Final = 500
"""How many of the oldest entries go at once when the journal is full."""

UNWRITTEN_ENTRIES: Final = 1_000
"""How many entries of the journal wait in memory while the file cannot be written."""

PUT_PIN_OVERRIDE: Final = "INSERT OR REPLACE INTO pin_overrides VALUES (?, ?, ?)"
PUT_CORDON: Final = "INSERT OR REPLACE INTO cordons VALUES (?)"
DELETE_CORDON: Final = "DELETE FROM cordons WHERE node = ?"
PUT_LEARNED: Final = "INSERT OR REPLACE INTO learned_loads VALUES (?, ?, ?, ?, ?, ?, ?)"
PUT_ENTRY: Final = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
TRIM_JOURNAL: Final = "DELETE FROM journal WHERE number <= ?"
SELECT_ENTRIES: Final = "SELECT * FROM journal WHERE number > ? ORDER BY number LIMIT ?"
SELECT_ENTRIES_OF_MODEL: Final = (
    "SELECT * FROM journal WHERE model = ? AND number > ? ORDER BY number LIMIT ?"
)

log = get_logger("cortexd.store")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One thing done to the fleet: ``at`` in Unix seconds, ``fields`` as JSON brings them back.

    ``number`` counts up from 1 in the order of writing; a missing one could not be written. Where
    the text of the fields is broken in the file, they have it under ``damaged``.
    """

    number: int
    at: float
    kind: str
    node: str | None
    model: str | None
    fields: Mapping[str, object]


class Store:
    """The daemon's memory in ``directory``, in a file that is as StoreFile says.

    ``now`` is in Unix seconds. Raises StoreError where nothing can be written, and where another
    daemon has the directory. To be made once the process is the daemon: neither the lock nor a
    connection of SQLite may go through a fork.

    Methods do not raise where the file cannot be written or read: that is logged once for each
    kind of failure, the change stays in memory, and the next change tries again to write all that
    is missing. While another program holds the file, each change waits for it for 20 ms. After
    ``close`` nothing but ``close`` may be called.
    """

    def __init__(self, directory: Path, now: float) -> None:
        self._unwritten: dict[tuple[str, ...], Statement] = {}
        self._failures: set[str] = set()
        self._file = StoreFile(directory, now, self._read)

    def _read(self, connection: sqlite3.Connection) -> None:
        read = connection.execute
        self._pin_overrides = {
            (node, model): bool(pinned)
            for node, model, pinned in read("SELECT * FROM pin_overrides")
        }
        self._cordons = {node for (node,) in read("SELECT * FROM cordons")}
        self._learned = {
            (node, model): LearnedLoad(*learned)
            for node, model, *learned in read("SELECT * FROM learned_loads")
        }
        first, last = read("SELECT min(number), max(number) FROM journal").fetchone()
        self._first_number: int = first or 1
        self._last_number: int = last or 0

    # ------------------------------------------------------------------ what the operator wants

    def pin_overrides(self) -> dict[tuple[str, str], bool]:
        """Return whether the operator has pinned or unpinned a model, by (node, model).

        A pair that is missing is as the configuration has it.
        """
        return dict(self._pin_overrides)

    def set_pin_override(self, node: str, model: str, pinned: bool) -> None:
        """Keep that the operator has pinned, or unpinned, a model on a node."""
        self._write(("pin", node, model), PUT_PIN_OVERRIDE, node, model, pinned)
        self._pin_overrides[node, model] = pinned

    def cordons(self) -> frozenset[str]:
        """Return the nodes that the operator gives no new work."""
        return frozenset(self._cordons)

    def add_cordon(self, node: str) -> None:
        """Keep that a node gets no new work."""
        self._write(("cordon", node), PUT_CORDON, node)
        self._cordons.add(node)

    def remove_cordon(self, node: str) -> None:
        """Keep that a node gets work again, which it may have had before."""
        self._write(("cordon", node), DELETE_CORDON, node)
        self._cordons.discard(node)

    # ------------------------------------------------------------------ what loads have taught

    def learned(self) -> dict[tuple[str, str], LearnedLoad]:
        """Return what loads have shown, by (node, model)."""
        return dict(self._learned)

    def put_learned(self, node: str, model: str, learned: LearnedLoad) -> None:
        """Keep what loads of a model on a node have shown, in place of what was kept before.

        Raises sqlite3.IntegrityError for a number that is none.
        """
        self._write(("learned", node, model), PUT_LEARNED, node, model, *astuple(learned))
        self._learned[node, model] = learned

    # ------------------------------------------------------------------ the journal

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 before the first."""
        return self._last_number

    def append(
        self,
        at: float,
        kind: str,
        node: str | None,
        model: str | None,
        fields: Mapping[str, object],
    ) -> int:
        """Write an entry and return its number; ``at`` in Unix seconds.

        The fields become plain data and lose what no log may hold: see ``logs.redacted``.
        """
        number = self._last_number + 1
        if number - self._first_number >= JOURNAL_ROWS:
            newest_to_go = number - JOURNAL_ROWS - 1 + TRIMMED_ROWS
            self._unwritten["trim",] = (TRIM_JOURNAL, (newest_to_go,))
            self._first_number = newest_to_go + 1
        text = json.dumps(redacted(fields), ensure_ascii=False, separators=(",", ":"))
        self._write(("entry", str(number)), PUT_ENTRY, number, at, kind, node, model, text)
        self._last_number = number
        return number

    def entries(self, after: int, limit: int, model: str | None = None) -> list[JournalEntry]:
        """Return at most ``limit`` entries with numbers above ``after``, the oldest first.

        With ``model`` only those of that model. Entries that could not be written yet are among
        them; those that cannot be read are not. An entry costs 4 us: ask for pages.
        """
        limit = max(0, limit)  # SQLite takes a negative one for none at all
        query: Statement = (SELECT_ENTRIES, (after, limit))
        if model is not None:
            query = (SELECT_ENTRIES_OF_MODEL, (model, after, limit))
        try:
            rows = self._file.rows(query)
        except sqlite3.DatabaseError as error:
            if not _is_of_the_file(error):
                raise
            self._note_failure(error)
            rows = []
        entries = [_entry(*row) for row in rows]
        # Numbers go up, and either all that is missing gets written or nothing.
        for statement, values in self._unwritten.values():
            if statement == PUT_ENTRY and len(entries) < limit:
                entry = _entry(*values)
                if entry.number > after and model in (None, entry.model):
                    entries.append(entry)
        return entries

    # ------------------------------------------------------------------ the file

    def close(self) -> None:
        """Write what is missing, put the write-ahead log into the file, and give up the lock."""
        if self._file.is_closed:
            return
        try:
            if self._unwritten:
                self._write_all()
            self._file.checkpoint()
        except (OSError, sqlite3.DatabaseError) as error:
            self._note_failure(error)
        finally:
            self._file.close()

    def _write(self, key: tuple[str, ...], statement: str, *values: Any) -> None:
        """Write a change, which ends any unwritten one of the same key, and all that is missing."""
        self._unwritten[key] = (statement, values)
        try:
            self._write_all()
        except Exception as error:
            if not _is_of_the_file(error):
                # Kept, it would fail every later write too.
                del self._unwritten[key]
                raise
            self._note_failure(error)
            self._forget_oldest_entry()

    def _write_all(self) -> None:
        self._file.write(self._unwritten.values())
        if self._failures:
            log.info("store_writes_again", path=str(self._file.path), changes=len(self._unwritten))
            self._failures.clear()
        self._unwritten.clear()

    def _note_failure(self, error: Exception) -> None:
        kind = _kind(error)
        if kind not in self._failures:
            self._failures.add(kind)
            log.error(
                "store_failed",
                path=str(self._file.path),
                reason=reason_of(error),
                kind=kind,
                advice="changes are kept in memory until they can be written; without that a "
                "restart of the daemon loses them",
            )

    def _forget_oldest_entry(self) -> None:
        waiting = [key for key in self._unwritten if key[0] == "entry"]
        if len(waiting) > UNWRITTEN_ENTRIES:
            del self._unwritten[waiting[0]]


def _entry(
    number: int, at: float, kind: str, node: str | None, model: str | None, text: str
) -> JournalEntry:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    # SQLite keeps no checksums: bits that have changed inside a text are seen by nobody else.
    return JournalEntry(
        number, at, kind, node, model, fields if isinstance(fields, dict) else {"damaged": text}
    )


def _kind(error: Exception) -> str:
    """Return the name of a failure in SQLite or in the system, such as SQLITE_FULL or ENOENT."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def _is_of_the_file(error: Exception) -> bool:
    """Tell whether the file is at fault, and not what was asked of it."""
    mistakes = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
    return isinstance(error, OSError | sqlite3.DatabaseError) and not isinstance(error, mistakes)
