"""What follows from commands of the operator."""

from __future__ import annotations

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.events import (
    CordonChanged,
    CordonWanted,
    LoadWanted,
    PinChanged,
    PinWanted,
    UnloadWanted,
)
from cortexd.scheduling.handlers.table import Handlers
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swap, Swaps
from cortexd.scheduling.wishes import Plan, check_pin, check_unload, node_named, plan_load


class Commands:
    """Handles the commands of the operator. They raise OperationRefused."""

    def __init__(
        self,
        fleet: Fleet,
        terms: EvictionTerms,
        swaps: Swaps,
        swapper: Swapper,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._swaps = swaps
        self._swapper = swapper
        self._agenda = agenda

    @property
    def handlers(self) -> Handlers:
        """The handlers of its events."""
        return {
            LoadWanted: self.load_wanted,
            UnloadWanted: self.unload_wanted,
            PinWanted: self.pin_wanted,
            CordonWanted: self.cordon_wanted,
        }

    def take_terms(self, terms: EvictionTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms

    def plan(self, model: str, node: str | None, now: float) -> Plan:
        """Say what handling ``LoadWanted(model, node)`` would do now. Raises OperationRefused."""
        return plan_load(self._fleet, self._terms, self._swaps.nodes, model, node, now)

    def unloaded_by(self, event: UnloadWanted) -> list[Replica]:
        """Return what handling the event would unload now. Raises OperationRefused.

        A node with a swap is busy, with two exceptions: a swap that only unloads takes another
        victim that goes in the same way, at once or once it is idle; and a swap that only unloads
        this very model, and waits for its requests, goes on at once if the operator says so now.
        """

        def takes_more(swap: Swap) -> bool:
            if swap.target is not None:
                return False
            if swap.at_once is event.now:
                return True
            return event.now and all(victim.model == event.model for victim in swap.victims)

        busy = [swap.node.name for swap in self._swaps if not takes_more(swap)]
        return check_unload(self._fleet, busy, event.model, event.node)

    def load_wanted(self, event: LoadWanted, now: float) -> None:
        """Load a model for the operator."""
        plan = self.plan(event.model, event.node, now)
        self._swapper.begin(
            plan.option, "the operator requested it", now, plan.found, is_ordered=True
        )

    def unload_wanted(self, event: UnloadWanted, now: float) -> None:
        """Unload a model for the operator."""
        for replica in self.unloaded_by(event):
            self._swapper.unload(replica, "the operator requested it", now, at_once=event.now)

    def pin_wanted(self, event: PinWanted, now: float) -> None:
        """Pin a model to a node, or remove the pin."""
        node = node_named(self._fleet, event.node)
        check_pin(self._fleet, node, event.model, event.pinned)
        self._fleet.set_pin(node, event.model, event.pinned)
        self._agenda.effects.append(PinChanged(node.name, event.model, event.pinned))
        self._agenda.reconsider(node)

    def cordon_wanted(self, event: CordonWanted, now: float) -> None:
        """Cordon a node, or end the cordon."""
        node = node_named(self._fleet, event.node)
        self._fleet.set_cordon(node, event.cordoned)
        self._agenda.effects.append(CordonChanged(node.name, event.cordoned))
        self._agenda.reconsider(node)
