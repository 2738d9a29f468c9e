"""Which models the page cache of a node still has the weights of: guessed, and learned from loads.

Nodes do not say how much they cache. So what was loaded last is taken to lie uppermost, and how
deep the cache reaches is learned: from the deepest model that a load found there, and from the
uppermost one that a load did not. A cache may be lost with the process of the node, as when the
machine restarts, or outlive it; that is learned too.
"""

from __future__ import annotations

from typing import Final

MOST_MODELS: Final = 256
"""How many models are followed on one node: those that were loaded last."""


class PageCache:
    """The page cache of one node; sizes in MiB."""

    __slots__ = ("_depths_mb", "_held_mb", "_lost_mb", "_order", "outlives_process")

    def __init__(self) -> None:
        self._order: dict[str, int] = {}
        self._depths_mb: dict[str, int] = {}  # what was asked since the last load
        self._held_mb: int | None = None
        self._lost_mb: int | None = None
        self.outlives_process = False

    def depth_mb(self, model: str) -> int | None:
        """Return how much was loaded since a model, with it; ``None`` if it was not followed."""
        depth = self._depths_mb.get(model)
        if depth is not None:
            return depth
        if model not in self._order:
            return None
        depth = 0
        for other, size_mb in reversed(self._order.items()):
            depth += size_mb
            if other == model:
                break
        self._depths_mb[model] = depth
        return depth

    def has(self, model: str) -> bool:
        """Return whether the cache is expected to have a model.

        Where no load has shown how deep it reaches, it is expected to have all that was loaded.
        """
        depth = self.depth_mb(model)
        if depth is None:
            return False
        if self._lost_mb is None:
            return True
        return depth <= ((self._held_mb or 0) + self._lost_mb) / 2

    def learn(self, model: str, *, was_warm: bool) -> None:
        """Learn from a load that ended whether the cache had the model before it."""
        depth = self.depth_mb(model)
        if depth is None:
            return
        held, lost = self._held_mb, self._lost_mb
        if was_warm:
            self._held_mb = depth if held is None else max(held, depth)
            if lost is not None and lost <= self._held_mb:
                self._lost_mb = None
        else:
            self._lost_mb = depth if lost is None else min(lost, depth)
            if held is not None and held >= self._lost_mb:
                self._held_mb = None

    def put(self, model: str, size_mb: int) -> None:
        """Note that a model was loaded, which puts it uppermost."""
        self._depths_mb.clear()
        self._order.pop(model, None)
        self._order[model] = size_mb
        if len(self._order) > MOST_MODELS:
            del self._order[next(iter(self._order))]
