"""What differs between two configurations, for the operator who reloads one: pure.

A reload applies every key, except for those in ``AT_RESTART``. A key that is new in
``cortexd.config.settings`` is found here by itself; ``tests/test_reassembly.py`` checks that a
reload really applies it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from cortexd.access.keys import Key, KeyLimits
from cortexd.config.addresses import quoted
from cortexd.config.settings import Config, ModelSettings, NodeSettings
from cortexd.text import printable

AT_RESTART: Final[Mapping[str, str]] = {
    "gateway.state_dir": "the files in it are open",
    "gateway.control_socket": "cortexctl is connected to it",
    "gateway.control_mode": "the socket has its mode since it was opened",
}
"""The keys that a reload does not apply, and why. They take effect at the next restart."""

_WORDS: Final = {
    "id": "the secret",
    "hash": "the secret",
    "former_id": "the former secret",
    "former_hash": "the former secret",
    "former_until": "the former secret",
}

LONGEST_VALUE: Final = 200
"""How many characters of a value are shown."""


class ConfigChange(NamedTuple):
    """One difference: the path of its key as in a file's errors, and what became of it, in words.

    ``at_restart`` says that it takes effect at the next restart only.
    """

    key: str
    words: str
    at_restart: bool = False

    def __str__(self) -> str:
        later = "; takes effect at the next restart" if self.at_restart else ""
        return f"{self.key}: {self.words}{later}"


def changes(before: Config, after: Config) -> list[ConfigChange]:
    """Return what differs, in the order of the tables; an empty list if nothing does."""
    found: list[ConfigChange] = []
    for table in Config.__struct_fields__:
        old, new = getattr(before, table), getattr(after, table)
        if isinstance(old, Struct):
            found += _keys(table, old, new)
    found += _entries("nodes", _by(before.nodes, "name"), _by(after.nodes, "name"))
    found += _entries("models", _by(before.models, "id"), _by(after.models, "id"))
    return found


def key_changes(before: Mapping[str, Key], after: Mapping[str, Key]) -> Iterator[ConfigChange]:
    """Yield which keys come, go or change, by their names; no value of a key is shown."""
    for name, key in before.items():
        if name not in after:
            yield ConfigChange(f"keys ({name})", "removed")
        elif fields := list(dict.fromkeys(_changed_fields(key, after[name]))):
            yield ConfigChange(f"keys ({name})", f"changed: {', '.join(fields)}")
    for name in after:
        if name not in before:
            yield ConfigChange(f"keys ({name})", "added")


def _changed_fields(before: Key | KeyLimits, after: Key | KeyLimits) -> Iterator[str]:
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, KeyLimits):
            yield from _changed_fields(old, new)
        elif old != new:
            yield _WORDS.get(field.name, field.name)


def is_another_node(before: NodeSettings, after: NodeSettings) -> bool:
    """Return whether a node of the same name is another machine, or runs another engine."""
    return (before.endpoint, before.runs) != (after.endpoint, after.runs)


def _by(entries: Sequence[Any], key: str) -> dict[str, Any]:
    return {getattr(entry, key): entry for entry in entries}


def _entries(
    table: str,
    before: Mapping[str, NodeSettings | ModelSettings],
    after: Mapping[str, NodeSettings | ModelSettings],
) -> Iterator[ConfigChange]:
    for name, old in before.items():
        path = f"{table} ({printable(name)})"
        new = after.get(name)
        if new is None:
            yield ConfigChange(path, "removed")
            continue
        if (
            isinstance(old, NodeSettings)
            and isinstance(new, NodeSettings)
            and is_another_node(old, new)
        ):
            yield ConfigChange(
                path, "another node under this name: running requests end at the old one"
            )
        yield from _keys(path, old, new)
    for name, new in after.items():
        if name not in before:
            where = f", {new.endpoint}" if isinstance(new, NodeSettings) else ""
            yield ConfigChange(f"{table} ({printable(name)})", f"added{where}")
    kept = [name for name in before if name in after]
    order = [name for name in after if name in before]
    if kept != order:
        yield ConfigChange(table, f"in another order: {_cut(', '.join(map(printable, order)))}")


def _keys(path: str, before: Struct, after: Struct) -> Iterator[ConfigChange]:
    for key in before.__struct_fields__:
        old, new = getattr(before, key), getattr(after, key)
        if old != new:
            name = f"{path}.{key}"
            yield ConfigChange(name, f"{shown(old)} -> {shown(new)}", name in AT_RESTART)


def shown(value: object) -> str:
    """Return a value as in the file, not longer than LONGEST_VALUE."""
    match value:
        case None:
            text = "not set"
        case bool():
            text = str(value).lower()
        case str():
            text = quoted(value)
        case Struct():
            text = shown({key: getattr(value, key) for key in value.__struct_fields__})
        case Mapping():
            text = "{" + ", ".join(f"{quoted(k)} = {shown(v)}" for k, v in value.items()) + "}"
        case tuple() | list():
            text = "[" + ", ".join(map(shown, value)) + "]"
        case _:
            text = str(value)
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
