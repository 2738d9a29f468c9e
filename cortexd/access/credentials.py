"""The key in the headers of a request.

A key comes as ``Authorization: Bearer KEY``, as ``x-api-key: KEY``, or as the password of
``Authorization: Basic``, with any user name. Clients may send several of these headers, and other
credentials beside the key, such as those for a proxy: all that has not the form of a key of ours is
passed over. Two different keys are none, because a server before us may have looked at the other.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from cortexd.access.secret import KEY_LENGTH, id_of

LONGEST: Final = 1024
"""Longer credentials have no key of ours in them, whatever they are."""


class NoKey(Enum):
    """Why the headers have no key; the value continues the words "the request has"."""

    ABSENT = "no key"
    FOREIGN = "no complete key of this gateway (sk-cortex-...)"
    SEVERAL = "two different keys"


_BEARER: Final = b"Bearer "
_BASIC: Final = b"Basic "


def usual_key(authorization: Sequence[bytes], api_key: Sequence[bytes]) -> bytes | None:
    """Return what may be a key, if it comes in one of the usual ways and alone.

    This is the short way to a key that came before: ``key_in`` finds the same, and takes longer.
    """
    if not api_key and len(authorization) == 1:
        value = authorization[0]
        if value.startswith(_BEARER) and len(value) == KEY_LENGTH + len(_BEARER):
            return value[len(_BEARER) :]
        if value.startswith(_BASIC) and len(value) <= LONGEST:
            try:
                both = a2b_base64(value[len(_BASIC) :], strict_mode=True)
            except ValueError:
                return None
            password = both.partition(b":")[2]
            return password if len(password) == KEY_LENGTH else None
    elif not authorization and len(api_key) == 1 and len(api_key[0]) == KEY_LENGTH:
        return api_key[0]
    return None


def key_in(authorization: Sequence[bytes], api_key: Sequence[bytes]) -> str | NoKey:
    """Return the key in the values of the headers Authorization and x-api-key.

    The key has the form of a key of ours, and may be a wrong one.
    """
    found: str | NoKey = NoKey.FOREIGN if authorization or api_key else NoKey.ABSENT
    for text in _texts(authorization, api_key):
        if text != found and id_of(text) is not None:
            if isinstance(found, str):
                return NoKey.SEVERAL
            found = text
    return found


def _texts(authorization: Sequence[bytes], api_key: Sequence[bytes]) -> Iterator[str]:
    for value in authorization:
        scheme, _, credentials = value.partition(b" ")
        if len(credentials) <= LONGEST:
            match scheme.lower():
                case b"bearer":
                    yield credentials.strip(b" ").decode("latin-1")
                case b"basic":
                    yield _password(credentials.strip(b" "))
    for value in api_key:
        if len(value) <= LONGEST:
            yield value.strip(b" ").decode("latin-1")


def _password(credentials: bytes) -> str:
    """Return the password of Basic credentials (RFC 7617), ``""`` where there is none."""
    try:
        both = b64decode(credentials + b"=" * (-len(credentials) % 4), validate=True)
    except ValueError:
        return ""
    return both.partition(b":")[2].decode("latin-1")
