"""The agenda of an event: what is to be done, and what else may follow from what has changed.

All parts of the scheduler share one agenda, so that none has to reach into another. Whoever changes
something enters what may follow: a node to look at, for it may have more room, or a model to look
for, for which anything may have changed. The allocator takes the entries out again, one at a time,
until the agenda is empty; each step may enter more.

Models to look for come before nodes to look at, and both before models to seek. Models and nodes
come in the order in which they were entered; entering one again does not move it.
"""

from __future__ import annotations

from cortexd.fleet.nodes import Node
from cortexd.scheduling.events import Effect
from cortexd.scheduling.waiting import Waiting


class Agenda:
    """What is still to be done for one event.

    ``effects`` are in the order in which they were decided. ``models`` are to be looked for,
    ``nodes`` to be looked at. ``sought`` are the models to seek, each with the one node that has
    more room, or ``None`` where anything may have changed.
    """

    def __init__(self, waiting: Waiting) -> None:
        self.effects: list[Effect] = []
        self.models: dict[str, None] = {}
        self.nodes: dict[str, Node] = {}
        self.sought: dict[str, Node | None] = {}
        self._waiting = waiting

    # What may follow.

    def look_at(self, node: Node) -> None:
        """Let the swap on a node go on, or the node be used: it may have more room."""
        self.nodes[node.name] = node

    def look_for(self, model: str) -> None:
        """Serve the queue of a model, and seek a replica for the rest."""
        self.models[model] = None

    def look_for_all_of(self, node: Node) -> None:
        """Look for every model that a node lists and a request waits for."""
        for model in self._waiting.on(node):
            self.look_for(model)

    def reconsider(self, node: Node) -> None:
        """Look at a node, and for all that it lists: anything may have changed there."""
        self.look_for_all_of(node)
        self.look_at(node)

    def seek(self, model: str) -> None:
        """Seek a replica for a model on every node that lists it."""
        self.sought[model] = None

    def seek_on(self, model: str, node: Node) -> None:
        """Seek a replica for a model because ``node`` may have more room, and for no other reason.

        Two reasons make one to seek it on every node.
        """
        only = self.sought.get(model, node)
        self.sought[model] = node if only is node else None

    # What comes next.

    def next_model(self) -> str:
        """Take the next model to look for out of the agenda."""
        model = next(iter(self.models))
        del self.models[model]
        return model

    def next_node(self) -> Node:
        """Take the next node to look at out of the agenda."""
        return self.nodes.pop(next(iter(self.nodes)))

    def cut(self) -> tuple[str, ...]:
        """Forget all entries, and return their names, each once."""
        left = tuple(dict.fromkeys((*self.models, *self.nodes, *self.sought)))
        for entries in (self.models, self.nodes, self.sought):
            entries.clear()
        return left
