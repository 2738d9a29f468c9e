"""Changes of a keys file, from its text to the text with one key more, another hash, or less.

The caller must compare the keys of the new text with those that it expects (``parse`` of
``cortexd.config.keys_file``); see ``cortexd.config.tables_text``.
"""

from __future__ import annotations

from typing import Final

from cortexd.config.keys_file import KeySettings
from cortexd.config.tables_text import (
    Statement,
    appended,
    find_table,
    without,
    written,
    written_table,
)

_FORMER: Final = ("former_id", "former_hash", "former_until")


def added(text: str, key: KeySettings) -> str:
    """Return the text with a key more, at its end."""
    return appended(text, table_text(key))


def rotated(text: str, name: str, after: KeySettings) -> str:
    """Return the text with another id and hash of a key, as in ``after``, and its former ones.

    Raises KeyError for a name that no key has, and UnknownFormError.
    """
    table = find_table(text, "keys", "name", name)
    new = _values(after)
    changing = ("id", "hash", *_FORMER, "created")
    more = [f"{key} = {new[key]}" for key in changing if key in new and key not in table.values]
    for key, statement in sorted(table.values.items(), key=lambda each: -each[1].start):
        if key == "hash" and more:
            text = text[: statement.end] + _lines(text, statement, more) + text[statement.end :]
        if key in changing:
            begin, end = statement.value
            text = (
                text[:begin] + new[key] + text[end:]
                if key in new
                else text[: statement.start] + text[statement.end :]
            )
    return text


def revoked(text: str, name: str) -> str:
    """Return the text without a key: comments around its table stay, those inside it go.

    Raises KeyError for a name that no key has, and UnknownFormError.
    """
    return without(text, find_table(text, "keys", "name", name))


def table_text(key: KeySettings) -> str:
    """Return the table of a key; what has its default value is left out."""
    return written_table("keys", _values(key))


def _values(key: KeySettings) -> dict[str, str]:
    """Return the values of a key as they stand in a file."""
    plain = KeySettings(name=key.name, id=key.id, hash=key.hash)
    always = ("name", "id", "hash", "scopes")
    return {
        field: written(value)
        for field in key.__struct_fields__
        if (value := getattr(key, field)) != getattr(plain, field) or field in always
    }


def _lines(text: str, after: Statement, lines: list[str]) -> str:
    """Return lines that follow a statement, indented as it is."""
    line = text[after.start : after.end]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    ending = "\r\n" if line.endswith("\r\n") else "\n"
    begun = "" if line.endswith("\n") else "\n"
    return begun + "".join(f"{indent}{each}{ending}" for each in lines)
