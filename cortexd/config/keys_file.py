"""The keys file: who may use the gateway, one ``[[keys]]`` table for each key.

``cortexctl key`` writes it, and people may. It has the hash of each key and never the key. A file
that does not exist has no keys, so that nobody gets in. A faulty one is a ConfigError, and no error
shows an id or a hash.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from msgspec import Meta, Struct
from msgspec import inspect as types

from cortexd.access.keys import Key, KeyLimits, Scope
from cortexd.access.requesters import Priority
from cortexd.access.secret import ID_LENGTH, is_hash
from cortexd.config.addresses import only, quoted, refusal, secret
from cortexd.config.files import open_regular
from cortexd.config.tables import ConfigError, decoded, table_of, unreadable
from cortexd.text import one_line, without_keys

NAME: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -"
ID: Final = f"the {ID_LENGTH} letters and digits that 'cortexctl key add' has chosen"
HASH: Final = "the hash that 'cortexctl key add' has made: \"$scrypt$...\", and not the key itself"
GLOB: Final = 'a model\'s name with * for any characters, such as "Qwen/*"'
OTHERS_WRITE: Final = "every user may write it, and so make keys: run 'chmod 600' on it"


def _is_glob(value: str) -> bool:
    return value.isprintable() and value == value.strip() != ""


is_name: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch

Count = Annotated[int, Meta(ge=1)]
Glob = Annotated[str, only(GLOB, _is_glob)]
Hash = Annotated[str, secret(HASH, is_hash)]
Hours = Annotated[float, Meta(gt=0, le=8760, extra={"noun": "a number of hours"})]
Id = Annotated[str, secret(ID, re.compile(rf"[a-z0-9]{{{ID_LENGTH}}}").fullmatch)]
Name = Annotated[str, only(NAME, is_name)]
Time = Annotated[datetime, Meta(tz=True)]
Weight = Annotated[float, Meta(ge=0.001, le=1000)]


class KeySettings(Struct, kw_only=True, frozen=True):
    """[[keys]]: one key, as in ``cortexd.access.keys``; a time is a TOML date-time with its zone.

    ``created`` is for people: when the key was added or last rotated.
    """

    name: Name
    id: Id
    hash: Hash
    scopes: Annotated[tuple[Literal["infer", "read", "control"], ...], Meta(min_length=1)] = (
        "infer",
        "read",
    )
    models: Annotated[tuple[Glob, ...], Meta(min_length=1)] = ("*",)
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    max_concurrency: Count | None = None
    token_budget: Count | None = None
    budget_hours: Hours | None = None
    priority: Literal["interactive", "default", "bulk"] = "default"
    weight: Weight = 1.0
    expires: Time | None = None
    former_id: Id | None = None
    former_hash: Hash | None = None
    former_until: Time | None = None
    created: Time | None = None


class KeysTable(Struct, kw_only=True, frozen=True):
    """A whole keys file."""

    keys: tuple[KeySettings, ...] = ()


TABLE_TYPE: Final = cast(types.StructType, types.type_info(KeysTable))
KEY_TYPE: Final = cast(types.StructType, types.type_info(KeySettings))
TIMES: Final = ("expires",)


def parse(text: str, source: str) -> tuple[Key, ...]:
    """Return the keys of a TOML text; see ``read``."""
    return tuple(map(key_of, read(text, source)))


def read(text: str, source: str) -> tuple[KeySettings, ...]:
    """Return the tables of a TOML text, in its order; errors call it ``source``, usually a path.

    Raises ConfigError for invalid TOML, for an unknown or a missing key of a table, for a value
    that is not allowed, and for two keys with the same name or id.
    """
    try:
        table: KeysTable = table_of(TABLE_TYPE, text, source)
    except ConfigError as error:
        # The key itself may stand where it does not belong, such as before an equals sign.
        raise ConfigError(without_keys(str(error))) from None
    for fault in _faults(table.keys):
        raise ConfigError(f"{one_line(source)}: {fault}")
    return table.keys


def load(path: str | os.PathLike[str]) -> tuple[Key, ...]:
    """Return the keys of a file, none if it does not exist.

    Raises ConfigError as ``parse`` does, and for a file that cannot be read, or that every user may
    write.
    """
    source = os.fspath(path)
    try:
        with open_regular(source) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(source, error) from None
    check_mode(mode, source)
    return parse(decoded(content, source), source)


def check_mode(mode: int, source: str) -> None:
    """Raise ConfigError for the mode of a file that every user may write."""
    if mode & stat.S_IWOTH:
        raise ConfigError(f"{one_line(source)}: {OTHERS_WRITE}")


def exposure(path: str | os.PathLike[str]) -> str | None:
    """Return a warning for a file that every user may read, in words, or ``None``."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    if not mode & stat.S_IROTH:
        return None
    return (
        f"every user may read {one_line(os.fspath(path))}, which has the names, limits and hashes "
        "of all keys: run 'chmod 600' on it"
    )


def lack_of_keys(path: str | os.PathLike[str]) -> str:
    """Return the warning for a file at ``path`` without keys, or that does not exist."""
    return (
        f"{one_line(os.fspath(path))} has no keys yet, so that each request is rejected: "
        "'cortexctl key add NAME' makes one"
    )


def new_settings(
    values: Mapping[str, object], key_id: str, key_hash: str, created: datetime
) -> KeySettings:
    """Return the table of a new key from values as in a file, but with its times in unix seconds.

    Raises ConfigError for a wrong one.
    """
    found = {key: value for key, value in values.items() if value is not None}
    for key in TIMES:
        if key in found:
            found[key] = _time(found[key])
    found |= {"id": key_id, "hash": key_hash, "created": created}
    settings: KeySettings = table_of(KEY_TYPE, found, "the new key")
    for fault in _faults((settings,)):
        raise ConfigError(f"the new key: {fault}")
    return settings


def _time(seconds: object) -> object:
    """Return a time in unix seconds as a date and time; anything else as it is."""
    try:
        return datetime.fromtimestamp(float(str(seconds)), UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return seconds


def _faults(keys: tuple[KeySettings, ...]) -> Iterator[str]:
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for index, key in enumerate(keys):
        path = f"keys[{index}] ({key.name})"
        if (first := names.setdefault(key.name, path)) != path:
            shared = refusal(quoted(key.name), f"a unique value: {first} has the same one")
            yield f"{path}.name: {shared}"
        for field, value in (("id", key.id), ("former_id", key.former_id)):
            where = f"{path}.{field}"
            if value is not None and (first := ids.setdefault(value, where)) != where:
                shared = refusal("another key's", f"a unique value: {first} has the same one")
                yield f"{where}: {shared}"
        former = [key.former_id, key.former_hash, key.former_until]
        if None in former and any(each is not None for each in former):
            yield f"{path}: expected former_id, former_hash and former_until, or no former key"
        if key.budget_hours is not None and key.token_budget is None:
            alone = refusal(f"{key.budget_hours:g}", "no such key without token_budget")
            yield f"{path}.budget_hours: {alone}"


def key_of(settings: KeySettings) -> Key:
    """Return the key of a table."""
    return Key(
        name=settings.name,
        id=settings.id,
        hash=settings.hash,
        scopes=frozenset(map(Scope, settings.scopes)),
        models=settings.models,
        limits=KeyLimits(
            settings.requests_per_minute,
            settings.tokens_per_minute,
            settings.max_concurrency,
            settings.token_budget,
            settings.budget_hours,
        ),
        priority=Priority[settings.priority.upper()],
        weight=settings.weight,
        expires=_unix(settings.expires),
        former_id=settings.former_id,
        former_hash=settings.former_hash,
        former_until=_unix(settings.former_until),
    )


def _unix(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
