"""Keys for tests: their hashes cost next to nothing, unlike those of real keys."""

from __future__ import annotations

from typing import Any, NamedTuple

from cortexd.access.keys import Key
from cortexd.access.secret import hashed, id_of, new_key

CHEAP = 1
"""The cost of a hash: scrypt with N = 2."""


class Given(NamedTuple):
    """A ``key`` of the keys file, and the ``text`` that its client sends."""

    key: Key
    text: str

    @property
    def bearer(self) -> dict[str, str]:
        """The headers of a client that has the key."""
        return bearer(self.text)


def given(name: str = "alice", **fields: Any) -> Given:
    """Make a key; ``fields`` are those of Key."""
    text = new_key()
    return Given(Key(name, found_id(text), hashed(text, CHEAP), **fields), text)


def rotated(before: Given, until: float | None = None) -> Given:
    """Return the same key with a new text; the one before is valid until then."""
    after = given(before.key.name)
    fields = {field: getattr(before.key, field) for field in Key.__slots__}
    fields |= {"id": after.key.id, "hash": after.key.hash, "former_until": until}
    fields |= {"former_id": before.key.id, "former_hash": before.key.hash}
    return Given(Key(**fields), after.text)


def found_id(text: str) -> str:
    """Return the id in the text of a key."""
    found = id_of(text)
    assert found is not None
    return found


def bearer(text: str) -> dict[str, str]:
    """Return the headers with a key, as OpenAI's SDKs send it."""
    return {"Authorization": f"Bearer {text}"}
