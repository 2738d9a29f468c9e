"""The requests that wait for a replica, and what each of them was told when it began to wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.fitting.waiting_words import waiting_line
from cortexd.dispatcher import Dispatcher
from cortexd.scheduling.estimating.expectation import Expectation
from cortexd.telemetry.accounting import RequestRecord


@dataclass(slots=True, eq=False)
class Wait:
    """One request that waits: the scheduler knows it by ``name``, in the queue of ``model``.

    ``record`` has the client's name for the request and the model. ``told`` is the last that was
    told of it.
    """

    name: str
    model: str
    record: RequestRecord
    told: Expectation | None


class Waits:
    """All requests that wait; ``on_begin`` and ``on_end`` hear of each.

    ``on_end`` also hears whether the request has a lease now: without one, it has left the queue.
    With ``shows_words``, a client sees a line about its wait where its dialect can show one.
    """

    def __init__(
        self, dispatcher: Dispatcher, clock: IReactorTime, *, shows_words: bool = False
    ) -> None:
        self.shows_words = shows_words
        self._dispatcher = dispatcher
        self._clock = clock
        self.waiting: dict[Wait, None] = {}
        self.on_begin: Callable[[Wait], None] = lambda wait: None
        self.on_end: Callable[[Wait, bool], None] = lambda wait, has_lease: None

    def begin(self, name: str, model: str, record: RequestRecord) -> Wait:
        """Note that a request begins to wait, and in its record how long that is expected to be.

        Of a request that waits a second time, the record keeps what was expected of the first.
        """
        expected = self._dispatcher.expect(model, name)
        wait = Wait(name, model, record, expected)
        if expected is not None and record.expected_seconds is None:
            record.expected_seconds = expected.seconds(self._clock.seconds())
        self.waiting[wait] = None
        self.on_begin(wait)
        return wait

    def expected(self, wait: Wait) -> Expectation | None:
        """Return what a request may expect now that waits."""
        return self._dispatcher.expect(wait.model, wait.name)

    def words(self, wait: Wait) -> str:
        """Return a line about a wait for its client to see, empty if it shall see none."""
        expected = self.expected(wait) if self.shows_words else None
        if expected is None:
            return ""
        seconds = expected.seconds(self._clock.seconds())
        return waiting_line(expected.phase, expected.place, seconds)

    def end(self, wait: Wait, *, has_lease: bool) -> None:
        """Note that the wait is over."""
        del self.waiting[wait]
        self.on_end(wait, has_lease)
