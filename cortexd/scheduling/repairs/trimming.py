"""How a node loses the models that it cannot hold, or should not.

A server loads every configured model as it starts (nodes.md 3.4), whatever the budget is, and it
may start without us. So what is beyond the budget goes, the cheapest first, one model at a time,
and the node is closed meanwhile. After a restart that we have planned, so does what was not loaded
before, unless the node is one whose unloads leave memory behind: they would cost at once what the
restart has brought back. Models that are pinned, in use or waited for stay: where only such are
left, the node takes work, and is beyond its budget until one of them is idle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.memory import over_mb
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.reconfiguring import is_overfull
from cortexd.fleet.states import ANSWERING_HEALTH
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.eviction import STRATEGIES, is_evictable
from cortexd.scheduling.placement import EvictionTerms, is_changing
from cortexd.scheduling.repairs.events import BudgetExceeded
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.waiting import Waiting

OVER_BUDGET: Final = "more is loaded there than its memory may hold"
NEEDLESS: Final = "it need not be loaded after the restart"

OVER_SECONDS: Final = 5.0
"""How long other programs must take memory before models go for it: many take it for a moment."""


def next_to_go(
    node: Node,
    wanted: Collection[str] | None,
    waiting: Waiting,
    terms: EvictionTerms,
    now: float,
    *,
    spares: bool = False,
) -> Replica | None:
    """Return the replica to unload next, ``None`` if nothing need go, or nothing can go now.

    ``wanted`` are the models that should stay where they fit, ``None`` for all. Others go first,
    and with ``spares`` only if something must go.
    """
    idle = [
        replica
        for replica in node.residents
        if is_evictable(replica)
        and not replica.leases
        and now >= replica.keep_until
        and not waiting.wants(replica.model, node.name)
    ]
    must_go = is_overfull(node)
    if wanted is not None and (must_go or not spares):
        unwanted = [replica for replica in idle if replica.model not in wanted]
        if unwanted:
            return _cheapest(unwanted, terms, now)
    return _cheapest(idle, terms, now) if must_go else None


def _cheapest(replicas: Iterable[Replica], terms: EvictionTerms, now: float) -> Replica | None:
    # What a server has loaded as it started is no younger than what it had loaded before.
    priced = STRATEGIES[terms.strategy].price(replicas, now, now)
    return min(priced, key=lambda each: each[:2])[2] if priced else None


def can_obey(node: Node) -> bool:
    """Return whether a node can be ordered to load or unload now, closed or not."""
    return node.is_managed and node.health in ANSWERING_HEALTH and not node.unreachable


class Trimmer:
    """Unloads what must go; ``terms`` say what is cheapest."""

    def __init__(
        self,
        fleet: Fleet,
        terms: EvictionTerms,
        waiting: Waiting,
        swapper: Swapper,
        agenda: Agenda,
    ) -> None:
        self._terms = terms
        self._fleet = fleet
        self._waiting = waiting
        self._swapper = swapper
        self._agenda = agenda
        self._booted: set[str] = set()
        self._told: set[str] = set()
        self._over_since: dict[str, float] = {}

    def take_terms(self, terms: EvictionTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms

    def note_booted(self, node: Node) -> None:
        """Note that the engine of a node has started anew, with all its models."""
        self._booted.add(node.name)

    def forget(self, node: str) -> None:
        """Forget a node that has left the configuration."""
        self._booted.discard(node)
        self._told.discard(node)
        self._over_since.pop(node, None)

    def close_overfull(self, node: Node, now: float) -> None:
        """Close an open node on which too much is loaded, if a model can go."""
        if self._may_pass(node, now):
            return
        self._tell(node)
        if node.closed or node.is_shrinking or not can_obey(node):
            return
        if not is_overfull(node):
            self._booted.discard(node.name)
        elif is_changing(self._fleet, node, now):
            return  # A load that is not ours runs there: it may fail, or its client unload more.
        elif next_to_go(node, None, self._waiting, self._terms, now) is not None:
            self._fleet.close(node, f"models are unloaded there, because {OVER_BUDGET}")
            self._agenda.reconsider(node)

    def _may_pass(self, node: Node, now: float) -> bool:
        """Return whether too much is loaded only because other programs have just taken memory."""
        if not is_overfull(node):
            self._over_since.pop(node.name, None)
            return False
        since = self._over_since.setdefault(node.name, now)
        is_theirs = node.others_mb > 0 and node.resident_mb <= node.budget_mb
        too_many = 0 < node.max_resident < node.resident
        return is_theirs and not too_many and now - since < OVER_SECONDS

    def _tell(self, node: Node) -> None:
        """Report once that a node holds too much, until it does not."""
        if not is_overfull(node):
            self._told.discard(node.name)
        elif node.name not in self._told:
            self._told.add(node.name)
            self._agenda.effects.append(BudgetExceeded(node.name, over_mb(node)))

    def unload_next(
        self, node: Node, wanted: frozenset[str] | None, now: float, *, spares: bool = False
    ) -> bool:
        """Unload the next model that must go from a node; return whether there is one.

        ``wanted`` and ``spares`` are as for ``next_to_go``. Once there is none, what the unloads
        after a start have left behind is noted.
        """
        if not can_obey(node):
            return False
        victim = next_to_go(node, wanted, self._waiting, self._terms, now, spares=spares)
        if victim is not None:
            is_needless = wanted is not None and victim.model not in wanted
            self._swapper.unload(victim, NEEDLESS if is_needless else OVER_BUDGET, now)
            return True
        if node.name in self._booted:
            self._booted.discard(node.name)
            self._fleet.note_trimmed(node)
        return False
