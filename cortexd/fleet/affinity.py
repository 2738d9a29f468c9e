"""Which node keeps the thing that an id names: it lives in the memory of one node or one engine.

Pure: ``now`` is an argument, in seconds, and must never go back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MOST_IDS: Final = 100_000
"""How many ids of one kind are remembered at once: some 30 MB."""

LONGEST_ID: Final = 512
"""In characters. Longer ids are not remembered; clients choose the ids of sessions."""

Key = TypeVar("Key", bound=Hashable)


class StateKind(enum.Enum):
    """The kinds of things that nodes keep; an id means something within one kind only."""

    RESPONSE = "response"
    SESSION = "session"
    FILE = "file"
    CONTAINER = "container"
    APPROVAL = "approval"


LIFETIMES: Final[Mapping[StateKind, float]] = {
    StateKind.RESPONSE: 24 * 3600.0,
    StateKind.SESSION: 3600.0,
    StateKind.FILE: 3600.0,
    StateKind.CONTAINER: 3600.0,
    StateKind.APPROVAL: 600.0,
}
"""How long an id is remembered after its last use, in seconds.

Nodes keep responses until they restart, and clients come back within a day. The other lifetimes are
twice the node's own 30 and 5 minutes (nodes.md 6): a node counts from the last use, but the gateway
does not see every use, so the node has the last word.
"""

OF_AN_ENGINE: Final = frozenset({StateKind.SESSION, StateKind.FILE, StateKind.CONTAINER})
"""The kinds that are lost with the model's engine; the others are lost with the node's process."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A thing that a node keeps: its kind, and its id, which a node or a client has chosen."""

    kind: StateKind
    id: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A kept thing that a request refers to, and the path of the field that names it."""

    kept: Kept
    param: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thing is kept: a node, and the model whose engine has it, ``None`` if unknown."""

    node: str
    model: str | None = None


class Affinity(Generic[Key]):
    """Remembers the place of each key for ``lifetime`` seconds, but only the ``limit`` newest."""

    def __init__(self, lifetime: float, limit: int = MOST_IDS) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._places: dict[Key, tuple[Place, float]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._places)

    def remember(self, key: Key, place: Place, now: float) -> None:
        """Remember that ``place`` keeps ``key``, from ``now`` on."""
        self._places.pop(key, None)
        self._places[key] = (place, now)
        for oldest in self._oldest(now):
            del self._places[oldest]

    def _oldest(self, now: float) -> list[Key]:
        """Return the keys beyond the limit or the lifetime: few, because each call removes them."""
        gone: list[Key] = []
        excess = len(self._places) - self._limit
        for key, (_, since) in self._places.items():
            if len(gone) >= excess and now < since + self._lifetime:
                break
            gone.append(key)
        return gone

    def place_of(self, key: Key, now: float) -> Place | None:
        """Return the place that keeps ``key``, or ``None`` if it is unknown."""
        place, since = self._places.get(key, (None, 0.0))
        return place if now < since + self._lifetime else None

    def nodes(self, now: float, matches: Callable[[Key], bool] = lambda key: True) -> list[str]:
        """Return the nodes that keep anything, by default with any key, sorted."""
        known = {
            place.node
            for key, (place, since) in self._places.items()
            if now < since + self._lifetime and matches(key)
        }
        return sorted(known)

    def forget(self, key: Key) -> None:
        """Forget ``key``: it does not exist any more."""
        self._places.pop(key, None)

    def forget_where(self, is_lost: Callable[[Place], bool]) -> None:
        """Forget all keys whose places match: they have lost everything."""
        self._places = {key: known for key, known in self._places.items() if not is_lost(known[0])}


class Whereabouts:
    """Remembers the places of things of all kinds, each kind for its own lifetime.

    A session belongs to an engine: the same id at another model is another session. A lookup
    without a model, as on the route of sessions, finds the session that was used last. Each thing
    has an owner, the name of a key: under another owner, its id is unknown.
    """

    def __init__(self, lifetimes: Mapping[StateKind, float] = LIFETIMES) -> None:
        self._by_kind: dict[StateKind, Affinity[tuple[str, str | None, str]]] = {
            kind: Affinity(lifetime) for kind, lifetime in lifetimes.items()
        }

    def remember(self, kept: Kept, place: Place, now: float, owner: str = "") -> None:
        """Remember that ``place`` keeps a thing, from ``now`` on; ignore an id that is too long."""
        if len(kept.id) > LONGEST_ID:
            return
        affinity = self._by_kind[kept.kind]
        affinity.remember((kept.id, None, owner), place, now)
        if kept.kind is StateKind.SESSION and place.model is not None:
            affinity.remember((kept.id, place.model, owner), place, now)

    def place_of(
        self, kept: Kept, now: float, model: str | None = None, owner: str = ""
    ) -> Place | None:
        """Return the place of a thing, or ``None`` if unknown; of a session, that of ``model``."""
        if kept.kind is not StateKind.SESSION:
            model = None
        return self._by_kind[kept.kind].place_of((kept.id, model, owner), now)

    def nodes_with(self, kind: StateKind, now: float, owner: str = "") -> list[str]:
        """Return the nodes that keep anything of a kind for an owner, sorted."""
        return self._by_kind[kind].nodes(now, lambda key: key[2] == owner)

    def forget(self, kept: Kept, now: float, owner: str = "") -> None:
        """Forget a thing: it does not exist any more."""
        affinity = self._by_kind[kept.kind]
        place = affinity.place_of((kept.id, None, owner), now)
        affinity.forget((kept.id, None, owner))
        if place is not None:
            affinity.forget((kept.id, place.model, owner))

    def forget_node(self, node: str) -> None:
        """Forget all that a node keeps: its process has ended."""
        for affinity in self._by_kind.values():
            affinity.forget_where(lambda place: place.node == node)

    def forget_engine(self, node: str, model: str) -> None:
        """Forget all that a model's engine keeps on a node: the model was unloaded."""
        lost = Place(node, model)
        for kind in OF_AN_ENGINE:
            self._by_kind[kind].forget_where(lambda place: place == lost)
