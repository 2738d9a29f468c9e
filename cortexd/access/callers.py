"""The caller of a request: a key, or anybody where no keys are required."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cortexd.access.keys import Key, Scope
from cortexd.access.requesters import ANYONE, Requester


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. One value serves all requests with a key.

    Without a ``key``, ``scopes`` still say what the request may do.
    """

    key: Key | None
    scopes: frozenset[Scope]
    requester: Requester

    @property
    def name(self) -> str:
        """The key's name, empty without a key."""
        return self.requester.name

    def may(self, scope: Scope) -> bool:
        """Whether the caller may use the routes of a scope."""
        return scope in self.scopes

    def sees(self, names: Iterable[str]) -> bool:
        """Whether a model that has these names, its id among them, is there for the caller."""
        return self.key is None or any(map(self.key.allows, names))


def caller_with(key: Key) -> Caller:
    """Return the caller of all requests with a key."""
    return Caller(key, key.scopes, Requester(key.name, key.priority, key.weight))


NOBODY = Caller(None, frozenset(), ANYONE)
"""The caller of a request that was not admitted, or not yet."""

ANYBODY = Caller(None, frozenset(Scope), ANYONE)
"""The caller of each request where no keys are required."""
