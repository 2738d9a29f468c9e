"""What follows from another configuration, while requests run and wait.

Everything follows in the one event: nodes leave and come with what they list, so that a request in
the queue moves to a node that has come, and is never refused for a node that has just left.
"""

from __future__ import annotations

from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.states import Change, NodeRemoved, Observation
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.allocator import Allocator
from cortexd.scheduling.events import Reconfigured
from cortexd.scheduling.eviction import STRATEGIES, is_evictable
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import Waiting

LESS_ROOM: Final = "the configuration allows less on the node than is loaded there"


class Reconfiguring:
    """Handles Reconfigured, and shrinks what is loaded to what a configuration allows."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: Waiting,
        swaps: Swaps,
        agenda: Agenda,
        allocator: Allocator,
        swapper: Swapper,
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._swaps = swaps
        self._agenda = agenda
        self._allocator = allocator
        self._swapper = swapper

    def reconfigured(self, event: Reconfigured, now: float) -> set[str]:
        """Take another configuration; return the names of the nodes that have left."""
        fleet, agenda = self._fleet, self._agenda
        self._allocator.take_terms(event.scheduling)
        self._swapper.take_terms(event.scheduling.eviction)
        changes: list[Change] = fleet.reconfigure(event.fleet, now)
        left = {each.node for each in changes if isinstance(each, NodeRemoved)}
        for swap in self._swaps:
            if swap.node.name in left:
                self._swapper.drop(swap)
        agenda.effects.extend(changes)
        for name, polled in event.polled.items():
            if isinstance(polled, Observation):
                agenda.effects.extend(fleet.observe(name, polled, now))
            else:
                agenda.effects.extend(fleet.fail(name, polled, now))
        for model in self._waiting.models():
            agenda.look_for(model)
        for node in fleet.nodes.values():
            agenda.look_at(node)
        return left

    def shrink(self, node: Node, terms: SchedulingTerms, now: float) -> None:
        """Unload the cheapest idle replica of a node on which more is loaded than is allowed."""
        if not node.is_shrinking or node.name in self._swaps or not node.takes_work:
            return
        self._fleet.note_fits(node)
        if not node.is_shrinking:
            return
        idle = [
            replica
            for replica in node.residents
            if is_evictable(replica) and not replica.leases and now >= replica.keep_until
        ]
        eviction = terms.eviction
        priced = STRATEGIES[eviction.strategy].price(idle, now - eviction.min_residency, now)
        if priced:
            _, _, cheapest = min(priced, key=lambda each: each[:2])
            self._swapper.unload(cheapest, LESS_ROOM, now)
