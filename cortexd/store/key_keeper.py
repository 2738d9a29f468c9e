"""Adds, rotates and revokes keys: in the keys file, and at once in the key ring.

The file is people's too, so each change reads it again, keeps what they wrote, and compares the
keys that the new text has with those that it should have.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec.structs import replace as with_fields
from twisted.internet.defer import Deferred, DeferredLock

from cortexd.access.keys import Key
from cortexd.access.ring import KeyRing
from cortexd.access.secret import hashed, id_of, new_key
from cortexd.config.keys_file import (
    KeySettings,
    check_mode,
    key_of,
    lack_of_keys,
    new_settings,
    read,
)
from cortexd.config.keys_text import added, revoked, rotated
from cortexd.config.reading import ConfigError, decoded
from cortexd.config.tables_text import UnknownFormError
from cortexd.errors import OperationRefused
from cortexd.logs import get_logger
from cortexd.store.replacing import read_original, replace
from cortexd.text import one_line

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
TRIES: Final = 5
"""How often a file is read again that others change at the same time."""

LONGEST_KEPT: Final = 366 * 86400.0
"""How long a former key may stay valid, in seconds."""

BY_HAND: Final = (
    "let the daemon's user write the file and its directory; or write into it what 'cortexctl key "
    "add NAME --print' prints, and run 'cortexctl reload'"
)
UNKNOWN_FORM: Final = "it has keys that are not [[keys]] tables: write them so, one for each key"

log = get_logger("cortexd.keys")

Settings = Sequence[KeySettings]


class InThread(Protocol):
    """Calls a function that may wait for files; the Deferred fires with what it returns."""

    def __call__(self, call: Callable[[], Any]) -> Deferred[Any]:
        """Call it."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a file: from its text to the new one, and the keys that this must have.

    ``text`` is the text of the key that the change has made, if any.
    """

    edit: Callable[[str], str]
    keys: Settings
    text: str = ""


class KeyKeeper:
    """Changes the keys in the file at ``path`` and in ``ring``, one change at a time.

    Without a ``path`` every change is refused, with the advice to have the file at ``suggested``.
    ``unix_time`` is the time of day in seconds. ``exposure`` is a warning about the file's mode, or
    ``None``. Errors are OperationRefused; then nothing has changed.
    """

    def __init__(
        self,
        ring: KeyRing,
        path: str | None,
        suggested: Path,
        in_thread: InThread,
        unix_time: Callable[[], float],
    ) -> None:
        self.ring = ring
        self.path = path
        self.exposure: str | None = None
        self._suggested = suggested
        self._in_thread = in_thread
        self._unix_time = unix_time
        self._lock = DeferredLock()

    def notices(self) -> list[str]:
        """Return what is wrong with the file, each in a line for the operator."""
        found = [] if self.exposure is None else [self.exposure]
        if self.path is not None and not self.ring.keys:
            found.append(lack_of_keys(self.path))
        return found

    def note(self, exposure: str | None) -> None:
        """Remember the warning about the file's mode, if any, and log a new one."""
        if exposure is not None and exposure != self.exposure:
            log.warning("keys_file_exposed", advice=exposure)
        self.exposure = exposure

    def take(
        self, path: str | None, keys: Iterable[Key] | None, generation: int | None = None
    ) -> None:
        """Follow a reload: ``keys`` are what the file at ``path`` had, ``None`` without a file.

        They were read while the ring was of that ``generation``. If it is another now, a change
        has read the same file later, and its keys stay.
        """
        if path != self.path or generation in (None, self.ring.generation):
            self.path = path
            self.ring.take(keys)

    async def add(self, values: Mapping[str, object]) -> tuple[Key, str]:
        """Add a key with these values of its table, times in unix seconds; return it and its text.

        Nobody can show the text again.
        """

        def change(before: Settings) -> _Change:
            now = self._now()
            text, key = made(values, now)
            if any(each.name == key.name for each in before):
                raise OperationRefused(
                    f"a key is called {key.name!r} already; 'cortexctl key rotate {key.name}' "
                    "replaces it by a new one"
                )
            return _Change(lambda old: added(old, key), (*before, key), text)

        keys, text = await self._changed(change)
        return keys[str(values["name"])], text

    async def rotate(self, name: str, keep_seconds: float = 0.0) -> tuple[Key, str]:
        """Give a key another text and return both; the text before stays valid so long."""
        if not 0 <= keep_seconds <= LONGEST_KEPT:
            raise OperationRefused(
                f"found {keep_seconds:g} s for the former key, expected 0 to {LONGEST_KEPT:g}"
            )

        def change(before: Settings) -> _Change:
            now = self._now()
            key = _named(before, name)
            text = new_key()
            until = now + timedelta(seconds=keep_seconds) if keep_seconds else None
            after = with_fields(
                key,
                id=id_of(text),
                hash=hashed(text),
                former_id=key.id if until else None,
                former_hash=key.hash if until else None,
                former_until=until,
                created=now,
            )
            keys = [after if each is key else each for each in before]
            return _Change(lambda old: rotated(old, name, after), keys, text)

        changed, text = await self._changed(change)
        return changed[name], text

    async def revoke(self, name: str) -> None:
        """Remove a key; what runs with it goes on to its end."""

        def change(before: Settings) -> _Change:
            key = _named(before, name)
            return _Change(lambda old: revoked(old, name), [k for k in before if k is not key])

        await self._changed(change)

    def check(self) -> str:
        """Return the path of the keys file. Raises OperationRefused where there is none."""
        if self.path is None:
            raise OperationRefused(
                "no request needs a key: write [auth] with "
                f'keys_file = "{one_line(str(self._suggested))}" into cortex.toml, and run '
                "'cortexctl reload'"
            )
        return self.path

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._unix_time(), UTC).replace(microsecond=0)

    async def _changed(
        self, change: Callable[[Settings], _Change]
    ) -> tuple[Mapping[str, Key], str]:
        """Change the file, then the ring; return its keys by name, and the text that was made."""
        await self._lock.acquire()
        try:
            path = self.check()
            keys, text = await self._in_thread(lambda: change_file(path, change))
            # A reload may have chosen another file meanwhile.
            if path == self.path:
                self.ring.take(keys)
        finally:
            self._lock.release()
        return {key.name: key for key in keys}, text


def made(values: Mapping[str, object], now: datetime) -> tuple[str, KeySettings]:
    """Return the text of a new key, and its table. Raises OperationRefused for a wrong value."""
    text = new_key()
    try:
        return text, new_settings(values, id_of(text) or "", hashed(text), now)
    except ConfigError as error:
        raise OperationRefused(str(error)) from None


def change_file(path: str, change: Callable[[Settings], _Change]) -> tuple[tuple[Key, ...], str]:
    """Change a keys file, and return its keys and the text of the one that was made.

    Raises OperationRefused; then the file is as it was.
    """
    source = one_line(path)
    try:
        for _ in range(TRIES):
            original = read_original(path)
            check_mode(original.mode, path)
            mark = BYTE_ORDER_MARK if original.content.startswith(BYTE_ORDER_MARK) else b""
            old = decoded(original.content, path)
            wanted = change(read(old, path))
            new = wanted.edit(old)
            if not _has(new, wanted.keys):
                raise UnknownFormError
            if replace(original, mark + new.encode()):
                return tuple(map(key_of, wanted.keys)), wanted.text
    except ConfigError as error:
        raise OperationRefused(f"{error}; nothing was changed") from None
    except UnknownFormError:
        raise OperationRefused(f"{source}: {UNKNOWN_FORM}; nothing was changed") from None
    except OSError as error:
        reason = one_line(error.strerror or str(error))
        raise OperationRefused(f"{source} cannot be changed ({reason}): {BY_HAND}") from None
    raise OperationRefused(f"{source} is being changed by another program: try again")


def _has(text: str, keys: Settings) -> bool:
    """Return whether a text has exactly these keys."""
    try:
        return tuple(keys) == read(text, "")
    except ConfigError:
        return False


def _named(keys: Settings, name: str) -> KeySettings:
    for key in keys:
        if key.name == name:
            return key
    raise unknown(name, [key.name for key in keys])


def unknown(name: str, names: Sequence[str]) -> OperationRefused:
    """Return the refusal of a name that no key has, with the nearest that one has."""
    nearest = difflib.get_close_matches(name, names, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "'cortexctl key list' shows the keys"
    return OperationRefused(f"no key is called {name!r}; {advice}")
