"""Loads what nodes have lost, in idle moments, before a request waits for it. Pure.

A model is prefetched only on a node whose process has ended with it, without an order of ours: what
was evicted, what an operator unloaded and what has outlived its ``ttl`` stays unloaded. A planned
restart brings its models back by itself. The hottest model comes first that has no copy anywhere
and fits into free memory: a prefetch never evicts, and it ends before its load if the memory is
needed. ``rules`` says when a node is quiet enough for it.

A prefetched model that no request has used is not prefetched again when it is lost, so that a model
whose load ends its node's process does not do so again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import Change, NodeRestarted, ReplicaChanged, ReplicaState
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.placement import Option, survey
from cortexd.scheduling.prefetching.events import Prefetched
from cortexd.scheduling.prefetching.rules import (
    Budget,
    delays_nobody,
    is_quiet,
    is_wanted,
    quiet_since,
)
from cortexd.scheduling.repairs.restarts import Restarts
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import Waiting

LOST_SECONDS: Final = 1800.0
"""For so long a node's lost models are prefetched, if it is quiet; then requests must ask again."""

PREFETCHED: Final = "its node has lost it, and requests are expected soon"


@dataclass(slots=True)
class _Lost:
    """The models that a node has lost ``at`` some time."""

    at: float
    models: dict[str, None]


class Prefetches:
    """The models that nodes of ``fleet`` have lost, and those that were prefetched."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        restarts: Restarts,
        swapper: Swapper,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._restarts = restarts
        self._swapper = swapper
        self._agenda = agenda
        self._lost: dict[str, _Lost] = {}
        self._begun: dict[str, dict[str, float]] = {}  # by node and model: since when, if unjudged
        self._budgets: dict[str, Budget] = {}

    def reconfigured(self, terms: SchedulingTerms) -> None:
        """Decide by other terms from now on, and forget nodes that have left."""
        self._terms = terms
        for known in (self._lost, self._begun, self._budgets):
            for name in [name for name in known if name not in self._fleet.nodes]:
                del known[name]

    def note(self, node: Node, changes: Sequence[Change], now: float) -> None:
        """Note what a node has lost, if its process has ended without an order of ours."""
        name = node.name
        if NodeRestarted(name) not in changes:
            return
        unused = self._judge(node)
        self._lost.pop(name, None)
        if self._restarts.on(name) is not None or node.closed or not node.power.is_awake:
            return
        lost = {
            change.model: None
            for change in changes
            if isinstance(change, ReplicaChanged)
            and change.before is ReplicaState.LOADED
            and change.after is ReplicaState.UNLOADED
            and change.model not in unused
        }
        if lost:
            self._lost[name] = _Lost(now, lost)

    def sweep(self, node: Node, now: float) -> None:
        """Prefetch one of the models that a node has lost, if that pays now."""
        if node.name in self._begun:
            self._judge(node)
        lost = self._lost.get(node.name)
        if lost is None:
            return
        if now >= lost.at + LOST_SECONDS or not lost.models:
            del self._lost[node.name]
        elif self._terms.prefetch and self._is_free(node, lost, now):
            option = self._option(node, lost, now)
            if option is not None:
                self._begin(option, lost, now)

    def _is_free(self, node: Node, lost: _Lost, now: float) -> bool:
        """Whether a node is quiet, and nothing is to happen there."""
        return (
            is_quiet(node, lost.at, now)
            and node.name not in self._swaps
            and not self._waiting.on(node)
            and self._restarts.on(node.name) is None
            and self._budgets.setdefault(node.name, Budget()).allows(now)
        )

    def _option(self, node: Node, lost: _Lost, now: float) -> Option | None:
        """Return how to load the hottest of the lost models that fits and pays, if any does."""
        known = [node.replicas.get(model) for model in lost.models]
        replicas = [each for each in known if each is not None]
        since = quiet_since(node, lost.at)
        wanted = [each for each in replicas if is_wanted(each, now) and self._is_missing(each)]
        for replica in sorted(wanted, key=lambda each: -each.demand.heat.at(now)):
            [found] = survey(
                self._fleet,
                [replica],
                self._terms.eviction,
                now,
                swapping=self._swaps.nodes,
                may_evict=False,
            )
            if isinstance(found, Option) and delays_nobody(
                replica, found.seconds, replicas, since, now
            ):
                return found
        return None

    def _is_missing(self, replica: Replica) -> bool:
        """Whether a model is loaded nowhere, and comes nowhere."""
        model = replica.model
        is_here = any(
            each.state is not ReplicaState.UNLOADED for each in self._fleet.replicas(model)
        )
        return not is_here and not self._swaps.brings(model)

    def _begin(self, option: Option, lost: _Lost, now: float) -> None:
        node, model = option.replica.key
        del lost.models[model]
        self._budgets[node].note(now)
        self._begun.setdefault(node, {})[model] = now
        self._swapper.begin(option, PREFETCHED, now, [option], is_prefetch=True)

    def _judge(self, node: Node) -> list[str]:
        """Report which prefetched models a request has used, and which were lost before.

        Return the latter.
        """
        unused: list[str] = []
        begun = self._begun.get(node.name, {})
        for model, since in list(begun.items()):
            replica = node.replicas.get(model)
            swap = self._swaps.on(node.name)
            if swap is not None and swap.target is replica:
                continue
            if replica is None or replica.loaded_at < since:
                del begun[model]  # its load has failed, or has not begun
            elif replica.leases > replica.probes or replica.last_used_at > replica.loaded_at:
                del begun[model]
                self._agenda.effects.append(Prefetched(node.name, model, is_used=True))
            elif not replica.is_resident:
                del begun[model]
                unused.append(model)
                self._agenda.effects.append(Prefetched(node.name, model, is_used=False))
        if not begun:
            self._begun.pop(node.name, None)
        return unused
