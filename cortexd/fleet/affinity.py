"""Which node keeps what under an id: all of it lives in the memory of one node, or of one engine.

Pure: ``now`` is an argument, in seconds, and must never go back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MOST_IDS: Final = 100_000
"""How many ids of a kind are known at once, some 30 MB of them."""

LONGEST_ID: Final = 512
"""In characters, of ids that are remembered: sessions have theirs from clients."""

Key = TypeVar("Key", bound=Hashable)


class StateKind(enum.Enum):
    """What nodes keep; ids of different kinds have nothing to do with each other."""

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
"""How long an id is known after it was last heard of, in seconds.

Nodes keep responses until they restart, and clients come back within a day. The others are twice
the node's own 30 and 5 minutes (nodes.md 6): those run from the last use, of which not all is heard
here, and the node has the last word.
"""

OF_AN_ENGINE: Final = frozenset({StateKind.SESSION, StateKind.FILE, StateKind.CONTAINER})
"""What is lost with the model that has it; the rest belongs to the node's process."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node keeps: its kind, and its id, given by the node or chosen by a client."""

    kind: StateKind
    id: str


@dataclass(frozen=True, slots=True)
class Reference:
    """What a request names of that, and the path of the field that names it."""

    kept: Kept
    param: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is: a node, and the model whose engine has it, ``None`` where that is unknown."""

    node: str
    model: str | None = None


class Affinity(Generic[Key]):
    """Knows the place of each key for ``lifetime`` seconds, and of the ``limit`` newest only."""

    def __init__(self, lifetime: float, limit: int = MOST_IDS) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._places: dict[Key, tuple[Place, float]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._places)

    def remember(self, key: Key, place: Place, now: float) -> None:
        """Take that ``place`` has what is called ``key``, from ``now`` on."""
        self._places.pop(key, None)
        self._places[key] = (place, now)
        for oldest in self._oldest(now):
            del self._places[oldest]

    def _oldest(self, now: float) -> list[Key]:
        """Return the keys that are one too many, or past their time: few, as they go one by one."""
        gone: list[Key] = []
        excess = len(self._places) - self._limit
        for key, (_, since) in self._places.items():
            if len(gone) >= excess and now < since + self._lifetime:
                break
            gone.append(key)
        return gone

    def place_of(self, key: Key, now: float) -> Place | None:
        """Return who has what is called ``key``, ``None`` where nobody knows."""
        place, since = self._places.get(key, (None, 0.0))
        return place if now < since + self._lifetime else None

    def nodes(self, now: float) -> list[str]:
        """Return the nodes that have anything, sorted."""
        known = {
            place.node for place, since in self._places.values() if now < since + self._lifetime
        }
        return sorted(known)

    def forget(self, key: Key) -> None:
        """Take that what was called ``key`` is no more."""
        self._places.pop(key, None)

    def forget_where(self, is_lost: Callable[[Place], bool]) -> None:
        """Take that places of which this is true have lost everything."""
        self._places = {key: known for key, known in self._places.items() if not is_lost(known[0])}


class Whereabouts:
    """Knows where things of all kinds are kept, each kind for its own ``lifetimes``.

    A session is its engine's: the same id at another model is another session. Asked for without a
    model, as clients do by its route, it is the one that was last heard of.
    """

    def __init__(self, lifetimes: Mapping[StateKind, float] = LIFETIMES) -> None:
        self._by_kind: dict[StateKind, Affinity[tuple[str, str | None]]] = {
            kind: Affinity(lifetime) for kind, lifetime in lifetimes.items()
        }

    def remember(self, kept: Kept, place: Place, now: float) -> None:
        """Take that ``place`` has it, from ``now`` on; of a longer id than the longest, nothing."""
        if len(kept.id) > LONGEST_ID:
            return
        affinity = self._by_kind[kept.kind]
        affinity.remember((kept.id, None), place, now)
        if kept.kind is StateKind.SESSION and place.model is not None:
            affinity.remember((kept.id, place.model), place, now)

    def place_of(self, kept: Kept, now: float, model: str | None = None) -> Place | None:
        """Return who has it, ``None`` where nobody knows; of a session, that of ``model``."""
        if kept.kind is not StateKind.SESSION:
            model = None
        return self._by_kind[kept.kind].place_of((kept.id, model), now)

    def nodes_with(self, kind: StateKind, now: float) -> list[str]:
        """Return the nodes that have anything of a kind, sorted."""
        return self._by_kind[kind].nodes(now)

    def forget(self, kept: Kept, now: float) -> None:
        """Take that it is no more."""
        affinity = self._by_kind[kept.kind]
        place = affinity.place_of((kept.id, None), now)
        affinity.forget((kept.id, None))
        if place is not None:
            affinity.forget((kept.id, place.model))

    def forget_node(self, node: str) -> None:
        """Take that a node's process is gone, with all that it kept."""
        for affinity in self._by_kind.values():
            affinity.forget_where(lambda place: place.node == node)

    def forget_engine(self, node: str, model: str) -> None:
        """Take that a model is gone from a node's memory, with what its engine kept."""
        lost = Place(node, model)
        for kind in OF_AN_ENGINE:
            self._by_kind[kind].forget_where(lambda place: place == lost)
