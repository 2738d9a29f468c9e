"""Keeps in the store which models nodes list, when they were used, and how often requested.

With it, a daemon that starts knows the models of a node that is down, and how hot each model is: it
evicts in the order in which it would have evicted before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from cortexd.dispatcher import Dispatcher
from cortexd.fleet.demand import PastDemand
from cortexd.fleet.nodes import ReplicaKey
from cortexd.fleet.states import ReplicaChanged
from cortexd.scheduling.events import Effect
from cortexd.store.journal import Listed
from cortexd.store.recorder import Recorder
from cortexd.store.writing import Writing

MOST_ROWS: Final = 300
"""How many rows are written at once, in some 5 ms; the rest follows with the next write."""


class CatalogueKeeper(Writing):
    """Restores the catalogue at its start, and writes its changes to the store of ``recorder``.

    It runs while the recorder does. The times in the store are Unix seconds, as ``unix_time``
    returns them, because another process has another clock.
    """

    failed = "catalogue_not_kept"

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: Recorder,
        clock: IReactorTime,
        unix_time: Callable[[], float],
    ) -> None:
        super().__init__(clock)
        self._fleet = dispatcher.fleet
        self._recorder = recorder
        self._unix_time = unix_time
        self._unlisted: set[ReplicaKey] = set()
        self._written_uses: dict[ReplicaKey, float] = {}
        self._written_demands: dict[str, float] = {}
        dispatcher.listen(self._follow)

    def startService(self) -> None:
        """Restore what the store has, and write changes from now on."""
        self._restore()
        super().startService()

    def _restore(self) -> None:
        store = self._recorder.store
        if store is None:
            return
        fleet, now = self._fleet, self._clock.seconds()
        ahead = self._unix_time() - now
        demands = {model: past.shifted(-ahead, now) for model, past in store.demands().items()}
        self._written_demands = {
            model: max(past.times) for model, past in demands.items() if past.times
        }
        for (name, model), listed in store.listed().items():
            if name not in fleet.nodes:
                self._unlisted.add((name, model))
                continue
            used_at = listed.last_used_at and min(listed.last_used_at - ahead, now)
            past = demands.get(model, PastDemand())
            fleet.remember(fleet.nodes[name], model, listed.base, used_at, past)
            self._written_uses[name, model] = used_at

    def _follow(self, effect: Effect) -> None:
        match effect:
            case ReplicaChanged(node, model, _, None):
                self._unlisted.add((node, model))

    def write(self) -> int:
        """Write what has changed, at most MOST_ROWS rows; return how many were written."""
        store = self._recorder.store
        if store is None:
            return 0
        ahead = self._unix_time() - self._clock.seconds()
        listed: dict[ReplicaKey, Listed | None] = {}
        demands: dict[str, PastDemand | None] = {}
        for key, value in islice(self._changes(ahead), MOST_ROWS):
            if isinstance(key, str):
                demands[key] = value
            else:
                listed[key] = value
        store.put_catalogue(listed, demands)
        self._unlisted.difference_update(listed)
        for (name, model), known in listed.items():
            if known is None:
                self._written_uses.pop((name, model), None)
            else:
                self._written_uses[name, model] = (
                    self._fleet.nodes[name].replicas[model].last_used_at
                )
        for model, past in demands.items():
            if past is None:
                self._written_demands.pop(model, None)
            else:
                self._written_demands[model] = self._fleet.demands[model].times[-1]
        return len(listed) + len(demands)

    def _changes(self, ahead: float) -> Iterator[tuple[Any, Any]]:
        """Yield what differs from the store: (node, model) and Listed, or a model and its past."""
        fleet, uses = self._fleet, self._written_uses
        for node in fleet.nodes.values():
            for replica in node.replicas.values():
                used_at = replica.last_used_at
                if uses.get(replica.key) != used_at:
                    yield replica.key, Listed(replica.base, used_at and used_at + ahead)
        for key in self._unlisted:
            if fleet.replica(*key) is None:
                yield key, None
        for model, demand in fleet.demands.items():
            if model not in fleet:
                if model in self._written_demands:
                    yield model, None
            elif demand.times and self._written_demands.get(model) != demand.times[-1]:
                yield model, demand.past.shifted(ahead)
