"""Which node keeps what under an id: stored responses live in one node's memory only.

Pure: ``now`` is an argument, and must never go back.
"""

from __future__ import annotations

from typing import Final

LIFETIME_SECONDS: Final = 24 * 3600.0
"""How long an id is known: nodes keep theirs until they restart, clients come back within a day."""

MOST_IDS: Final = 100_000
"""How many ids are known at once, some 20 MB of them."""


class Affinity:
    """Knows the node of each id for ``lifetime`` seconds, and of the ``limit`` newest ids only."""

    def __init__(self, lifetime: float = LIFETIME_SECONDS, limit: int = MOST_IDS) -> None:
        self._lifetime = lifetime
        self._limit = limit
        self._places: dict[str, tuple[str, float]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._places)

    def remember(self, name: str, node: str, now: float) -> None:
        """Take that ``node`` has what is called ``name``, from ``now`` on."""
        self._places.pop(name, None)
        self._places[name] = (node, now)
        for oldest in self._oldest(now):
            del self._places[oldest]

    def _oldest(self, now: float) -> list[str]:
        """Return the ids that are one too many, or past their time: few, as they go one by one."""
        gone: list[str] = []
        excess = len(self._places) - self._limit
        for name, (_, since) in self._places.items():
            if len(gone) >= excess and now < since + self._lifetime:
                break
            gone.append(name)
        return gone

    def node_of(self, name: str, now: float) -> str | None:
        """Return the node that has what is called ``name``, ``None`` where nobody knows."""
        node, since = self._places.get(name, (None, 0.0))
        return node if now < since + self._lifetime else None

    def forget(self, name: str) -> None:
        """Take that what was called ``name`` is no more."""
        self._places.pop(name, None)

    def forget_node(self, node: str) -> None:
        """Take that a node has lost everything."""
        self._places = {name: place for name, place in self._places.items() if place[0] != node}
