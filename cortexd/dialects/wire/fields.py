"""Readers of a client's fields: the error for a wrong field has its path."""

from __future__ import annotations

from typing import Any

from cortexd.dialects.wire.json_values import JsonObject, type_name
from cortexd.errors import BadRequest

MAX_QUOTED_CHARACTERS = 64
"""The maximum length of a value in an error: enough for every name in a dialect."""


def refused(path: str, words: str) -> BadRequest:
    """Return the error for the field at ``path``; its message is the path followed by ``words``."""
    return BadRequest(f"{path} {words}", param=path, code="invalid_value")


def quoted(value: str) -> str:
    """Return a client's string in quotes, shortened for an error."""
    cut = len(value) > MAX_QUOTED_CHARACTERS
    return f"'{value[:MAX_QUOTED_CHARACTERS]}…'" if cut else f"'{value}'"


def read_string(value: object, path: str) -> str:
    """Return a string, which may be empty. Raises BadRequest."""
    if isinstance(value, str):
        return value
    raise refused(path, f"must be a string; found {type_name(value)}")


def read_optional_string(value: object, path: str) -> str:
    """Return a string, empty if it is absent or null. Raises BadRequest."""
    return "" if value is None else read_string(value, path)


def read_name(value: object, path: str) -> str:
    """Return a string that is not empty. Raises BadRequest."""
    if value == "":
        raise refused(path, "must not be empty")
    return read_string(value, path)


def read_list(value: object, path: str) -> list[Any]:
    """Return an array. Raises BadRequest."""
    if isinstance(value, list):
        return value
    raise refused(path, f"must be an array; found {type_name(value)}")


def read_dict(value: object, path: str) -> JsonObject:
    """Return an object. Raises BadRequest."""
    if isinstance(value, dict):
        return value
    raise refused(path, f"must be an object; found {type_name(value)}")


def read_integer(value: object, path: str, least: int) -> int:
    """Return an integer that is ``least`` or more. Raises BadRequest."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise refused(path, f"must be an integer, {least} or more; found {_found(value)}")


def read_number(value: object, path: str, most: float) -> float:
    """Return a number from 0 to ``most``. Raises BadRequest."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    raise refused(path, f"must be a number from 0 to {most:g}; found {_found(value)}")


def _found(value: object) -> str:
    is_number = type(value) in (int, float)
    return str(value)[:MAX_QUOTED_CHARACTERS] if is_number else type_name(value)
