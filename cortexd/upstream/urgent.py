"""Polls that are wanted at once, a few at a time: many links may end in the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from cortexd.upstream.spreading import AT_ONCE

MOST_URGENT: Final = 2 * AT_ONCE
"""How many urgent polls run at the same time."""


class UrgentPolls:
    """Calls ``poll`` for each node that should be polled at once, in their order.

    ``poll`` returns a Deferred that does not fail. A node for which a poll is wanted during its
    urgent poll gets one more, because the one under way may have come too early.
    """

    def __init__(self, poll: Callable[[str], Deferred[None]]) -> None:
        self._poll = poll
        self._waiting: dict[str, None] = {}
        self._under_way: set[str] = set()

    def want(self, node: str) -> None:
        """Poll a node as soon as possible."""
        self._waiting[node] = None
        self._go_on()

    def clear(self) -> None:
        """Begin no more polls that were wanted until now."""
        self._waiting.clear()

    def _go_on(self) -> None:
        free = [node for node in self._waiting if node not in self._under_way]
        for node in free[: max(0, MOST_URGENT - len(self._under_way))]:
            del self._waiting[node]
            self._under_way.add(node)
            self._poll(node).addCallback(self._ended, node)

    def _ended(self, result: None, node: str) -> None:
        self._under_way.discard(node)
        self._go_on()
