"""The queue of each model: the requests that wait for it, first come, first served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from cortexd.access.requesters import ANYONE, Requester


@dataclass(slots=True)
class Waiter:
    """A request that waits for a replica since ``since``, with ``only`` for one on those nodes.

    ``requester`` is for whom it is sent.

    The flags are set when the scheduler seeks room for the head of a line. ``pressed``: the request
    had waited long enough to drain models in use. ``held_back``: an eviction could have made room,
    but would have delayed too many other requests.
    """

    request_id: str
    model: str
    since: float
    only: frozenset[str] | None = None
    requester: Requester = ANYONE
    pressed: bool = False
    held_back: bool = False


class Waiting:
    """The requests that wait, by model; a model is in it only while a request waits for it.

    The requests for a model are one queue. Within it, the requests that any node may serve are one
    line, and those that are bound to the same nodes are one line each. The head of a line has
    waited longest in it.
    """

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, Waiter]] = {}
        self._models: dict[str, str] = {}
        self._bound: Counter[str] = Counter()

    def __contains__(self, model: str) -> bool:
        return model in self._queues

    def __len__(self) -> int:
        return len(self._models)

    def add(self, waiter: Waiter) -> None:
        """Add a request at the end of its queue. Raises KeyError if it already waits."""
        if waiter.request_id in self._models:
            raise KeyError(f"request {waiter.request_id} waits already")
        self._queues.setdefault(waiter.model, {})[waiter.request_id] = waiter
        self._models[waiter.request_id] = waiter.model
        self._bound[waiter.model] += waiter.only is not None

    def remove(self, request_id: str) -> Waiter | None:
        """Remove a request and return it, or ``None`` if it did not wait."""
        model = self._models.pop(request_id, None)
        if model is None:
            return None
        queue = self._queues[model]
        waiter = queue.pop(request_id)
        self._bound[model] -= waiter.only is not None
        if not queue:
            del self._queues[model]
            del self._bound[model]
        return waiter

    def count(self, model: str) -> int:
        """Return how many requests wait for a model."""
        return len(self._queues.get(model, ()))

    def head(self, model: str) -> Waiter | None:
        """Return the request that has waited longest for a model."""
        queue = self._queues.get(model)
        return next(iter(queue.values())) if queue else None

    def lines(self, model: str) -> list[Waiter]:
        """Return the head of each line for a model, the longest wait first."""
        queue = self._queues.get(model, {})
        if not self._bound[model]:
            return [next(iter(queue.values()))] if queue else []
        heads: dict[frozenset[str] | None, Waiter] = {}
        for waiter in queue.values():
            heads.setdefault(waiter.only, waiter)
        return list(heads.values())

    def line_head(self, model: str, only: frozenset[str] | None) -> Waiter | None:
        """Return the head of the line that is bound to just these nodes, ``None`` for any node."""
        return next((head for head in self.lines(model) if head.only == only), None)

    def wants(self, model: str, node: str) -> bool:
        """Whether a request that a node could serve waits for a model."""
        return any(head.only is None or node in head.only for head in self.lines(model))

    def depends_on(self, model: str, node: str, others: Collection[str]) -> bool:
        """Whether a request waits that a node could serve, and none of the ``others`` could."""
        bound = [head.only for head in self.lines(model) if head.only is not None]
        return any(node in only and only.isdisjoint(others) for only in bound)

    def of(self, model: str) -> tuple[Waiter, ...]:
        """Return the requests that wait for a model, the longest wait first."""
        return tuple(self._queues.get(model, {}).values())

    def among(self, models: Iterable[str]) -> list[str]:
        """Return those of the models that requests wait for, in their order."""
        # A sweep asks this of every node of a fleet: one call for all models of a node.
        queues = self._queues
        return [model for model in models if model in queues] if queues else []

    def models(self) -> list[str]:
        """Return the models that requests wait for, the longest wait first."""
        heads = ((model, next(iter(queue.values()))) for model, queue in self._queues.items())
        return [model for model, _ in sorted(heads, key=lambda pair: pair[1].since)]

    def heads(self) -> list[Waiter]:
        """Return the head of each line for each model."""
        return [head for model in self._queues for head in self.lines(model)]

    def __iter__(self) -> Iterator[Waiter]:
        for queue in list(self._queues.values()):
            yield from list(queue.values())
