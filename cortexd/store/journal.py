"""The state that survives restarts: one SQLite file in the state directory.

It contains the operator's pins and cordons, the footprints learned from loads, the abilities
learned from probes, the models that nodes list with their last uses, and a bounded journal of the
fleet. The small tables are read once, at opening,
and are then in memory: a change goes to memory and to the file. If the file cannot be written, the
change waits in memory until the next one, so that a disk that was full for a while loses nothing.
If the file cannot even be opened, all of the state is in memory until it can (``store.spare``).

Every call runs in the thread that opened the store, which is the reactor's, so each call is short.
Measured on two shared cores and a virtual disk with a full journal: a change takes 15 us, an entry
30 us (p99 85 us). One call in 400 writes the write-ahead log into the file, with two fsyncs, or
trims the journal; the slowest of 60,000 such calls took 6 ms, and the time depends on the disk's
fsyncs. A page of 100 entries takes 0.35 ms, also for one model.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cortexd.fleet.demand import PastDemand
from cortexd.fleet.footprints import LearnedLoad
from cortexd.logs import get_logger, redacted
from cortexd.store.demands import past_of, texts_of
from cortexd.store.file import (
    BUSY_MILLISECONDS,
    Database,
    DirectoryLock,
    StateInUseError,
    Statement,
    StoreError,
    open_state,
    reason_of,
    state_format,
)
from cortexd.store.spare import SpareDatabase
from cortexd.store.statements import (
    DELETE_ABILITIES,
    DELETE_CORDON,
    DELETE_DEMAND,
    DELETE_LISTED,
    PUT_ABILITIES,
    PUT_CORDON,
    PUT_DEMAND,
    PUT_ENTRY,
    PUT_LEARNED,
    PUT_LISTED,
    PUT_PIN_OVERRIDE,
    SELECT_ENTRIES,
    SELECT_ENTRIES_OF_MODEL,
    TRIM_JOURNAL,
    Changes,
    following,
    forget_oldest_entries,
    take_in,
)

JOURNAL_ROWS: Final = 10_000
"""The maximum number of entries in the journal: about 2 MB."""

TRIMMED_ROWS: Final = 500
"""How many of the oldest entries are deleted at once when the journal is full."""

log = get_logger("cortexd.store")

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One event of the fleet: ``at`` in Unix seconds, ``fields`` as decoded from JSON.

    ``number`` counts up from 1 in the order of writing; an entry with a missing number could not be
    written. If the text of the fields is damaged in the file, ``fields`` has it under ``damaged``.
    """

    number: int
    at: float
    kind: str
    node: str | None
    model: str | None
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KnownAbilities:
    """The abilities that a probe found, as JSON text, and the ``build`` of the node that it asked.

    A build is the node's version and the time of its start: another build may serve another model.
    """

    build: str
    learned: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a node listed: the ``base`` if it is an adapter, its last use in Unix seconds.

    ``last_used_at`` is 0 for a model that was not used.
    """

    base: str | None
    last_used_at: float


class Store:
    """The daemon's state in ``directory``, in a database that only this daemon uses.

    ``now`` is in Unix seconds. Raises StateInUseError if another daemon uses the directory. Create
    it after twistd has forked: neither the lock nor a connection of SQLite survives a fork.

    Methods do not raise if the file cannot be opened, written or read. They log the failure once
    for each kind, keep the change in memory, and retry all unwritten changes at the next change or
    at ``retry``. While another program locks the file, each change waits up to 20 ms for it. After
    ``close`` only ``close`` may be called.
    """

    def __init__(self, directory: Path, now: float) -> None:
        self._directory = directory
        self._lock = DirectoryLock(directory)
        self._is_closed = False
        self._unwritten: Changes = {}
        self._failures: set[str] = set()
        self._reason: str | None = None
        # What the file lacks while ``_file`` is a database in memory; None while it is the file.
        self._missing: Changes | None = None
        self._file: Database
        try:
            self._file = open_state(directory, self._lock, now, self._read)
        except StateInUseError:
            raise
        except StoreError as error:
            self._do_without(error)

    def _do_without(self, error: StoreError) -> None:
        spare = SpareDatabase(self._directory, self._read, state_format())
        self._file, self._missing, self._reason = spare, {}, error.reason
        log.error(
            "store_unavailable",
            path=str(spare.path),
            reason=error.reason,
            unread=spare.unread,
            advice=f"{error}; until then changes are only in memory, and a restart loses them",
        )

    @property
    def unstored(self) -> str | None:
        """Why the latest changes are only in memory, None if all of them are in the file."""
        return self._reason

    def retry(self, now: float) -> bool:
        """Try again what has failed. Return whether the file was opened only now.

        The state then contains what could not be read before. ``now`` is in Unix seconds.
        """
        if self._missing is not None:
            missing = dict(self._missing)
            take_in(missing, self._unwritten)
            return self._take_up(missing, now)
        if self._unwritten:
            self._try_to_write()
        return False

    def _take_up(self, missing: Mapping[tuple[str, ...], Statement], now: float) -> bool:
        """Open the file, write what it lacks, and read it; change nothing if that fails."""
        found = copy(self)
        read = found._read  # noqa: SLF001 - a copy of this very object, whose tables stay for now
        try:
            file = open_state(self._directory, self._lock, now, read, BUSY_MILLISECONDS / 1000)
        except StoreError as error:
            if error.reason != self._reason:
                self._reason = error.reason
                path = str(self._file.path)
                log.error("store_still_unavailable", path=path, reason=error.reason)  # noqa: TRY400 - the reason says all
            return False
        try:
            file.write(following(missing, found.last_number))
            file.read(self._read)
        except (OSError, sqlite3.Error) as error:
            file.close()
            self._note_unwritten(error)
            return False
        self._file.close()
        self._file, self._missing, self._reason = file, None, None
        self._unwritten.clear()
        self._failures.clear()
        log.warning("store_available_again", path=str(file.path), changes=len(missing))
        return True

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
        self._abilities = {
            (node, model): KnownAbilities(*known)
            for node, model, *known in read("SELECT * FROM abilities")
        }
        self._listed = {
            (node, model): Listed(*listed) for node, model, *listed in read("SELECT * FROM listed")
        }
        self._demands = {model: past_of(*row) for model, *row in read("SELECT * FROM demands")}
        first, last = read("SELECT min(number), max(number) FROM journal").fetchone()
        self._first_number: int = first or 1
        self._last_number: int = last or 0

    # ------------------------------------------------------------------ pins and cordons

    def pin_overrides(self) -> dict[tuple[str, str], bool]:
        """Return whether the operator has pinned or unpinned a model, by (node, model).

        For a pair that is missing, the configuration applies.
        """
        return dict(self._pin_overrides)

    def set_pin_override(self, node: str, model: str, pinned: bool) -> None:
        """Store that the operator has pinned or unpinned a model on a node."""
        self._write(("pin", node, model), PUT_PIN_OVERRIDE, node, model, pinned)
        self._pin_overrides[node, model] = pinned

    def cordons(self) -> frozenset[str]:
        """Return the nodes that the operator has cordoned."""
        return frozenset(self._cordons)

    def add_cordon(self, node: str) -> None:
        """Store that a node is cordoned."""
        self._write(("cordon", node), PUT_CORDON, node)
        self._cordons.add(node)

    def remove_cordon(self, node: str) -> None:
        """Store that a node is not cordoned, even if it was not before."""
        self._write(("cordon", node), DELETE_CORDON, node)
        self._cordons.discard(node)

    # ------------------------------------------------------------------ footprints

    def learned(self) -> dict[tuple[str, str], LearnedLoad]:
        """Return the figures learned from loads, by (node, model)."""
        return dict(self._learned)

    def put_learned(self, node: str, model: str, learned: LearnedLoad) -> None:
        """Store the figures learned from loads of a model on a node, replacing the previous ones.

        Raises sqlite3.IntegrityError for a NaN.
        """
        self._write(("learned", node, model), PUT_LEARNED, node, model, *astuple(learned))
        self._learned[node, model] = learned

    # ------------------------------------------------------------------ abilities

    def abilities(self) -> dict[tuple[str, str], KnownAbilities]:
        """Return the abilities learned from probes, by (node, model)."""
        return dict(self._abilities)

    def put_abilities(self, node: str, model: str, known: KnownAbilities | None) -> None:
        """Store the abilities of a model on a node in place of the previous ones, if any."""
        key = ("abilities", node, model)
        if known is None:
            self._write(key, DELETE_ABILITIES, node, model)
            self._abilities.pop((node, model), None)
        else:
            self._write(key, PUT_ABILITIES, node, model, *astuple(known))
            self._abilities[node, model] = known

    # ------------------------------------------------------------------ the catalogue

    def listed(self) -> dict[tuple[str, str], Listed]:
        """Return the models that nodes listed, by (node, model)."""
        return dict(self._listed)

    def demands(self) -> dict[str, PastDemand]:
        """Return the demand for each model, its times in Unix seconds."""
        return dict(self._demands)

    def put_catalogue(
        self,
        listed: Mapping[tuple[str, str], Listed | None],
        demands: Mapping[str, PastDemand | None],
    ) -> None:
        """Store changes of what nodes list, and of the demand, all at once.

        ``None`` stands for what is not listed or requested any more. Raises
        sqlite3.IntegrityError for a NaN.
        """
        changes: Changes = {}
        for (node, model), known in listed.items():
            changes["listed", node, model] = (
                (DELETE_LISTED, (node, model))
                if known is None
                else (PUT_LISTED, (node, model, known.base, known.last_used_at))
            )
        for model, past in demands.items():
            changes["demand", model] = (
                (DELETE_DEMAND, (model,))
                if past is None
                else (PUT_DEMAND, (model, *texts_of(past)))
            )
        self._write_changes(changes)
        _apply(self._listed, listed)
        _apply(self._demands, demands)

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

        The fields become plain data without prompts and keys: see ``logs.redacted``.
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

        With ``model``, return only entries of that model. The result includes entries that are not
        written yet, but not those that cannot be read. An entry costs 4 us, so read in pages.
        """
        limit = max(0, limit)  # for SQLite a negative limit means no limit
        query: Statement = (SELECT_ENTRIES, (after, limit))
        if model is not None:
            query = (SELECT_ENTRIES_OF_MODEL, (model, after, limit))
        entries = [_entry(*row) for row in self.rows(query)]
        # Numbers increase, and unwritten entries get written all together: so they are the newest.
        for statement, values in self._unwritten.values():
            if statement == PUT_ENTRY and len(entries) < limit:
                entry = _entry(*values)
                if entry.number > after and model in (None, entry.model):
                    entries.append(entry)
        return entries

    # ------------------------------------------------------------------ tables of other modules

    def write(self, changes: Changes) -> None:
        """Write changes all at once. Raises sqlite3.IntegrityError for a NaN."""
        self._write_changes(changes)

    def rows(self, query: Statement) -> list[Any]:
        """Return the rows of a query, none if they cannot be read."""
        try:
            return self._file.rows(query)
        except sqlite3.DatabaseError as error:
            if not _is_of_the_file(error):
                raise
            self._note_failure(error)
            return []

    @property
    def unwritten(self) -> Iterable[Statement]:
        """The changes that are not written yet, so that ``rows`` does not see them."""
        return self._unwritten.values()

    # ------------------------------------------------------------------ the file

    def close(self) -> None:
        """Write pending changes and the write-ahead log into the file, and release the lock."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._unwritten:
                self._write_all()
            self._file.checkpoint()
        except (OSError, sqlite3.DatabaseError) as error:
            self._note_failure(error)
        finally:
            self._file.close()
            self._lock.release()

    def _write(self, key: tuple[str, ...], statement: str, *values: Any) -> None:
        """Write a change and all unwritten ones; it replaces an unwritten one of the same key."""
        self._write_changes({key: (statement, values)})

    def _write_changes(self, changes: Mapping[tuple[str, ...], Statement]) -> None:
        """Write several changes at once, as ``_write`` does."""
        if not changes:
            return
        take_in(self._unwritten, changes)
        try:
            self._write_all()
        except Exception as error:
            if not _is_of_the_file(error):
                # If they stayed, every later write would fail too.
                for key in changes:
                    del self._unwritten[key]
                raise
            self._note_unwritten(error)
            forget_oldest_entries(self._unwritten)

    def _try_to_write(self) -> None:
        try:
            self._write_all()
        except (OSError, sqlite3.Error) as error:
            self._note_unwritten(error)

    def _write_all(self) -> None:
        self._file.write(self._unwritten.values())
        if self._missing is not None:
            take_in(self._missing, self._unwritten)
            forget_oldest_entries(self._missing)
        else:
            self._reason = None
        if self._failures:
            log.info("store_writes_again", path=str(self._file.path), changes=len(self._unwritten))
            self._failures.clear()
        self._unwritten.clear()

    def _note_unwritten(self, error: Exception) -> None:
        self._reason = reason_of(error)
        self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        kind = kind_of_failure(error)
        if kind not in self._failures:
            self._failures.add(kind)
            log.error(
                "store_failed",
                path=str(self._file.path),
                reason=reason_of(error),
                kind=kind,
                advice="changes stay in memory until they can be written; a restart of the daemon "
                "before that loses them",
            )


def _apply(known: dict[Key, Value], changes: Mapping[Key, Value | None]) -> None:
    for key, value in changes.items():
        if value is None:
            known.pop(key, None)
        else:
            known[key] = value


def _entry(
    number: int, at: float, kind: str, node: str | None, model: str | None, text: str
) -> JournalEntry:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    # SQLite has no checksums, so only this check finds damaged bytes inside a text.
    return JournalEntry(
        number, at, kind, node, model, fields if isinstance(fields, dict) else {"damaged": text}
    )


def kind_of_failure(error: Exception) -> str:
    """Return the name of an error of SQLite or the system, such as SQLITE_FULL or ENOENT."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def _is_of_the_file(error: Exception) -> bool:
    """Return whether the file caused the error, and not the statement."""
    mistakes = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
    return isinstance(error, OSError | sqlite3.DatabaseError) and not isinstance(error, mistakes)
