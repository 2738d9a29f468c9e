"""Orders by their names: the same one given twice is carried out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

REMEMBERED: Final = 100
"""How many orders are remembered, the latest ones."""

Result = TypeVar("Result")


class _Outcome(Generic[Result]):
    """What becomes of an order: one value or failure, for each that asks."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[Result]] = []
        self._settled: list[Result | Failure] = []

    @property
    def is_open(self) -> bool:
        return not self._settled

    def settle(self, result: Result | Failure) -> None:
        """Take what has become of it."""
        self._settled.append(result)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(result)  # a Failure goes to the errbacks

    def wait(self) -> Deferred[Result]:
        """Return the outcome; cancelling ends this wait, and not the order."""
        waiting: Deferred[Result] = Deferred(self._waiting.remove)
        if self._settled:
            waiting.callback(self._settled[0])
        else:
            self._waiting.append(waiting)
        return waiting


class Orders(Generic[Result]):
    """The latest orders of one kind, of which one runs at a time; further ones join it."""

    def __init__(self) -> None:
        self._outcomes: dict[str, _Outcome[Result]] = {}
        self._running: Deferred[None] | None = None

    def give(self, order: str, begin: Callable[[], Deferred[Result]]) -> Deferred[Result]:
        """Return the outcome of an order; ``begin`` carries it out unless it is known.

        An order that comes while another one is carried out gets the outcome of that one.
        """
        outcome = self._outcomes.get(order)
        if outcome is None:
            latest = next(reversed(self._outcomes.values()), None)
            outcome = latest if latest is not None and latest.is_open else None
            is_new = outcome is None
            outcome = outcome or _Outcome()
            self._outcomes[order] = outcome
            if len(self._outcomes) > REMEMBERED:
                del self._outcomes[next(iter(self._outcomes))]
            if is_new:
                self._running = maybeDeferred(begin).addBoth(outcome.settle)
        return outcome.wait()

    def stop(self) -> None:
        """Cancel the order that is carried out."""
        if self._running is not None:
            self._running.cancel()
