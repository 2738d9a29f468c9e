"""How many copies of each model pay: they are compared with what they cost. Pure.

A further copy costs its load, and the loads of the models that are evicted for it, as far as
clients will soon request these again. It is used until one of these comes back, so that what it
spares is counted for as long at most. Requests of a lower class than those for whom it is loaded do
not count, neither among those that wait nor among those for the victims.
"""

from __future__ import annotations

from collections import Counter
from math import exp
from typing import Final

from cortexd.access.requesters import Priority
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.fleet.nodes import Replica
from cortexd.fleet.shares import Shares
from cortexd.scheduling.copying.spared import HORIZON_SECONDS, Spared, pays
from cortexd.scheduling.eviction import Claim
from cortexd.scheduling.placement import Option
from cortexd.scheduling.waiting import Waiting

RANKS: Final = tuple(Priority)


class Copies:
    """What further copies of each model spare, by the ranks of the requests for it.

    A model is known while requests wait for it although it is loaded, and for some time after, and
    while it has several copies.
    """

    def __init__(self, fleet: Fleet, waiting: Waiting, shares: Shares) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._shares = shares
        self._spared: dict[str, dict[Priority, Spared]] = {}
        self._bought: dict[str, Counter[int]] = {}

    def models(self) -> dict[str, None]:
        """Return the models that may need a further copy, or have lately."""
        fleet = self._fleet
        waiting = self._waiting.whose(fleet.loaded_models)
        return dict.fromkeys((*waiting, *self._spared, *fleet.several))

    def look_at(self, model: str, now: float) -> None:
        """Look at the demand of a model, if it is loaded."""
        copies = [each for each in self._fleet.answering(model) if each.is_copy]
        known = self._spared.get(model)
        if not copies and known is None:
            return
        if known is None:
            known = self._spared[model] = {rank: Spared(now) for rank in RANKS}
        for rank, spared in known.items():
            demand = self._demand(model, copies, rank) if copies else 0
            spared.note(demand, copies[0].terms.capacity if copies else 1, now)
        if copies:
            copies[0].demand.copies_wanted = self._wanted(copies, known[Priority.BULK])
        is_gone = model not in self._waiting and model not in self._fleet.several
        if is_gone and known[Priority.BULK].is_nothing:
            del self._spared[model]
            self._bought.pop(model, None)
            if copies:
                copies[0].demand.copies_wanted = 1

    def _wanted(self, copies: list[Replica], spared: Spared) -> int:
        """Return how many of the loaded copies of a model pay for their loads, one at least."""
        wanted = 1
        for copy in copies[1:]:
            seconds = self._fleet.footprints.load_seconds(copy.node.name, copy.model)
            price = ASSUMED_LOAD_SECONDS if seconds is None else seconds
            if not pays(spared.by_copy(wanted + 1), price, is_loaded=True):
                break
            wanted += 1
        return wanted

    def _demand(self, model: str, copies: list[Replica], rank: Priority) -> int:
        """Return how many requests run and wait, without those of a class below ``rank``."""
        running = sum(self._shares.running(copy.key, rank) for copy in copies)
        return running + self._waiting.count(model, rank)

    def spared(self, model: str, copy: int, rank: Priority = Priority.BULK) -> float:
        """Return the seconds that copy number ``copy`` of a model spares, or would."""
        known = self._spared.get(model)
        return 0.0 if known is None else known[rank].by_copy(copy)

    def is_worth(self, option: Option, claim: Claim | None, now: float) -> bool:
        """Whether a further copy of a loaded model pays for its load and for what it evicts."""
        model = option.replica.model
        copies = sum(each.is_copy for each in self._fleet.replicas(model))
        rank = Priority.BULK if claim is None else claim.priority
        pace, price = 0.0, option.seconds
        for victim in option.victims.victims:
            if claim is None or not claim.outranks(victim):
                pace += victim.demand.per_second(now)
                price += self._loss(victim, now)
        lasts = min(1.0, 1.0 / (pace * HORIZON_SECONDS)) if pace else 1.0
        spared = self.spared(model, copies + 1, rank) * lasts
        times = self._bought[model][copies + 1] if model in self._bought else 0
        return pays(spared, price * 2**times, is_loaded=False)

    def note_bought(self, model: str) -> None:
        """Note that models are evicted for a further copy of a model.

        If others take its room back, it must spare twice as much before it is loaded again, as long
        as the demand for it lasts.
        """
        copies = sum(each.is_copy for each in self._fleet.replicas(model))
        self._bought.setdefault(model, Counter())[copies + 1] += 1

    def _loss(self, victim: Replica, now: float) -> float:
        """Return the seconds that requests for a victim are expected to wait for its next load."""
        known = self._fleet.footprints.load_seconds(victim.node.name, victim.model)
        seconds = ASSUMED_LOAD_SECONDS if known is None else known
        pace = victim.demand.per_second(now)
        return (1.0 - exp(-pace * HORIZON_SECONDS)) * seconds * (1.0 + pace * seconds)
