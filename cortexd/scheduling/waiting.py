"""The queue of each model: the requests that wait for it.

The requests of one requester come in the order of their arrival. Whose turn it is among several
requesters is decided by ``cortexd.scheduling.turns``.

A request whose client will not wait leaves the queue, and a *stand-in* takes its place: it waits
for the model to be loaded, so that a client that comes back finds it, and then goes. It is no
request: it is neither counted nor answered. There is one for each line at most, and a requester has
``MOST_STAND_INS`` at most: its limits hold for requests that wait, and these do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Final

from cortexd.access.requesters import ANYONE, Priority, Requester
from cortexd.fleet.nodes import Node
from cortexd.scheduling.hints import NO_HINTS, Hints

ROUNDING_SECONDS: Final = 1e-6
"""How much too early a timer may be for the end of a wait, by the rounding of floats."""

SPARE_ENDS: Final = 64
"""How many ends of waits may be kept of requests that have left, beside those of half the queue."""

MOST_STAND_INS: Final = 20
"""How many models may be loaded at a time in the name of one requester that waits for none. What it
asks for beyond that is not begun until one of them is loaded or over."""

STAND_IN: Final = "\0stand-in "
"""How the ids of stand-ins begin: no request has such an id."""


def is_stand_in(request_id: str) -> bool:
    """Return whether an id is that of a stand-in, which nobody waits for an answer to."""
    return request_id.startswith(STAND_IN)


@dataclass(slots=True)
class Waiter:
    """A request that waits for a replica since ``since``, with ``only`` for one on those nodes.

    ``requester`` is for whom it is sent. ``number`` is its place in the order of arrivals. Its
    client waits until ``until``.

    The flags are set when the scheduler seeks room for the head of a line. ``pressed``: the request
    had waited long enough to drain models in use. ``held_back``: an eviction could have made room,
    but would have delayed too many other requests.

    ``passed_by_class`` and ``passed_by_share`` count the later requests that were granted first,
    because of their class, or because their requester had used less. ``hints`` are what else is
    known of the request.
    """

    request_id: str
    model: str
    since: float
    only: frozenset[str] | None = None
    requester: Requester = ANYONE
    pressed: bool = False
    held_back: bool = False
    number: int = field(default=0, compare=False)
    passed_by_class: int = field(default=0, compare=False)
    passed_by_share: int = field(default=0, compare=False)
    hints: Hints = NO_HINTS
    until: float = inf

    @property
    def is_stand_in(self) -> bool:
        """Whether it stands for a request whose client does not wait."""
        return self.request_id.startswith(STAND_IN)


class _Queue:
    """The requests for one model, in the order of arrival: all, and those of each requester.

    ``bound`` counts those that only some nodes may serve. By the names of requesters, ``passed``
    has the number of the last request that must not be passed again, and ``granted_at`` the time of
    the last grant while others of the requester waited. ``stand_ins`` are those by their nodes.
    ``number`` is that of the request that began the queue.
    """

    __slots__ = ("all", "bound", "by_name", "granted_at", "number", "passed", "stand_ins")

    def __init__(self, number: int) -> None:
        self.number = number
        self.all: dict[str, Waiter] = {}
        self.by_name: dict[str, dict[str, Waiter]] = {}
        self.bound = 0
        self.passed: dict[str, int] = {}
        self.granted_at: dict[str, float] = {}
        self.stand_ins: dict[frozenset[str] | None, Waiter] = {}

    @property
    def requests(self) -> int:
        """How many requests are in it."""
        return len(self.all) - len(self.stand_ins)

    def add(self, waiter: Waiter) -> None:
        self.all[waiter.request_id] = waiter
        own = self.by_name.get(waiter.requester.name)
        if own is None:
            own = self.by_name[waiter.requester.name] = {}
        own[waiter.request_id] = waiter
        self.bound += waiter.only is not None
        if waiter.is_stand_in:
            self.stand_ins[waiter.only] = waiter

    def remove(self, request_id: str) -> Waiter:
        waiter = self.all.pop(request_id)
        name = waiter.requester.name
        own = self.by_name[name]
        del own[request_id]
        if not own:
            del self.by_name[name]
            self.passed.pop(name, None)
            self.granted_at.pop(name, None)
        self.bound -= waiter.only is not None
        if waiter.is_stand_in:
            del self.stand_ins[waiter.only]
        return waiter


class Waiting:
    """The requests that wait, by model; a model is in it only while a request waits for it.

    The requests for a model are one queue. Within it, the requests that any node may serve are one
    line, and those that are bound to the same nodes are one line each. The head of a line has
    waited longest among those of its lowest rank: a replica is sought in its name. ``changed`` are
    the models whose queues, or the flags of whose heads, have changed since the last tick.
    """

    def __init__(self) -> None:
        self.changed: dict[str, None] = {}
        self._queues: dict[str, _Queue] = {}
        self._models: dict[str, str] = {}
        self._arrivals = 0
        self._ends: list[tuple[float, int, str]] = []
        self._stand_ins: Counter[str] = Counter()  # by the names of requesters

    def __contains__(self, model: str) -> bool:
        return model in self._queues

    def __len__(self) -> int:
        return len(self._models) - self._stand_ins.total()

    def add(self, waiter: Waiter) -> None:
        """Add a request at the end of its queue. Raises KeyError if it already waits."""
        if waiter.request_id in self._models:
            raise KeyError(f"request {waiter.request_id} waits already")
        self._arrivals += 1
        waiter.number = self._arrivals
        queue = self._queues.get(waiter.model)
        if queue is None:
            queue = self._queues[waiter.model] = _Queue(self._arrivals)
        queue.add(waiter)
        self.changed[waiter.model] = None
        self._models[waiter.request_id] = waiter.model
        if waiter.is_stand_in:
            self._stand_ins[waiter.requester.name] += 1
        if waiter.until < inf:
            if len(self._ends) > SPARE_ENDS + 2 * len(self._models):
                self._ends = sorted(end for end in self._ends if self._is_live(end))
            heappush(self._ends, (waiter.until, waiter.number, waiter.request_id))

    def remove(self, request_id: str) -> Waiter | None:
        """Remove a request and return it, or ``None`` if it did not wait."""
        model = self._models.pop(request_id, None)
        if model is None:
            return None
        queue = self._queues[model]
        waiter = queue.remove(request_id)
        if waiter.is_stand_in:
            self._stand_ins -= Counter((waiter.requester.name,))
        if queue.all:
            self.changed[model] = None
        else:
            del self._queues[model]
            self.changed.pop(model, None)
        return waiter

    def find(self, request_id: str) -> Waiter | None:
        """Return the request of this id, if it waits."""
        model = self._models.get(request_id)
        return None if model is None else self._queues[model].all[request_id]

    # Clients that do not wait, or not for long.

    def _is_live(self, end: tuple[float, int, str]) -> bool:
        waiter = self.find(end[2])
        return waiter is not None and waiter.number == end[1]

    def ended(self, now: float) -> list[Waiter]:
        """Return the requests whose clients wait no longer, the earliest first; each only once."""
        ended: list[Waiter] = []
        while self._ends and self._ends[0][0] <= now + ROUNDING_SECONDS:
            _, number, request_id = heappop(self._ends)
            waiter = self.find(request_id)
            if waiter is not None and waiter.number == number:
                ended.append(waiter)
        return ended

    def stand_in_for(self, waiter: Waiter) -> None:
        """Let a stand-in wait in the place of a request that has just left.

        The one that waits already in that line stays, unless it is of a lower class. A requester
        that has ``MOST_STAND_INS`` gets no other one.
        """
        if self._stand_ins[waiter.requester.name] >= MOST_STAND_INS:
            return
        queue = self._queues.get(waiter.model)
        known = queue.stand_ins.get(waiter.only) if queue is not None else None
        if known is not None:
            if known.requester.priority <= waiter.requester.priority:
                return
            self.remove(known.request_id)
        name = f"{STAND_IN}{self._arrivals + 1}"
        since = waiter.since if known is None else known.since
        self.add(Waiter(name, waiter.model, since, waiter.only, waiter.requester))

    def dismiss(self, model: str, nodes: Collection[str]) -> None:
        """Let the stand-ins for a model go that one of these nodes serves."""
        queue = self._queues.get(model)
        if queue is not None and queue.stand_ins and nodes:
            for waiter in list(queue.stand_ins.values()):
                if waiter.only is None or not waiter.only.isdisjoint(nodes):
                    self.remove(waiter.request_id)

    def has_stand_ins(self, model: str) -> bool:
        """Whether a stand-in waits for a model."""
        if not self._stand_ins:
            return False
        queue = self._queues.get(model)
        return queue is not None and bool(queue.stand_ins)

    def place(self, waiter: Waiter) -> int:
        """Return the place of a request in its queue, from 1, by class, share and time.

        Requesters of one class take turns there, as if they had used equally much.
        """
        queue = self._queues[waiter.model]
        name, priority = waiter.requester.name, waiter.requester.priority
        own = queue.by_name[name]
        place = next(at for at, each in enumerate(own, start=1) if each == waiter.request_id)
        turns = place
        for other, waiters in queue.by_name.items():
            if other != name:
                first = _first(waiters)
                if first.requester.priority < priority:
                    place += len(waiters)
                elif first.requester.priority == priority:
                    place += min(len(waiters), turns - (first.number > waiter.number))
        ahead = (each for each in queue.stand_ins.values() if each.number < waiter.number)
        return max(1, place - sum(each.requester.priority <= priority for each in ahead))

    # The requesters in a queue.

    def is_shared(self, model: str) -> bool:
        """Whether requests of more than one requester wait for a model."""
        queue = self._queues.get(model)
        return queue is not None and len(queue.by_name) > 1

    def by_requester(self, model: str) -> list[tuple[Requester, Collection[Waiter]]]:
        """Return the requests that wait for a model, those of each requester by themselves."""
        queue = self._queues.get(model)
        if queue is None:
            return []
        return [(_first(own).requester, own.values()) for own in queue.by_name.values()]

    def began(self, model: str) -> int:
        """Return the number of the request that began the queue of a model; 0 where none waits."""
        queue = self._queues.get(model)
        return 0 if queue is None else queue.number

    def has(self, model: str, requester: Requester) -> bool:
        """Whether a request of a requester waits for a model."""
        queue = self._queues.get(model)
        return queue is not None and requester.name in queue.by_name

    def note_granted(self, waiter: Waiter, now: float) -> None:
        """Note that a request, removed by now, was granted a lease."""
        queue = self._queues.get(waiter.model)
        if queue is not None and waiter.requester.name in queue.by_name:
            queue.granted_at[waiter.requester.name] = now

    def starved_since(self, waiter: Waiter) -> float:
        """Return since when a request has waited and its requester was granted nothing here."""
        granted_at = self._queues[waiter.model].granted_at.get(waiter.requester.name)
        return waiter.since if granted_at is None else max(waiter.since, granted_at)

    def is_passed(self, waiter: Waiter) -> bool:
        """Whether a request must not be passed again."""
        passed = self._queues[waiter.model].passed
        return waiter.number <= passed.get(waiter.requester.name, 0)

    def note_passed(self, waiter: Waiter, *, with_all_of_requester: bool = False) -> None:
        """Note that a request must not be passed again, nor earlier ones of its requester.

        ``with_all_of_requester`` adds the later ones in the queue.
        """
        queue = self._queues[waiter.model]
        if with_all_of_requester:
            waiter = next(reversed(queue.by_name[waiter.requester.name].values()))
        before = queue.passed.get(waiter.requester.name, 0)
        queue.passed[waiter.requester.name] = max(waiter.number, before)

    # The queue of a model.

    def count(self, model: str, rank: int = Priority.BULK) -> int:
        """Return how many requests wait for a model, without those of a rank above ``rank``."""
        queue = self._queues.get(model)
        if queue is None:
            return 0
        if len(queue.by_name) == 1 or rank == Priority.BULK:
            return queue.requests
        return sum(
            waiter.requester.priority <= rank and not waiter.is_stand_in
            for waiter in queue.all.values()
        )

    def head(self, model: str) -> Waiter | None:
        """Return the request that has waited longest for a model."""
        queue = self._queues.get(model)
        return next(iter(queue.all.values())) if queue else None

    def lines(self, model: str) -> list[Waiter]:
        """Return the head of each line for a model, the longest wait first."""
        queue = self._queues.get(model)
        if queue is None:
            return []
        if not queue.bound:
            if len(queue.by_name) == 1:
                return [_first(queue.all)]
            return [min(map(_first, queue.by_name.values()), key=_by_rank)]
        heads: dict[frozenset[str] | None, Waiter] = {}
        for waiter in queue.all.values():
            head = heads.setdefault(waiter.only, waiter)
            if waiter.requester.priority < head.requester.priority:
                heads[waiter.only] = waiter
        return list(heads.values())

    def line_head(self, model: str, only: frozenset[str] | None) -> Waiter | None:
        """Return the head of the line that is bound to just these nodes, ``None`` for any node."""
        return next((head for head in self.lines(model) if head.only == only), None)

    def lines_at(self, model: str, node: str) -> list[Waiter]:
        """Return the head of each line for a model that a node could serve."""
        return [head for head in self.lines(model) if head.only is None or node in head.only]

    def wants(self, model: str, node: str) -> bool:
        """Whether a request that a node could serve waits for a model."""
        return bool(self.lines_at(model, node))

    def rank(self, model: str, node: str) -> Priority | None:
        """Return the highest class of the requests for a model that a node could serve."""
        lines = self.lines_at(model, node)
        return min((head.requester.priority for head in lines), default=None)

    def depends_on(self, model: str, node: str, others: Collection[str]) -> bool:
        """Whether a request waits that a node could serve, and none of the ``others`` could."""
        bound = [head.only for head in self.lines(model) if head.only is not None]
        return any(node in only and only.isdisjoint(others) for only in bound)

    def of(self, model: str) -> tuple[Waiter, ...]:
        """Return the requests that wait for a model, the longest wait first."""
        queue = self._queues.get(model)
        return tuple(queue.all.values()) if queue is not None else ()

    def among(self, models: Iterable[str]) -> list[str]:
        """Return those of the models that requests wait for, in their order."""
        # A sweep asks this of every node of a fleet: one call for all models of a node.
        queues = self._queues
        return [model for model in models if model in queues] if queues else []

    def on(self, node: Node) -> list[str]:
        """Return the models of a node that requests wait for, in the order of its list."""
        # Either may be long: a node lists a thousand models, and requests wait for hundreds.
        queues, replicas = self._queues, node.replicas
        if not queues:
            return []
        if len(queues) == 1:
            return [model for model in queues if model in replicas]
        found = queues.keys() & replicas.keys()
        if len(found) > 1:
            return sorted(found, key=lambda model: replicas[model].order)
        return list(found)

    def models(self) -> list[str]:
        """Return the models that requests wait for, the longest wait first."""
        heads = ((model, next(iter(queue.all.values()))) for model, queue in self._queues.items())
        return [model for model, _ in sorted(heads, key=lambda pair: pair[1].since)]

    def heads(self) -> list[Waiter]:
        """Return the head of each line for each model."""
        return [head for model in self._queues for head in self.lines(model)]

    def take_changed(self) -> dict[str, None]:
        """Return the models whose queues have changed since the last call."""
        changed, self.changed = self.changed, {}
        return changed

    def note_all_changed(self) -> None:
        """Note that all queues are to be looked at in the next tick."""
        self.changed.update(dict.fromkeys(self._queues))

    def whose(self, models: Mapping[str, object]) -> list[str]:
        """Return those of the models that requests wait for, in the order of the shorter list."""
        queues = self._queues
        if len(models) < len(queues):
            return [model for model in models if model in queues]
        return [model for model in queues if model in models]

    def __iter__(self) -> Iterator[Waiter]:
        for queue in list(self._queues.values()):
            yield from [waiter for waiter in queue.all.values() if not waiter.is_stand_in]


def _first(waiters: dict[str, Waiter]) -> Waiter:
    return next(iter(waiters.values()))


def _by_rank(waiter: Waiter) -> tuple[int, int]:
    return waiter.requester.priority, waiter.number
