"""The SQLite files of the store: opening, checks, migrations, atomic writes.

The file uses WAL with synchronous=NORMAL. A kill loses at most the write in progress, and a power
failure the last writes before it; neither damages the file (sqlite.org, "Write-Ahead Logging" and
"PRAGMA synchronous"). Opening with all checks takes 5 ms.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cortexd.logs import get_logger

FILE_NAME: Final = "cortexd.sqlite3"
LOCK_NAME: Final = "cortexd.lock"

# Another program may lock the file. The start can wait for it, a running reactor cannot.
OPENING_SECONDS: Final = 5.0
BUSY_MILLISECONDS: Final = 20

# Each migration updates a file of the version that equals its index to the next version. A released
# migration is never changed: every change is a new migration.
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
    (
        """CREATE TABLE abilities (
            node TEXT NOT NULL,
            model TEXT NOT NULL,
            build TEXT NOT NULL,
            learned TEXT NOT NULL,
            PRIMARY KEY (node, model)
        ) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE listed (
            node TEXT NOT NULL,
            model TEXT NOT NULL,
            base TEXT,
            last_used_at REAL NOT NULL CHECK (typeof(last_used_at) = 'real'),
            PRIMARY KEY (node, model)
        ) WITHOUT ROWID""",
        """CREATE TABLE demands (
            model TEXT NOT NULL PRIMARY KEY,
            times TEXT NOT NULL
        ) WITHOUT ROWID""",
    ),
    tuple(
        f"""CREATE TABLE usage_{span}s (
            {span} INTEGER NOT NULL CHECK (typeof({span}) = 'integer'),
            key TEXT NOT NULL,
            requests INTEGER NOT NULL CHECK (typeof(requests) = 'integer'),
            prompt_tokens INTEGER NOT NULL CHECK (typeof(prompt_tokens) = 'integer'),
            completion_tokens INTEGER NOT NULL CHECK (typeof(completion_tokens) = 'integer'),
            uncounted_tokens INTEGER NOT NULL CHECK (typeof(uncounted_tokens) = 'integer'),
            gpu_seconds REAL NOT NULL CHECK (typeof(gpu_seconds) = 'real'),
            load_seconds REAL NOT NULL CHECK (typeof(load_seconds) = 'real'),
            loads REAL NOT NULL CHECK (typeof(loads) = 'real'),
            PRIMARY KEY ({span}, key)
        ) WITHOUT ROWID"""
        for span in ("hour", "day")
    ),
    (
        """CREATE TABLE load_times (
            node TEXT NOT NULL,
            model TEXT NOT NULL,
            cold INTEGER NOT NULL CHECK (typeof(cold) = 'integer'),
            cold_mean REAL NOT NULL CHECK (typeof(cold_mean) = 'real'),
            cold_variance REAL NOT NULL CHECK (typeof(cold_variance) = 'real'),
            warm INTEGER NOT NULL CHECK (typeof(warm) = 'integer'),
            warm_mean REAL NOT NULL CHECK (typeof(warm_mean) = 'real'),
            warm_variance REAL NOT NULL CHECK (typeof(warm_variance) = 'real'),
            process INTEGER,
            PRIMARY KEY (node, model)
        ) WITHOUT ROWID""",
    ),
    ("ALTER TABLE demands ADD COLUMN heat TEXT",),
)

# Damage can make a version of any size. We take only this many above ours for a newer cortexd's.
MOST_LATER_VERSIONS: Final = 100

# SQLite's result codes for a file that is readable but does not have the expected content.
DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
)

Statement = tuple[str, tuple[Any, ...]]
"""An SQL statement and its values."""

log = get_logger("cortexd.store")


class StoreError(Exception):
    """Raised when the state cannot be stored; the message is one line for the operator.

    ``reason`` is the part of it that the system or SQLite reports.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StateInUseError(StoreError):
    """Raised when another daemon stores its state in the same directory."""


class NewerFileError(sqlite3.DatabaseError):
    """Raised for a file that a newer version of cortexd has written; it is left as it is."""


class DamageError(Exception):
    """Raised for a file that this version cannot have written; the message says why."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its name, its migrations, and the words for what is lost with its damage.

    A file that ``checks_all`` of its pages when it is opened must be small.
    """

    name: str
    migrations: Sequence[Sequence[str]]
    advice: str
    checks_all: bool = True


def state_format() -> Format:
    """Return the format of the file with the small state of the daemon."""
    advice = "pins, cordons, footprints and the journal start empty"
    return Format(FILE_NAME, MIGRATIONS, advice)


class Database:
    """A SQLite file of a ``form`` in ``directory``, open in the thread that made this object.

    ``read`` gets the connection, and reads the state that is needed from the start. A file that is
    damaged or foreign is renamed to ``<name>.damaged-<now>`` and logged; ``read`` is then called
    again for a new file. ``now`` is in Unix seconds. If another program locks the file, the opening
    waits for it for ``patience`` seconds, by default OPENING_SECONDS. Raises OSError or
    sqlite3.Error if the file cannot be written, such as NewerFileError for one of a newer version.
    """

    def __init__(
        self,
        directory: Path,
        now: float,
        read: Callable[[sqlite3.Connection], None],
        form: Format,
        patience: float | None = None,
    ) -> None:
        self.path = directory / form.name
        self._form = form
        patience = OPENING_SECONDS if patience is None else patience
        try:
            self._open(read, patience)
        except DamageError as damage:
            _set_aside(self.path, int(now), str(damage), form.advice)
            try:
                self._open(read, patience)
            except DamageError as again:
                raise sqlite3.DatabaseError(str(again)) from None

    def _open(self, read: Callable[[sqlite3.Connection], None], patience: float) -> None:
        """Open the file and read its tables, or raise DamageError, OSError or sqlite3.Error."""
        is_new = _make_private_file(self.path)
        self._connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            _prepare(self._connection, self._form)
            read(self._connection)
        except BaseException as error:
            self._connection.close()
            if is_new:
                _remove_empty(self.path)
            if isinstance(error, UnicodeDecodeError):  # from the decoding of SQLite's own message
                raise DamageError("it contains a name that is not text") from None
            if _is_damage(error):
                raise DamageError(str(error)) from None
            raise
        self._inode = _inode(self.path)

    def write(self, statements: Iterable[Statement]) -> None:
        """Execute all of the statements or none. Raises OSError or sqlite3.Error."""
        # SQLite silently continues to write into a removed file.
        if _inode(self.path) != self._inode:
            raise OSError(errno.ESTALE, "it was replaced by another file")
        self._execute(statements)

    def _execute(self, statements: Iterable[Statement]) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in statements:
                self._connection.execute(statement, values)

    def read(self, read: Callable[[sqlite3.Connection], None]) -> None:
        """Call ``read`` once more, after changes that it has not seen. Raises sqlite3.Error."""
        read(self._connection)

    def rows(self, query: Statement) -> list[Any]:
        """Return the rows of a query. Raises sqlite3.Error."""
        return self._connection.execute(*query).fetchall()

    def checkpoint(self) -> None:
        """Write the write-ahead log into the file. Raises sqlite3.Error."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def set_aside(self, now: float, reason: str) -> None:
        """Close a file that proved damaged, and rename it as at the opening."""
        self._connection.close()
        _set_aside(self.path, int(now), reason, self._form.advice)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class DirectoryLock:
    """Locks a directory for this daemon, until ``release`` or the end of the process.

    Take it after twistd has forked. It is a lock of the kernel, so that no file left behind by a
    killed daemon counts, whatever process has its id now.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1

    def take(self) -> None:
        """Take the lock unless this object has it. Raises StateInUseError, or OSError."""
        if self._descriptor < 0:
            self._descriptor = _take_lock(self._directory)

    def release(self) -> None:
        """Release the lock if this object has it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_state(
    directory: Path,
    lock: DirectoryLock,
    now: float,
    read: Callable[[sqlite3.Connection], None],
    patience: float | None = None,
) -> Database:
    """Take the lock of the directory, and open the state in it; arguments as those of ``Database``.

    The directory is created with access for its user only, if missing. Raises StoreError if the
    file cannot be written; that keeps the lock if it could be taken. Raises StateInUseError if
    another daemon uses the directory.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.take()
        return Database(directory, now, read, state_format(), patience)
    except (OSError, sqlite3.Error) as error:
        reason = reason_of(error)
        advice = (
            "install the newer version again, or move the file away"
            if isinstance(error, NewerFileError)
            else "free space, give this user write permission, or set gateway.state_dir to another "
            "directory"
        )
        raise StoreError(
            f"{directory / FILE_NAME}: the daemon cannot store its state here: {reason}; {advice}",
            reason,
        ) from None


def reason_of(error: Exception) -> str:
    """Return why the file failed, as the system or SQLite reports it."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _take_lock(directory: Path) -> int:
    """Return the descriptor that locks the directory until it is closed or the process ends.

    Raises StateInUseError with the process that has the lock.
    """
    path = directory / LOCK_NAME
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        # On a disk that is read-only now, the lock of a running daemon still counts.
        try:
            lock = os.open(path, os.O_RDONLY)
        except OSError:
            raise error from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        reason = f"another daemon{holder and f' (process {holder})'} stores its state here"
        raise StateInUseError(
            f"{directory}: {reason}; stop it, or set gateway.state_dir of one of the two to "
            "another directory",
            reason,
        ) from None
    except BaseException:
        os.close(lock)
        raise
    with suppress(OSError):  # the id is only for people, and a full disk has no room for it
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _set_aside(path: Path, seconds: int, reason: str, advice: str) -> None:
    """Rename the file and the files that belong to it, to an unused name, and log it."""
    while (aside := path.with_name(f"{path.name}.damaged-{seconds}")).exists():
        seconds += 1
    # The main file comes last: SQLite would apply a leftover log to a new file.
    for suffix in ("-journal", "-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    log.error(
        "store_damaged",
        path=str(path),
        reason=reason,
        set_aside=str(aside),
        advice=advice,
    )


def _is_damage(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", -1)
    # A bare SQLITE_READONLY comes from the header: we have already checked that the file is
    # writable. In other codes the low byte is the kind: sqlite.org, "Result and Error Codes".
    return code == sqlite3.SQLITE_READONLY or code & 0xFF in DAMAGE


def _make_private_file(path: Path) -> bool:
    """Create the file if it is missing; check that it is writable, and only by its user.

    Return whether it was missing. Call it while no connection is open: closing a descriptor
    releases SQLite's own locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(path, os.O_RDWR)
        try:
            if os.fstat(descriptor).st_size == 0:
                raise DamageError("it is empty") from None
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        return False
    os.close(descriptor)
    return True


def _remove_empty(path: Path) -> None:
    """Remove a file that could be created but not filled: the next opening would call it damaged.

    A full disk leaves such a file.
    """
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def text_of(raw: bytes) -> str:
    """Decode a text of the file; damaged bytes become escapes instead of an error."""
    return raw.decode("utf-8", "backslashreplace")


def _prepare(connection: sqlite3.Connection, form: Format) -> None:
    """Check a file before changing it, then migrate it to this version.

    Raises DamageError if it is damaged or foreign, NewerFileError, and sqlite3.Error.
    """
    connection.text_factory = text_of
    newest = len(form.migrations)
    check(connection, form)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    migrate(connection, form.migrations)
    if not _schema(form.migrations) <= _schema_of(connection):
        raise DamageError("its tables are not those of cortexd")
    # Write the version even if it is unchanged: if the header forbids writing, this fails now.
    connection.execute(f"PRAGMA user_version = {newest}")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")


def check(connection: sqlite3.Connection, form: Format) -> None:
    """Check a file that this version is to use; raises as ``_prepare``, and changes nothing."""
    version, newest = _version(connection), len(form.migrations)
    words = f"its version is {version}, but this cortexd knows only up to {newest}"
    if not 0 <= version <= newest + MOST_LATER_VERSIONS:
        raise DamageError(words)
    names = {name for name, _ in _schema_of(connection)}
    own = {name for name, _ in _schema(form.migrations)}
    if (version == 0 and names) or (version > newest and not names & own):
        raise DamageError("it is a database of another program")
    if form.checks_all:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise DamageError(" ".join(found.split()))
    if version > newest:
        raise NewerFileError(words)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Migrate the tables to the newest version, each step atomically."""
    for version, statements in enumerate(migrations, start=1):
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


def _schema(migrations: Sequence[Sequence[str]]) -> frozenset[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, migrations)
        return _schema_of(connection)
