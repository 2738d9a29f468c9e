"""TOML tables in, frozen Structs with checked values out.

Reading walks a file along the types of its Structs. The error for a wrong value therefore has the
path of its key, the value that was found, and the values that the type allows.
"""

import datetime
import difflib
import math
import operator
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

from msgspec import inspect as types

from cortexd.config.addresses import quoted, refusal
from cortexd.text import one_line, printable


class ConfigError(Exception):
    """Raised when a configuration cannot be used; its message is one line for its author."""


# ---------------------------------------------------------------------- values and messages


def as_written(value: object) -> str:
    """Render a TOML value in the form in which it stands in the file."""
    match value:
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 63:  # Python does not print very long integers
            return "an integer beyond 64 bits"
        case int() | float():
            return repr(value)
        case str():
            return quoted(value)
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def key_text(key: str) -> str:
    """Write a key as TOML requires it: in quotes, unless it is a bare key."""
    return printable(key) if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


# ---------------------------------------------------------------------- from TOML to the tables

BOUNDS: Final = (
    ("gt", ">", operator.gt),
    ("ge", ">=", operator.ge),
    ("lt", "<", operator.lt),
    ("le", "<=", operator.le),
)


class FaultError(Exception):
    """Raised for a fault inside a file; ConfigError adds the name of the file."""


def fail(path: str, wrong: object) -> NoReturn:
    """Raise FaultError for a key path."""
    raise FaultError(f"{path}: {wrong}")


def _unwrapped(kind: types.Type) -> tuple[types.Type, str | None, Callable[[Any], Any] | None]:
    """Return the type without Meta and `| None` (TOML has no null), its noun and its parser."""
    noun, parse = None, None
    while True:
        match kind:
            case types.Metadata(type=inner, extra=extra):
                kind, noun, parse = inner, (extra or {}).get("noun"), (extra or {}).get("parse")
            case types.UnionType(types=members):
                kind = next(inner for inner in members if not isinstance(inner, types.NoneType))
            case _:
                return kind, noun, parse


def _bounds(kind: types.IntType | types.FloatType) -> Iterator[tuple[str, Any, Any]]:
    for attribute, sign, holds in BOUNDS:
        if (bound := getattr(kind, attribute)) is not None:
            yield sign, holds, bound


def _expected(kind: types.Type, path: str) -> str:
    """Describe the values that a type allows at a key path."""
    kind, noun, _ = _unwrapped(kind)
    match kind:
        case types.IntType() | types.FloatType():
            noun = noun or ("an integer" if isinstance(kind, types.IntType) else "a number")
            limits = " and ".join(f"{sign} {bound}" for sign, _, bound in _bounds(kind))
            return f"{noun} {limits}".rstrip()
        case types.LiteralType(values=values):
            return " or ".join(map(as_written, values))
        case types.VarTupleType(item_type=types.StructType(), min_length=least):
            return f"{'at least one' if least else 'any number of'} [[{path}]]"
        case types.VarTupleType(item_type=item):
            strings = "at least one string" if kind.min_length else "strings"
            return f"a list of {strings}, each {_expected(item, path)}"
        case types.DictType(value_type=item):
            return f"a table, each value {_expected(item, path)}"
        case types.BoolType():
            return "true or false"
        case types.DateTimeType():
            return "a date and time with its time zone, such as 2027-01-31T18:00:00Z"
        case types.StructType():
            return "a table" if path.endswith("]") else f"a table, [{path}]"
    return noun or "a string"


def _build(kind: types.Type, value: object, path: str) -> Any:
    """Convert a TOML value to the type of its field, or raise FaultError with a key path."""
    plain, _, parse = _unwrapped(kind)
    match plain, value:
        case types.StructType(), dict():
            return struct_of(plain, value, path)
        case types.VarTupleType(item_type=item), list() if len(value) >= (plain.min_length or 0):
            return tuple(
                _build(item, entry, f"{path}[{index}]{_label(item, entry)}")
                for index, entry in enumerate(value)
            )
        case types.DictType(key_type=name, value_type=item), dict():
            built = {k: _build(item, entry, f"{path}.{key_text(k)}") for k, entry in value.items()}
            return MappingProxyType({_build(name, k, f"a key of {path}"): built[k] for k in built})
        case types.LiteralType(values=values), str() if value in values:
            return value
        case types.BoolType(), bool():
            return value
        case types.DateTimeType(), datetime.datetime() if value.tzinfo is not None:
            return value
        case types.StrType(), str():
            try:
                return parse(value) if parse else value
            except ValueError as error:
                fail(path, error)
        case ((types.IntType() | types.FloatType()), _):
            if (number := _number(plain, value)) is not None:
                return number
    shown = "another value" if _is_secret(kind) else as_written(value)
    fail(path, refusal(shown, _expected(kind, path)))


def _is_secret(kind: types.Type) -> bool:
    """Return whether no message may show a value of this type."""
    match kind:
        case types.Metadata(type=inner, extra=extra):
            return bool((extra or {}).get("secret")) or _is_secret(inner)
        case types.UnionType(types=members):
            return any(map(_is_secret, members))
    return False


def _number(kind: types.IntType | types.FloatType, value: object) -> int | float | None:
    """Convert a value to the number type, or return None if it is no number or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and value.bit_length() > 63:
        return None
    if isinstance(kind, types.FloatType):
        value = float(value)
    elif isinstance(value, float):
        return None
    within = math.isfinite(value) and all(holds(value, bound) for _, holds, bound in _bounds(kind))
    return value if within else None


def _label(kind: types.Type, entry: object) -> str:
    """Return ` (gpu-small)` for an entry of a table, which is easier to find by its name or id."""
    if not isinstance(kind, types.StructType) or not isinstance(entry, dict):
        return ""
    # The id of an entry that should have a name may be a secret.
    has_name = any(field.name == "name" for field in kind.fields)
    name = entry.get("name" if has_name else "id")
    return f" ({printable(name)})" if isinstance(name, str) and name else ""


def struct_of(kind: types.StructType, table: dict[str, object], path: str) -> Any:
    """Return the Struct of a type for the table at a key path, or raise FaultError."""
    prefix = f"{path}." if path else ""
    fields = {known.name: known for known in kind.fields}
    for key in table:
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1)
            advice = f"did you mean {prefix}{nearest[0]}?" if nearest else ""
            advice = advice or f"the keys here are {', '.join(fields)}"
            raise FaultError(f"unknown key {prefix}{key_text(key)}; {advice}")
    values = {}
    for key, known in fields.items():
        if key in table:
            values[key] = _build(known.type, table[key], prefix + key)
        elif known.required:
            fail(prefix + key, f"missing, expected {_expected(known.type, prefix + key)}")
    return kind.cls(**values)


# ---------------------------------------------------------------------- files


def toml_table(text: str) -> dict[str, object]:
    """Return the tables of a TOML text, or raise FaultError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        wrong, _, place = str(error).removesuffix(")").rpartition(" (at ")
        if place == "end of document":
            place = f"line {len(text.splitlines()) or 1}"
        raise FaultError(f"{place}: not valid TOML: {one_line(wrong)}") from None
    except RecursionError:
        raise FaultError("not valid TOML: lists or tables nested too deeply") from None
    except ValueError as error:  # Python does not convert a number of 5000 digits
        raise FaultError(f"not valid TOML: {one_line(str(error))}") from None


def text_of(path: str | os.PathLike[str]) -> str:
    """Return the text of a file in UTF-8.

    Raises ConfigError for a file that is missing, unreadable or not UTF-8.
    """
    source = os.fspath(path)
    try:
        content = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(source, error) from None
    return decoded(content, source)


def unreadable(source: str, error: Exception, expected: str = "a TOML file") -> ConfigError:
    """Return the error for a file that cannot be read."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return ConfigError(
        f"{one_line(source)}: cannot be read ({one_line(reason)}), expected {expected}"
    )


def decoded(content: bytes, source: str) -> str:
    """Return the text of a file. Raises ConfigError for other bytes than UTF-8."""
    try:
        return content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{content[error.start]:02x}, expected UTF-8 text"
        raise ConfigError(f"{one_line(source)}: line {line}: {found}") from None


def table_of(kind: types.StructType, found: str | Mapping[str, object], source: str) -> Any:
    """Return the Struct of a type for a TOML text, or for a table of one, with its values checked.

    Raises ConfigError as `parse` does.
    """
    try:
        return struct_of(kind, toml_table(found) if isinstance(found, str) else dict(found), "")
    except FaultError as fault:
        raise ConfigError(f"{one_line(source)}: {fault}") from None
