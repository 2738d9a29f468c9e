"""The SQLite file of the stored responses, with its limits of age and of size.

Each call may wait for the disk, so that all of them run in one thread that is not the reactor's.
The file may have hundreds of megabytes: it is not checked when it is opened, and damage is noticed
when a page is read. The damaged file is then set aside, and an empty one takes its place.

Deleted responses are overwritten (``secure_delete``): prompts leave nothing behind in the file.

Measured on two shared cores and a virtual disk, with 20,000 responses of 10 kB: a write of one
response takes 20 ms, of 100 responses 40 ms, and 110 ms once the limit of size makes it evict; a
response of 50 MB takes 1.5 s. A conversation of 50 turns is read in 1.7 ms, an item in 0.2 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from cortexd.store.file import Database, Format, Statement
from cortexd.store.spare import rows_of

FILE_NAME: Final = "responses.sqlite3"

LONGEST_CHAIN: Final = 10_000
"""How many responses one conversation may have; only a damaged file has a longer chain."""

MIGRATIONS: Final = (
    (
        """CREATE TABLE responses (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            previous TEXT,
            model TEXT NOT NULL,
            created_at REAL NOT NULL CHECK (typeof(created_at) = 'real'),
            used_at REAL NOT NULL CHECK (typeof(used_at) = 'real'),
            size INTEGER NOT NULL CHECK (typeof(size) = 'integer'),
            is_unfinished INTEGER NOT NULL CHECK (is_unfinished IN (0, 1))
        )""",
        "CREATE INDEX responses_by_use ON responses (used_at, number, size)",
        "CREATE TABLE bodies (number INTEGER PRIMARY KEY, response BLOB, input_items BLOB)",
        "CREATE TABLE items (id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX items_by_response ON items (number)",
        """CREATE TRIGGER parts_go_with_responses AFTER DELETE ON responses BEGIN
            DELETE FROM bodies WHERE number = old.number;
            DELETE FROM items WHERE number = old.number;
        END""",
        """CREATE VIEW stored AS
            SELECT number, id, previous, model, created_at, used_at, is_unfinished,
                response, input_items
            FROM responses JOIN bodies USING (number)""",
    ),
    (
        "ALTER TABLE responses ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX responses_by_owner ON responses (owner, used_at, number, size)",
        "DROP VIEW stored",
        """CREATE VIEW stored AS
            SELECT number, id, previous, model, created_at, used_at, is_unfinished,
                response, input_items, owner
            FROM responses JOIN bodies USING (number)""",
    ),
)
"""As those of the state's file: a released migration is never changed."""

DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""The errors by which SQLite reports damage in an open file."""

FORMAT: Final = Format(
    FILE_NAME,
    MIGRATIONS,
    "the stored responses are gone, and conversations that continue one of them get status 404",
    checks_all=False,
)

PUT: Final = """INSERT INTO responses
    (id, previous, model, created_at, used_at, size, is_unfinished, owner)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET previous = excluded.previous, model = excluded.model,
    created_at = excluded.created_at, used_at = excluded.used_at, size = excluded.size,
    is_unfinished = excluded.is_unfinished, owner = excluded.owner"""
PUT_BODY: Final = "INSERT OR REPLACE INTO bodies SELECT number, ?, ? FROM responses WHERE id = ?"
PUT_ITEM: Final = "INSERT OR REPLACE INTO items SELECT ?, number FROM responses WHERE id = ?"
DELETE: Final = "DELETE FROM responses WHERE id = ?"
RENEW: Final = "UPDATE responses SET used_at = max(used_at, ?) WHERE id = ?"
EXPIRE: Final = "DELETE FROM responses WHERE used_at <= ?"
EVICT: Final = """DELETE FROM responses WHERE number IN (
    SELECT number FROM (
        SELECT number, sum(size) OVER (ORDER BY used_at DESC, number DESC) AS newer
        FROM responses WHERE owner = ?
    ) WHERE newer > ?)"""
SIZES: Final = "SELECT owner, sum(size) FROM responses GROUP BY owner"
SIZE: Final = "SELECT coalesce(sum(size), 0) FROM responses"
SELECT: Final = "SELECT * FROM stored WHERE id = ? AND used_at > ?"
SELECT_UNFINISHED: Final = "SELECT * FROM stored WHERE is_unfinished = 1"
SELECT_BY_ITEM: Final = """SELECT stored.* FROM items JOIN stored USING (number)
    WHERE items.id = ? AND used_at > ?"""
SELECT_CHAIN: Final = """WITH RECURSIVE chain (place, before, depth) AS (
        SELECT number, previous, 1 FROM responses WHERE id = ? AND used_at > ?
        UNION ALL
        SELECT number, previous, depth + 1
        FROM chain JOIN responses ON id = before
        WHERE depth < ? AND used_at > ?
    )
    SELECT stored.* FROM chain JOIN stored ON number = place ORDER BY depth DESC"""

T = TypeVar("T")


class Limits(NamedTuple):
    """How long a response is stored after its last use, in seconds, and how many bytes all take."""

    max_age: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response: the object and the items of its own input, both as JSON.

    ``owner`` is the name of the key with which it was requested, empty without a key.

    ``item_ids`` are the ids of the items of its output; a stored response has them only until it
    is written. ``previous`` is the id of the response that it continues. ``created_at`` and
    ``used_at`` are in Unix seconds; it was used when it was made, and whenever a later request
    continued it. ``is_unfinished`` means that its work goes on in the background.
    """

    id: str
    previous: str | None
    model: str
    created_at: float
    used_at: float
    response: bytes
    input_items: bytes
    is_unfinished: bool = False
    item_ids: tuple[str, ...] = field(default=(), compare=False)
    owner: str = ""

    @property
    def size(self) -> int:
        """Its bytes, as the limit of size counts them."""
        return len(self.response) + len(self.input_items)

    def used(self, now: float) -> StoredResponse:
        """Return it as used at ``now``."""
        return replace(self, used_at=max(self.used_at, now))


class ResponseFile:
    """The file in ``directory``, opened by the first call; all calls come from one thread.

    Each call raises OSError or sqlite3.Error if the file cannot be used; the next call tries again.
    A file that can only be read, such as one on a read-only disk or of a newer version, is read.
    A reload may replace the ``limits``, which hold from the next call on.
    """

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.path = directory / FILE_NAME
        self._directory = directory
        self.limits = limits
        self._database: Database | None = None

    def write(
        self,
        puts: Collection[StoredResponse],
        deleted: Iterable[str],
        used: Iterable[str],
        now: float,
    ) -> None:
        """Store all of this or nothing, then delete what is over the limits, the oldest first.

        Of owners that share the limit of size, those with the most lose their oldest.

        ``deleted`` and ``used`` are ids of responses. ``now`` is in Unix seconds.
        """
        statements: list[Statement] = [(DELETE, (name,)) for name in deleted]
        statements += [(RENEW, (now, name)) for name in used]
        for put in puts:
            statements.append(
                (
                    PUT,
                    (
                        put.id,
                        put.previous,
                        put.model,
                        float(put.created_at),
                        float(put.used_at),
                        put.size,
                        put.is_unfinished,
                        put.owner,
                    ),
                )
            )
            statements.append((PUT_BODY, (put.response, put.input_items, put.id)))
            statements += [(PUT_ITEM, (item, put.id)) for item in put.item_ids]
        statements.append((EXPIRE, (now - self.limits.max_age,)))

        def write(database: Database) -> None:
            database.write(statements)
            ((size,),) = database.rows((SIZE, ()))
            if size > self.limits.max_bytes:
                shares = fair_shares(dict(database.rows((SIZES, ()))), self.limits.max_bytes)
                database.write([(EVICT, (owner, share)) for owner, share in shares.items()])

        self._use(write, now)

    def get(self, name: str, now: float) -> StoredResponse | None:
        """Return the response of an id, or ``None``."""
        found = self._read((SELECT, (name, self._oldest(now))), now)
        return found[0] if found else None

    def chain(self, name: str, now: float) -> list[StoredResponse]:
        """Return the response of an id after all that it continues, the first one first.

        Without that response the result is empty. If one before it is gone, the result begins with
        the one after the gap.
        """
        oldest = self._oldest(now)
        return self._read((SELECT_CHAIN, (name, oldest, LONGEST_CHAIN, oldest)), now)

    def with_item(self, item: str, now: float) -> StoredResponse | None:
        """Return the response whose output has the item of an id, or ``None``."""
        found = self._read((SELECT_BY_ITEM, (item, self._oldest(now))), now)
        return found[0] if found else None

    def unfinished(self, now: float) -> list[StoredResponse]:
        """Return the responses whose work goes on in the background, or went on until a crash."""
        return self._read((SELECT_UNFINISHED, ()), now)

    def close(self) -> None:
        """Close the file. Raises sqlite3.Error."""
        database, self._database = self._database, None
        if database is not None:
            try:
                database.checkpoint()
            finally:
                database.close()

    def _oldest(self, now: float) -> float:
        return now - self.limits.max_age

    def _read(self, query: Statement, now: float) -> list[StoredResponse]:
        try:
            rows = self._use(lambda database: database.rows(query), now)
        except (OSError, sqlite3.Error) as error:
            if self._database is not None:
                raise
            try:
                rows = rows_of(self.path, query)
            except (OSError, sqlite3.Error):
                raise error from None
        return [_stored(*row) for row in rows]

    def _use(self, action: Callable[[Database], T], now: float) -> T:
        """Return the result of ``action``; try again with a new file where this one is damaged."""
        database = self._opened(now)
        try:
            return action(database)
        except sqlite3.DatabaseError as error:
            # Other errors may be a mistake of ours, which must not cost all stored responses.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGE:
                raise
            self._database = None
            database.set_aside(now, str(error))
        except OSError:
            # Another program has replaced the file: the next call opens the new one.
            self._database = None
            database.close()
            raise
        return action(self._opened(now))

    def _opened(self, now: float) -> Database:
        if self._database is None:
            self._database = Database(self._directory, now, _prepare, FORMAT)
        return self._database


def fair_shares(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """Return how much those owners may keep that must give up something.

    ``sizes`` is what each has, and ``most`` what all of them may have. No owner gives up anything
    before those that have more: the shares of those that do are equal.
    """
    left, owners = most, sorted(sizes, key=sizes.__getitem__)
    for number, owner in enumerate(owners):
        share = left // (len(owners) - number)
        if sizes[owner] > share:
            return dict.fromkeys(owners[number:], share)
        left -= sizes[owner]
    return {}


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA secure_delete = ON")


def _stored(
    _: int,
    name: str,
    previous: str | None,
    model: str,
    created_at: float,
    used_at: float,
    is_unfinished: int,
    response: Any,
    input_items: Any,
    owner: str = "",  # a file of the first version that can only be read has no owners
) -> StoredResponse:
    return StoredResponse(
        name,
        previous,
        model,
        created_at,
        used_at,
        response,
        input_items,
        bool(is_unfinished),
        owner=owner,
    )
