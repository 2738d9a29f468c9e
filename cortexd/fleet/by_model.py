"""The replicas of each model, whose ids are sorted only when they have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ANSWERING_STATES


class ByModel(dict[str, dict[str, Replica]]):
    """The replicas of each model by the names of their nodes.

    Sorting ten thousand ids takes milliseconds, and every list and page needs them in order.
    """

    _ids: tuple[str, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._answering: dict[str, dict[str, Replica]] = {}
        self.several: dict[str, None] = {}
        """The models of which ``answering`` returns more than one replica."""

    def answering(self, model: str) -> Collection[Replica]:
        """Return those of a model's replicas whose state lets them answer, in the nodes' order.

        A model may be listed on many nodes and loaded on one.
        """
        found = self._answering.get(model)
        if found is None:
            return ()
        if len(found) == 1:
            return found.values()
        return sorted(found.values(), key=_position)

    @property
    def all_answering(self) -> Mapping[str, object]:
        """The models of which a replica's state lets it answer, to be read."""
        return self._answering

    def has(self, replica: Replica) -> bool:
        """Whether a replica is one of these: that of a node that has left is not."""
        replicas = self.get(replica.model)
        return replicas is not None and replicas.get(replica.node.name) is replica

    def note(self, replica: Replica) -> None:
        """Note the state of a listed replica."""
        if replica.state in ANSWERING_STATES:
            found = self._answering.setdefault(replica.model, {})
            found[replica.node.name] = replica
            if len(found) == 2:
                self.several[replica.model] = None
        else:
            self.forget(replica)

    def forget(self, replica: Replica) -> None:
        """Note that a replica does not answer any more, or has gone."""
        found = self._answering.get(replica.model)
        if found is None or found.pop(replica.node.name, None) is None:
            return
        if not found:
            del self._answering[replica.model]
        elif len(found) == 1:
            del self.several[replica.model]

    def note_all(self) -> None:
        """Note the states of all replicas anew, as after a reload."""
        self._answering.clear()
        self.several.clear()
        for replicas in self.values():
            for replica in replicas.values():
                self.note(replica)

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


def _position(replica: Replica) -> int:
    return replica.node.position
