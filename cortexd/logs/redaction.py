"""Values as plain data, without what no log may contain: a client's text and credentials."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from twisted.python.reflect import safe_repr
from twisted.web.http_headers import Headers

REDACTED: Final = "[redacted]"

# We compare in lower case with "_" for "-". No log may contain a client's text or credentials.
REDACTED_KEYS: Final = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "body",
        "content",
        "cookie",
        "input",
        "messages",
        "password",
        "prompt",
        "proxy_authorization",
        "secret",
        "set_cookie",
        "x_api_key",
    }
)

# journald splits a line above 48 KiB in two, and neither half is JSON.
MAX_TEXT_LENGTH: Final = 8192
MAX_DEPTH: Final = 8


def redacted(value: object) -> Any:
    """Copy a value as plain data: safe to serialise, without the values of ``REDACTED_KEYS``.

    Mappings, header collections, dataclasses and msgspec Structs become dicts, and each of their
    values under a key of these becomes "[redacted]", as does the value of a (name, value) pair;
    sequences and sets become lists; text is cut at ``MAX_TEXT_LENGTH`` characters; any other value
    that is not JSON becomes its repr.
    """
    return _redacted(value, MAX_DEPTH)


def _redacted(value: object, depth: int) -> Any:
    """Redact down to ``depth`` levels; the limit also stops at a structure that contains itself."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return shortened(encodable(value))
    # msgspec rejects integers of more than 64 bits.
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if depth == 0:
        return "[too deep]"
    items = _items_of(value)
    if items is not None:
        return _redacted_fields(items, depth)
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) == 2 and isinstance(value, list | tuple) and _is_secret(value[0]):
            return [_redacted(value[0], depth - 1), REDACTED]
        return [_redacted(item, depth - 1) for item in value]
    return shortened(encodable(safe_repr(value)))


def _redacted_fields(fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    """Redact named values; a value that is already plain costs no further call."""
    plain: dict[str, Any] = {}
    for key, value in fields.items():
        name, is_secret = _name_of(key if isinstance(key, str) else _text(key))
        if is_secret:
            plain[name] = REDACTED
        elif value is None or (
            type(value) is str and len(value) <= MAX_TEXT_LENGTH and value.isascii()
        ):
            plain[name] = value
        else:
            plain[name] = _redacted(value, depth - 1)
    return plain


# All log lines together use about a hundred names.
@lru_cache(maxsize=1024)
def _name_of(key: str) -> tuple[str, bool]:
    """Return a field's name in encodable form, and whether we must redact its value."""
    return encodable(key), _is_secret(key)


def _items_of(value: object) -> Mapping[Any, Any] | None:
    """Return the named parts of a value, None where it has no names."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Headers):
        return dict(value.getAllRawHeaders())
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name, None) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name, None) for name in names}
    return None


def _is_secret(key: object) -> bool:
    return _text(key).lower().replace("-", "_") in REDACTED_KEYS


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else safe_repr(key)


def encodable(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode; a client can send them in JSON."""
    if type(text) is str and text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shortened(text: str) -> str:
    """Cut a text at MAX_TEXT_LENGTH characters, and say how many it had."""
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    return f"{text[:MAX_TEXT_LENGTH]}... [{len(text)} characters]"
