"""The state in memory, for the time in which its file cannot be used.

A full or read-only disk, a missing permission, another program's lock or a file of a newer version
must not keep the daemon from serving. The memory starts with what the file contains, as far as that
can be read. Nothing is written into the file or beside it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cortexd.store.file import (
    BUSY_MILLISECONDS,
    DamageError,
    Database,
    Format,
    NewerFileError,
    Statement,
    check,
    migrate,
    reason_of,
    text_of,
)

T = TypeVar("T")


class SpareDatabase(Database):
    """A database in memory with the tables of ``form`` and with what its file could be read for.

    ``unread`` says why nothing could be read, None if all that this version knows was.
    """

    def __init__(
        self, directory: Path, read: Callable[[sqlite3.Connection], None], form: Format
    ) -> None:
        self.path = directory / form.name
        self._form = form
        self.unread: str | None = None
        try:
            self._connection = _copy(self.path, form)
            read(self._connection)
        except (OSError, sqlite3.Error, DamageError) as error:
            self.unread = reason_of(error)
            self._connection = _empty(form)
            read(self._connection)

    def write(self, statements: Iterable[Statement]) -> None:
        """Execute all of the statements or none. Raises sqlite3.Error."""
        self._execute(statements)

    def checkpoint(self) -> None:
        """Do nothing: there is no file."""


def rows_of(path: Path, query: Statement) -> list[Any]:
    """Return the rows of a query to a file that can only be read.

    Raises OSError or sqlite3.Error if it cannot be read.
    """

    def read(source: sqlite3.Connection) -> list[Any]:
        return source.execute(*query).fetchall()

    return _read(path, read)


def _memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = text_of
    return connection


def _empty(form: Format) -> sqlite3.Connection:
    connection = _memory()
    migrate(connection, form.migrations)
    return connection


def _copy(path: Path, form: Format) -> sqlite3.Connection:
    """Return a copy of the file in memory, in the form of this version.

    A file that is missing is as good as an empty one. Raises OSError, sqlite3.Error or DamageError
    if the file cannot be read.
    """
    if _is_missing(path):
        return _empty(form)
    return _read(path, partial(_copied, form=form))


def _is_missing(path: Path) -> bool:
    """Return whether there is no file. Raises OSError if this user may not know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _read(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """Return what ``read`` returns for the file, opened in one of the ways that work."""
    errors: list[sqlite3.Error] = []
    for option in _ways_to_read(path):
        try:
            with closing(_reader(path, option)) as source:
                return read(source)
        except sqlite3.Error as error:
            errors.append(error)
    raise errors[0]


def _ways_to_read(path: Path) -> tuple[str, ...]:
    """Return the options under which SQLite may read the file without writing, the best first.

    Under "immutable" it needs no lock and no file beside this one, but overlooks the write-ahead
    log, which a killed daemon leaves behind (sqlite.org, "Write-Ahead Logging").
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        return "mode=ro", "immutable=1"
    return ("immutable=1",)


def _reader(path: Path, option: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{option}",
        uri=True,
        timeout=BUSY_MILLISECONDS / 1000,
        isolation_level=None,
    )
    connection.text_factory = text_of
    return connection


def _copied(source: sqlite3.Connection, form: Format) -> sqlite3.Connection:
    try:
        check(source, form)
    except NewerFileError:
        return _copied_from_newer(source, form)
    target = _memory()
    source.backup(target)
    migrate(target, form.migrations)
    return target


def _copied_from_newer(source: sqlite3.Connection, form: Format) -> sqlite3.Connection:
    """Return our tables with the columns and rows of theirs that fit."""
    target = _empty(form)
    for table in _tables(target):
        columns = ", ".join(
            f'"{name}"' for name in _columns(target, table) if name in _columns(source, table)
        )
        if columns:
            marks = ", ".join("?" * (columns.count(",") + 1))
            rows = source.execute(f'SELECT {columns} FROM "{table}"')  # noqa: S608 - our own names
            target.executemany(
                f'INSERT OR IGNORE INTO "{table}" ({columns}) VALUES ({marks})',  # noqa: S608 - likewise
                rows,
            )
    return target


def _tables(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [name for (name,) in connection.execute(query)]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [
        name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", [table])
    ]
