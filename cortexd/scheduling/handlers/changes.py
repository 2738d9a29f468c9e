"""What follows from changes of a node that we did not make."""

from __future__ import annotations

from collections.abc import Sequence

from cortexd.fleet.nodes import Node
from cortexd.fleet.states import (
    Change,
    HealthChanged,
    NodeHealth,
    NodeRestarted,
    ReplicaChanged,
)
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps


class Changes:
    """Follows what polls, agents and sleep show of a node."""

    def __init__(self, swaps: Swaps, swapper: Swapper, agenda: Agenda) -> None:
        self._swaps = swaps
        self._swapper = swapper
        self._agenda = agenda

    def take(self, node: Node, changes: Sequence[Change]) -> None:
        """Follow what has changed of a node: what nodes list is the truth."""
        self._agenda.effects.extend(changes)
        swap = self._swaps.on(node.name)
        is_lost = False
        moved: list[str] = []
        for change in changes:
            match change:
                case NodeRestarted() | HealthChanged(after=NodeHealth.DOWN):
                    is_lost = True
                case ReplicaChanged(model=model):
                    moved.append(model)
        if swap is not None and (moved or is_lost):
            self._swapper.disturb(swap, is_lost=is_lost)
        for model in moved:
            self._agenda.look_for(model)
        self._agenda.reconsider(node)
