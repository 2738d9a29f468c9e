"""All keys of the gateway, found by the id in each; a reload replaces them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from cortexd.access.callers import Caller, caller_with
from cortexd.access.keys import Key


class KeyRing:
    """The ``keys`` that admit requests; ``None`` where no key is required.

    ``generation`` grows whenever the keys are replaced, so that what was learned of them can be
    forgotten.
    """

    def __init__(self, keys: Iterable[Key] | None) -> None:
        self.generation = 0
        self._callers: dict[str, Caller] = {}
        self._hashes: dict[str, tuple[Key, str, float | None]] = {}
        self._keys: Mapping[str, Key] | None = None
        self.take(keys)

    def take(self, keys: Iterable[Key] | None) -> None:
        """Replace all keys, unless they are the same."""
        known = None if keys is None else {key.name: key for key in keys}
        if self.generation and known == self._keys:
            return
        self.generation += 1
        self._keys = None if known is None else MappingProxyType(known)
        self._callers = {name: caller_with(key) for name, key in (known or {}).items()}
        self._hashes.clear()
        for key in (known or {}).values():
            self._hashes[key.id] = key, key.hash, key.expires
            if key.former_id is not None and key.former_hash is not None:
                until = min(
                    t for t in (key.former_until, key.expires, float("inf")) if t is not None
                )
                self._hashes[key.former_id] = key, key.former_hash, until

    @property
    def is_required(self) -> bool:
        """Whether a request needs a key."""
        return self._keys is not None

    @property
    def keys(self) -> Mapping[str, Key]:
        """The keys by their names, in the order of the file."""
        return self._keys if self._keys is not None else MappingProxyType({})

    def caller(self, name: str) -> Caller:
        """Return the caller with the key of a name. Raises KeyError."""
        return self._callers[name]

    def find(self, key_id: str) -> tuple[Key, str, float | None] | None:
        """Return the key with an id, its hash, and when it ends in unix seconds, or ``None``."""
        return self._hashes.get(key_id)

    @property
    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the hash of each key, and of each former text of a rotated one."""
        for key_id, (_, key_hash, _) in self._hashes.items():
            yield key_id, key_hash
