"""What outlives the daemon: one SQLite file in the state directory.

The operator's pins and cordons, what loads have taught, and a bounded journal of what was done to
the fleet. The small tables are read once, at the opening, and are in memory from then on: a change
goes to memory and to the file. Where the file cannot be written the change waits in memory for the
next one, so that a disk that was full for a while costs nothing.

Everything runs in the thread that opened the store, which is the reactor's, so each call is short.
Measured on two shared cores and a virtual disk with the journal full: a change takes 15 us, an
entry 30 us (p99 85 us); one call in 400 puts the write-ahead log into the file, with two fsyncs, or
trims the journal, which took 6 ms at the worst of 60,000 and takes as long as the disk's fsyncs do.
A page of 100 entries takes 0.35 ms, of one model's too. Opening with all checks takes 5 ms.

WAL with synchronous=NORMAL: a killed process loses at most the write it was in, a machine without
power the last ones before, and neither harms the file (sqlite.org, "Write-Ahead Logging" and
"PRAGMA synchronous").
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from cortexd.footprints import LearnedLoad
from cortexd.logs import get_logger, redacted

FILE_NAME: Final = "cortexd.sqlite3"
LOCK_NAME: Final = "cortexd.lock"

JOURNAL_ROWS: Final = 10_000
"""The most entries that the journal keeps: some 2 MB."""

TRIMMED_ROWS: Final = 500
"""How many of the oldest entries go at once when the journal is full."""

UNWRITTEN_ENTRIES: Final = 1_000
"""How many entries of the journal wait in memory while the file cannot be written."""

# Another program may hold the file. The start has time to wait, a running reactor has not.
OPENING_SECONDS: Final = 5.0
BUSY_MILLISECONDS: Final = 20

# Each makes a file of the version before, which is its place in the list, into one of the next.
# What has been released is never changed: a change is a new migration.
MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """CREATE TABLE pin_overrides (
            node TEXT NOT NULL,
            model TEXT NOT NULL,
            pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
            PRIMARY KEY (node, model)
        ) WITHOUT ROWID""",
        "CREATE TABLE cordons (node TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",
        """CREATE TABLE learned_loads (
            node TEXT NOT NULL,
            model TEXT NOT NULL,
            footprints INTEGER NOT NULL CHECK (typeof(footprints) = 'integer'),
            mean_mb REAL NOT NULL CHECK (typeof(mean_mb) = 'real'),
            m2_mb REAL NOT NULL CHECK (typeof(m2_mb) = 'real'),
            loads INTEGER NOT NULL CHECK (typeof(loads) = 'integer'),
            mean_seconds REAL NOT NULL CHECK (typeof(mean_seconds) = 'real'),
            PRIMARY KEY (node, model)
        ) WITHOUT ROWID""",
        """CREATE TABLE journal (
            number INTEGER PRIMARY KEY,
            at REAL NOT NULL CHECK (typeof(at) = 'real'),
            kind TEXT NOT NULL,
            node TEXT,
            model TEXT,
            fields TEXT NOT NULL
        )""",
        "CREATE INDEX journal_by_model ON journal (model)",
    ),
)

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

# What SQLite says of a file that it can read and that is not what it should be.
DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
)

log = get_logger("cortexd.store")


class StoreError(Exception):
    """Raised when the state cannot be kept at all; its text is one line for the operator."""


class _DamageError(Exception):
    """Raised for a file that cannot be what this version has written; its text says why."""


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
    """The daemon's memory in ``directory``, which is made, for its user alone, where it is missing.

    A file there that is damaged, foreign or of a newer version is set aside as
    ``cortexd.sqlite3.damaged-<now>``, which the log says, and a fresh one is begun; ``now`` is in
    Unix seconds. Raises StoreError where nothing can be written, and where another daemon has
    the directory. To be made once the process is the daemon: neither the lock nor a connection of
    SQLite may go through a fork.

    Methods do not raise where the file cannot be written or read: that is logged once for each
    kind of failure, the change stays in memory, and the next change tries again to write all that
    is missing. While another program holds the file, each change waits for it for 20 ms. After
    ``close`` nothing but ``close`` may be called.
    """

    def __init__(self, directory: Path, now: float) -> None:
        self._path = directory / FILE_NAME
        self._unwritten: dict[tuple[str, ...], tuple[str, tuple[Any, ...]]] = {}
        self._failures: set[str] = set()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _take_lock(directory)
            try:
                try:
                    self._open()
                except _DamageError as damage:
                    _set_aside(self._path, int(now), str(damage))
                    self._open()
            except BaseException:
                os.close(self._lock)
                raise
        except (OSError, sqlite3.Error, _DamageError) as error:
            raise StoreError(
                f"{self._path}: the daemon's state cannot be kept here: {_reason(error)}; free "
                "space, allow this user to write there, or set gateway.state_dir to another place"
            ) from None

    def _open(self) -> None:
        """Open the file and read its tables, or raise _DamageError, OSError or sqlite3.Error."""
        _make_private_file(self._path)
        self._connection = sqlite3.connect(
            self._path, timeout=OPENING_SECONDS, isolation_level=None
        )
        try:
            _prepare(self._connection)
            self._read()
        except BaseException as error:
            self._connection.close()
            if isinstance(error, UnicodeDecodeError):  # of SQLite's own words about it
                raise _DamageError("a name in it is no text") from None
            if _is_damage(error):
                raise _DamageError(str(error)) from None
            raise
        self._inode = _inode(self._path)

    def _read(self) -> None:
        read = self._connection.execute
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
        query: tuple[str, tuple[Any, ...]] = (SELECT_ENTRIES, (after, limit))
        if model is not None:
            query = (SELECT_ENTRIES_OF_MODEL, (model, after, limit))
        try:
            rows = self._connection.execute(*query).fetchall()
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
        if self._lock < 0:
            return
        try:
            if self._unwritten:
                self._write_all()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (OSError, sqlite3.DatabaseError) as error:
            self._note_failure(error)
        finally:
            self._connection.close()
            os.close(self._lock)
            self._lock = -1

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
        # SQLite goes on writing into a file that has been removed, without a word.
        if _inode(self._path) != self._inode:
            raise OSError(errno.ESTALE, "another file has been put in its place")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in self._unwritten.values():
                self._connection.execute(statement, values)
        if self._failures:
            log.info("store_writes_again", path=str(self._path), changes=len(self._unwritten))
            self._failures.clear()
        self._unwritten.clear()

    def _note_failure(self, error: Exception) -> None:
        kind = _kind(error)
        if kind not in self._failures:
            self._failures.add(kind)
            log.error(
                "store_failed",
                path=str(self._path),
                reason=_reason(error),
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


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _kind(error: Exception) -> str:
    """Return the name of a failure in SQLite or in the system, such as SQLITE_FULL or ENOENT."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _is_of_the_file(error: Exception) -> bool:
    """Tell whether the file is at fault, and not what was asked of it."""
    mistakes = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
    return isinstance(error, OSError | sqlite3.DatabaseError) and not isinstance(error, mistakes)


# ---------------------------------------------------------------------- opening


def _take_lock(directory: Path) -> int:
    """Return the descriptor that holds the directory until it is closed or the process ends.

    Raises StoreError, naming the process that holds it.
    """
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise StoreError(
            f"{directory}: another daemon{holder and f' (process {holder})'} keeps its state "
            "here; stop it, or set gateway.state_dir to another place for one of the two"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _set_aside(path: Path, seconds: int, reason: str) -> None:
    """Rename the file and what belongs to it, under a name that is free, and say so in the log."""
    while (aside := path.with_name(f"{path.name}.damaged-{seconds}")).exists():
        seconds += 1
    # The file goes last: left alone, SQLite would take a log beside a fresh file for that one's.
    for suffix in ("-journal", "-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    log.error(
        "store_damaged",
        path=str(path),
        reason=reason,
        set_aside=str(aside),
        advice="pins, cordons, footprints and journal begin anew",
    )


def _is_damage(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", -1)
    # A bare SQLITE_READONLY comes from the header: that the file can be written was seen before.
    # Else the low byte is the kind, the rest says more of it: sqlite.org, "Result and Error Codes".
    return code == sqlite3.SQLITE_READONLY or code & 0xFF in DAMAGE


def _make_private_file(path: Path) -> None:
    """Make the file where it is missing, and see that it can be written and only by its user.

    To be done while no connection is open: closing a descriptor drops SQLite's own locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(path, os.O_RDWR)
        try:
            if os.fstat(descriptor).st_size == 0:
                raise _DamageError("it is empty") from None
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    else:
        os.close(descriptor)


def _text(raw: bytes) -> str:
    """Decode a text of the file; bits that have changed show as escapes instead of failing."""
    return raw.decode("utf-8", "backslashreplace")


def _prepare(connection: sqlite3.Connection) -> None:
    """Check a file before anything in it is changed, and bring it to this version.

    Raises _DamageError for one that is broken, foreign or newer, and sqlite3.Error.
    """
    connection.text_factory = _text
    version = _version(connection)
    if not 0 <= version <= len(MIGRATIONS):
        raise _DamageError(
            f"its version is {version}, and this cortexd knows those up to {len(MIGRATIONS)}"
        )
    if version == 0 and _schema_of(connection):
        raise _DamageError("it is the database of another program")
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _DamageError(" ".join(found.split()))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    _migrate(connection)
    if not _schema() <= _schema_of(connection):
        raise _DamageError("its tables are not those of a cortexd")
    # Written though it is there: what forbids writing, such as the header, is to be seen now.
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version, each step whole or not at all."""
    for version, statements in enumerate(MIGRATIONS, start=1):
        if version > _version(connection):
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _schema_of(connection: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Return the name and the definition of each table and index."""
    return frozenset(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOTNULL"))


def _schema() -> frozenset[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _migrate(connection)
        return _schema_of(connection)
