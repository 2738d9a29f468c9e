"""The gateway's own store of responses, which outlives the daemon and is not bound to a node.

A change is in memory at once, and so is readable at once; a thread writes it to the file within
``FLUSH_SECONDS``, many changes in one transaction. A kill loses the changes of that time. While
the file cannot be written, the changes wait in memory, the oldest responses going first once they
take too much of it: a full disk ends no request. Before ``startService``, all is in memory.

Each response has an owner. To other readers it does not exist (``cortexd.access.sight.owns``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from cortexd.access.callers import ANYBODY, Caller
from cortexd.access.sight import owns
from cortexd.errors import Overloaded
from cortexd.logs import get_logger
from cortexd.store.file import reason_of
from cortexd.store.journal import kind_of_failure
from cortexd.store.response_file import Limits, ResponseFile, StoredResponse
from cortexd.store.worker import Worker

FLUSH_SECONDS: Final = 0.5
"""How long a change waits for others before all are written."""

FLUSH_BYTES: Final = 8 * 1024 * 1024
"""How much may wait: more is written at once."""

RETRY_SECONDS: Final = 10.0
"""How long changes wait after the file could not be written."""

SWEEP_SECONDS: Final = 3600.0
"""How often responses that are over the age limit are deleted while there are no changes."""

UNWRITTEN_BYTES: Final = 64 * 1024 * 1024
"""How much memory responses may take that are not written yet."""

LARGEST_BYTES: Final = 64 * 1024 * 1024
"""The largest response that is stored, with its input. The largest body is 50 MiB by default."""

log = get_logger("cortexd.store")

T = TypeVar("T")

Changes = Mapping[str, StoredResponse | None]
"""What is not written yet, by id, oldest first; ``None`` for a response that was deleted."""


class ResponseStore(Service):
    """Stores responses in ``directory`` while it runs; ``worker`` does what may wait for the disk.

    ``fail`` gets the object of a response whose work ended with the last daemon, as JSON, and
    returns the object that says so, or ``None`` if it cannot read it: then that response is
    deleted. ``unix_time`` returns the time in seconds.
    """

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        worker: Worker,
        clock: IReactorTime,
        unix_time: Callable[[], float],
        fail: Callable[[bytes], bytes | None],
    ) -> None:
        self._file = ResponseFile(directory, limits)
        self._limits = limits
        self._worker = worker
        self._clock = clock
        self._unix_time = unix_time
        self._fail = fail
        self._changes: dict[str, StoredResponse | None] = {}
        self._changed_bytes = 0
        self._used: set[str] = set()
        self._failures: set[str] = set()
        self._is_recovered = False
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None

    # The course of the service.

    def startService(self) -> None:
        """Open the file, and fail the responses whose work ended with the last daemon."""
        super().startService()
        self._worker.start()
        self._flush()

    def stopService(self) -> Deferred[None]:
        """Write all changes and close the file."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        self._flush()
        if self._writing is not None:
            await self._writing
        try:
            await self._worker.run(self._file.close)
        except (OSError, sqlite3.Error) as error:
            self._note_failure(error)
        self._worker.stop()

    def reconfigure(self, limits: Limits) -> None:
        """Let other limits hold; the next write deletes what is over them."""
        self._limits = self._file.limits = limits

    # Changes.

    def put(self, stored: StoredResponse) -> bool:
        """Store a response, replacing one of the same id. Return ``False`` if it is too large."""
        if stored.size > min(LARGEST_BYTES, self._limits.max_bytes):
            log.warning("response_too_large", response=stored.id, bytes=stored.size)
            return False
        self._change(stored.id, stored)
        return True

    async def delete(self, name: str, reader: Caller = ANYBODY) -> bool:
        """Delete a response. Return ``False`` if there was none. Raises Overloaded as ``get``."""
        if await self.get(name, reader) is None:
            return False
        self._change(name, None)
        return True

    def _change(self, name: str, change: StoredResponse | None) -> None:
        self._forget_change(name)
        self._changes[name] = change
        self._changed_bytes += 0 if change is None else change.size
        most = min(UNWRITTEN_BYTES, self._limits.max_bytes)
        while self._changed_bytes > most:
            oldest = next(key for key, waiting in self._changes.items() if waiting is not None)
            self._forget_change(oldest)
            if self.running and most == UNWRITTEN_BYTES:
                log.error("response_lost", response=oldest, reason="too much waits to be written")
        self._arm(FLUSH_SECONDS if self._changed_bytes < FLUSH_BYTES else 0.0)

    def _forget_change(self, name: str) -> None:
        change = self._changes.pop(name, None)
        self._changed_bytes -= 0 if change is None else change.size

    # Questions.

    async def get(self, name: str, reader: Caller = ANYBODY) -> StoredResponse | None:
        """Return the response of an id, or ``None``. Raises Overloaded if the file is unreadable.

        Its reading is no use of the response, and does not keep it longer.
        """
        found = await self._get(name)
        return found if found is not None and owns(reader, found.owner) else None

    async def _get(self, name: str) -> StoredResponse | None:
        if name in self._changes:
            return self._young(self._changes[name])
        if not self.running:
            return None
        found = await self._ask(partial(self._file.get, name, self._unix_time()))
        # Another request may have changed it while the thread read the file.
        return self._young(self._changes[name]) if name in self._changes else found

    async def chain(self, name: str, reader: Caller = ANYBODY) -> list[StoredResponse]:
        """Return the response of an id after all that it continues, the first one first.

        The result is empty without that response, also if the reader does not own all of them, and
        begins with the one after the gap if one before it is gone. All of them count as used now.
        Raises Overloaded as ``get``.
        """
        found = await self._chain(name)
        return found if all(owns(reader, each.owner) for each in found) else []

    async def _chain(self, name: str) -> list[StoredResponse]:
        now = self._unix_time()
        chain: list[StoredResponse] = []
        wanted: str | None = name
        while wanted is not None and wanted in self._changes and len(chain) < len(self._changes):
            found = self._young(self._changes[wanted])
            if found is None:
                break
            self._changes[wanted] = found.used(now)
            chain.append(found)
            wanted = found.previous
        if wanted is not None and wanted not in self._changes and self.running:
            for older in reversed(await self._ask(partial(self._file.chain, wanted, now))):
                if self._changes.get(older.id, older) is None:
                    break
                self._used.add(older.id)
                chain.append(older)
            if self._used:
                self._arm(FLUSH_SECONDS)
        chain.reverse()
        return chain

    async def with_items(
        self, items: Collection[str], reader: Caller = ANYBODY
    ) -> list[StoredResponse]:
        """Return the responses whose output has an item of these ids, each once.

        All of them count as used now. Raises Overloaded as ``get``.
        """
        now = self._unix_time()
        found: dict[str, StoredResponse] = {}
        elsewhere: list[str] = []
        waiting = {
            item: change
            for change in map(self._young, self._changes.values())
            if change is not None and owns(reader, change.owner)
            for item in change.item_ids
        }
        for item in items:
            if item in waiting:
                found[waiting[item].id] = waiting[item]
            elif self.running:
                elsewhere.append(item)
        read = partial(self._read_with_items, elsewhere, now)
        for written in await self._ask(read) if elsewhere else ():
            is_there = self._changes.get(written.id, written) is not None
            if is_there and owns(reader, written.owner):
                found.setdefault(written.id, written)
        self._used.update(found)
        self._arm(FLUSH_SECONDS)
        return list(found.values())

    def _read_with_items(self, items: Iterable[str], now: float) -> list[StoredResponse]:
        """Read the responses with these items, each once. This runs in the thread."""
        read = (self._file.with_item(item, now) for item in items)
        return list({found.id: found for found in read if found is not None}.values())

    def _young(self, stored: StoredResponse | None) -> StoredResponse | None:
        """Return a response unless it is over the age limit."""
        if stored is None or stored.used_at + self._limits.max_age <= self._unix_time():
            return None
        return stored

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await self._worker.run(question)
        except (OSError, sqlite3.Error) as error:
            self._note_failure(error)
            raise Overloaded(
                f"the stored responses cannot be read: {reason_of(error)}; try again shortly",
                retry_after=RETRY_SECONDS,
            ) from None

    # Writing.

    def _arm(self, seconds: float) -> None:
        """Write in so many seconds, unless a write is under way or due before."""
        if not self.running or self._writing is not None:
            return
        if self._timer is not None:
            if self._timer.getTime() <= self._clock.seconds() + seconds:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._flush)

    def _flush(self) -> None:
        self._timer = None
        changes, used = dict(self._changes), frozenset(self._used)
        job = partial(self._write, changes, used, self._unix_time())
        self._writing = writing = self._worker.run(job)
        writing.addCallbacks(self._note_written, self._note_unwritten, (changes, used))

    def _write(self, changes: Changes, used: frozenset[str], now: float) -> None:
        """Write changes. This runs in the thread."""
        if not self._is_recovered:
            self._recover(now)
        puts = [change for change in changes.values() if change is not None]
        deleted = [name for name, change in changes.items() if change is None]
        self._file.write(puts, deleted, used, now)

    def _recover(self, now: float) -> None:
        ended, unreadable = [], []
        for cut in self._file.unfinished(now):
            response = self._fail(cut.response)
            if response is None:
                unreadable.append(cut.id)
            else:
                ended.append(replace(cut, response=response, is_unfinished=False))
        self._file.write(ended, unreadable, (), now)
        self._is_recovered = True

    def _note_written(self, _: Any, changes: Changes, used: frozenset[str]) -> None:
        self._writing = None
        for name, change in changes.items():
            if name in self._changes and self._changes[name] is change:
                self._forget_change(name)
        self._used -= used
        if self._failures:
            log.info("responses_written_again", path=str(self._file.path), changes=len(changes))
            self._failures.clear()
        self._arm(FLUSH_SECONDS if self._changes or self._used else SWEEP_SECONDS)

    def _note_unwritten(self, failure: Failure) -> None:
        self._writing = None
        failure.trap(OSError, sqlite3.Error)
        self._note_failure(failure.value)
        self._arm(RETRY_SECONDS)

    def _note_failure(self, error: Any) -> None:
        kind = kind_of_failure(error)
        if kind not in self._failures:
            self._failures.add(kind)
            log.error(
                "responses_failed",
                path=str(self._file.path),
                reason=reason_of(error),
                kind=kind,
                advice="responses stay in memory until they can be written; a restart of the "
                "daemon before that loses them",
            )
