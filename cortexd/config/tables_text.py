"""The ``[[...]]`` tables in a TOML text, found where they stand: for changes of files of people.

What people wrote stays as it is, with their order, comments and blank lines: only the lines of the
table that changes are written anew. A parser of TOML that keeps comments was tried instead (tomlkit
0.15): it takes a comment above a table for the end of the table before, so that removing a table
removes the comment of the next one, and adds new values below that comment.

The caller must compare what the new text says with what it expects: a file may have a form that
these functions do not know.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

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
_HEADER: Final = re.compile(r"\s*\[\[\s*([^\]]*?)\s*\]\]")


class UnknownFormError(Exception):
    """Raised for a file whose tables these functions cannot tell apart."""


class Statement(NamedTuple):
    """A statement of a TOML text, from the beginning of its first line to the end of its last.

    ``key`` is empty for a header or a comment; else the value begins and ends at ``value``.
    """

    start: int
    end: int
    key: str
    value: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Table:
    """One ``[[name]]`` table: its header, and its values by their keys, in their order."""

    name: str
    header: Statement
    values: Mapping[str, Statement]

    @property
    def end(self) -> int:
        """Where its last value ends."""
        return max([self.header.end, *(each.end for each in self.values.values())])


def find_table(text: str, name: str, key: str, value: str) -> Table:
    """Return the table of a name whose key has this value.

    Raises KeyError if there is none, and UnknownFormError if there is one of another form.
    """
    for table in _tables(text):
        statement = table.values.get(key)
        if table.name != name or statement is None:
            continue
        if _read(text, statement) == {key: value}:
            return table
    if value in (each.get(key) for each in tomllib.loads(text).get(name, ())):
        raise UnknownFormError
    raise KeyError(value)


def appended(text: str, table: str) -> str:
    """Return a text with a table more, at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    more = ("\n" if text.strip() else "") + table
    return text + (more.replace("\n", "\r\n") if "\r\n" in text else more)


def without(text: str, table: Table) -> str:
    """Return a text without a table: comments around it stay, those inside it go."""
    before, after = text[: table.header.start], text[table.end :]
    if not before.strip() or before.endswith("\n\n"):
        after = after.removeprefix("\n")
    return before + after


def written_table(name: str, values: Mapping[str, str]) -> str:
    """Return the text of a table; its values are as ``written`` returns them."""
    return "\n".join([f"[[{name}]]", *(f"{key} = {text}" for key, text in values.items())]) + "\n"


def written(value: Any) -> str:
    """Return a value as it stands in a file."""
    match value:
        case datetime():
            moment = value.astimezone(UTC).replace(microsecond=0)
            return moment.isoformat().replace("+00:00", "Z")
        case tuple():
            return f"[{', '.join(map(written, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False)  # its escapes are TOML's too
    return repr(value)


def _tables(text: str) -> Iterator[Table]:
    header: Statement | None = None
    name, values = "", dict[str, Statement]()
    for statement in _statements(text):
        if found := _HEADER.match(text, statement.start, statement.end):
            if header is not None:
                yield Table(name, header, values)
            header, name, values = statement, found[1].strip("\"'"), {}
        elif statement.key:
            values[statement.key] = statement
    if header is not None:
        yield Table(name, header, values)


def _read(text: str, statement: Statement) -> dict[str, Any]:
    """Return the value of a statement by its key; nothing if it was cut at a wrong place."""
    try:
        return tomllib.loads(text[statement.start : statement.end])
    except tomllib.TOMLDecodeError:
        return {}


def _statements(text: str) -> Iterator[Statement]:
    """Cut a valid TOML text into its statements."""
    start = value = last = depth = 0
    key = ""
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "end" and depth == 0:
            yield Statement(start, token.end(), key, (value, last))
            start, key = token.end(), ""
        elif kind == "equals" and not key:
            key = text[start : token.start()].strip().strip("\"'")
            value = last = token.end() + _blanks(text, token.end())
        else:
            depth += (kind == "open") - (kind == "close")
            if kind != "comment" and not token[0].isspace():
                last = token.start() + len(token[0].rstrip())
    if start < len(text):
        yield Statement(start, len(text), key, (value, last))


def _blanks(text: str, start: int) -> int:
    """Return how many blanks begin there."""
    end = start
    while text[end : end + 1] in (" ", "\t"):
        end += 1
    return end - start
