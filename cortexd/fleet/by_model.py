"""The replicas of each model, whose ids are sorted only when they have changed."""

from __future__ import annotations

from cortexd.fleet.nodes import Replica


class ByModel(dict[str, dict[str, Replica]]):
    """The replicas of each model by the names of their nodes.

    Sorting ten thousand ids takes milliseconds, and every list and page needs them in order.
    """

    _ids: tuple[str, ...] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the models, sorted."""
        if self._ids is None:
            self._ids = tuple(sorted(self))
        return self._ids

    def __setitem__(self, model: str, replicas: dict[str, Replica]) -> None:
        if model not in self:
            self._ids = None
        super().__setitem__(model, replicas)

    def __delitem__(self, model: str) -> None:
        self._ids = None
        super().__delitem__(model)
