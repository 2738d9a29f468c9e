"""Changes of a keys file, from its text to the text with one key more, another hash, or less.

What people wrote stays as it is, with their order, comments and blank lines: only the lines of the
key that changes are written anew. A parser of TOML that keeps comments was tried instead (tomlkit
0.15): it takes a comment above a table for the end of the table before, so that removing a key
removes the comment of the next one, and adds new values below that comment.

The caller must compare the keys of the new text with those that it expects (``parse`` of
``cortexd.config.keys_file``): a file may have a form that these functions do not know.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cortexd.config.keys_file import KeySettings

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|(?P<comment>#[^\n]*)"
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<end>\n)|(?P<equals>=)"
    r"|[^\"'#\[\]{}=\n]+|.",
    re.DOTALL,
)
_HEADER: Final = re.compile(r"\s*\[\[")
_FORMER: Final = ("former_id", "former_hash", "former_until")


class UnknownFormError(Exception):
    """Raised for a file whose tables these functions cannot tell apart."""


class _Statement(NamedTuple):
    """A statement of a TOML text, from the beginning of its first line to the end of its last.

    ``key`` is empty for a header or a comment; else the value begins and ends at ``value``.
    """

    start: int
    end: int
    key: str
    value: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Table:
    """One ``[[keys]]`` table: its header, and its values by their keys, in their order."""

    header: _Statement
    values: Mapping[str, _Statement]

    @property
    def end(self) -> int:
        """Where its last value ends."""
        return max([self.header.end, *(each.end for each in self.values.values())])


def added(text: str, key: KeySettings) -> str:
    """Return the text with a key more, at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    more = ("\n" if text.strip() else "") + table_text(key)
    return text + (more.replace("\n", "\r\n") if "\r\n" in text else more)


def rotated(text: str, name: str, after: KeySettings) -> str:
    """Return the text with another id and hash of a key, as in ``after``, and its former ones.

    Raises KeyError for a name that no key has, and UnknownFormError.
    """
    table = _table_of(text, name)
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
    table = _table_of(text, name)
    before, after = text[: table.header.start], text[table.end :]
    if not before.strip() or before.endswith("\n\n"):
        after = after.removeprefix("\n")
    return before + after


def table_text(key: KeySettings) -> str:
    """Return the table of a key; what has its default value is left out."""
    return (
        "\n".join(["[[keys]]", *(f"{name} = {value}" for name, value in _values(key).items())])
        + "\n"
    )


def _values(key: KeySettings) -> dict[str, str]:
    """Return the values of a key as they stand in a file."""
    plain = KeySettings(name=key.name, id=key.id, hash=key.hash)
    always = ("name", "id", "hash", "scopes")
    return {
        field: _written(value)
        for field in key.__struct_fields__
        if (value := getattr(key, field)) != getattr(plain, field) or field in always
    }


def _written(value: Any) -> str:
    match value:
        case datetime():
            moment = value.astimezone(UTC).replace(microsecond=0)
            return moment.isoformat().replace("+00:00", "Z")
        case tuple():
            return f"[{', '.join(map(_written, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False)  # its escapes are TOML's too
    return repr(value)


def _lines(text: str, after: _Statement, lines: list[str]) -> str:
    """Return lines that follow a statement, indented as it is."""
    line = text[after.start : after.end]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    ending = "\r\n" if line.endswith("\r\n") else "\n"
    begun = "" if line.endswith("\n") else "\n"
    return begun + "".join(f"{indent}{each}{ending}" for each in lines)


def _table_of(text: str, name: str) -> _Table:
    for table in _tables(text):
        statement = table.values.get("name")
        if statement is not None and _read(text, statement) == {"name": name}:
            return table
    if name in (each.get("name") for each in tomllib.loads(text).get("keys", ())):
        raise UnknownFormError
    raise KeyError(name)


def _tables(text: str) -> Iterator[_Table]:
    header: _Statement | None = None
    values: dict[str, _Statement] = {}
    for statement in _statements(text):
        if _HEADER.match(text, statement.start, statement.end):
            if header is not None:
                yield _Table(header, values)
            header, values = statement, {}
        elif statement.key:
            values[statement.key] = statement
    if header is not None:
        yield _Table(header, values)


def _read(text: str, statement: _Statement) -> dict[str, Any]:
    """Return the value of a statement by its key; nothing if it was cut at a wrong place."""
    try:
        return tomllib.loads(text[statement.start : statement.end])
    except tomllib.TOMLDecodeError:
        return {}


def _statements(text: str) -> Iterator[_Statement]:
    """Cut a valid TOML text into its statements."""
    start = value = last = depth = 0
    key = ""
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "end" and depth == 0:
            yield _Statement(start, token.end(), key, (value, last))
            start, key = token.end(), ""
        elif kind == "equals" and not key:
            key = text[start : token.start()].strip().strip("\"'")
            value = last = token.end() + _blanks(text, token.end())
        else:
            depth += (kind == "open") - (kind == "close")
            if kind != "comment" and not token[0].isspace():
                last = token.start() + len(token[0].rstrip())
    if start < len(text):
        yield _Statement(start, len(text), key, (value, last))


def _blanks(text: str, start: int) -> int:
    """Return how many blanks begin there."""
    end = start
    while text[end : end + 1] in (" ", "\t"):
        end += 1
    return end - start
