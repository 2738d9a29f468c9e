"""Whether a failed request goes to another node: by what the failed node may have done with it.

RFC 9110 9.2.2 lets a proxy repeat a request only if it is idempotent, or if it was never applied.
A chat is safe to repeat, but a prompt that ends one engine ends each that it reaches. Hence these
rules; deliveries are attempts in which the node may have read the whole request:

========================================  ================================================
the node                                  then the request may go to
========================================  ================================================
cannot have read the whole request        any number of other nodes
refused it before any work                any number of other nodes
may have read it, and gave no answer      one other node
answered that it failed                   two other nodes
may have done what must happen only once  no other node
========================================  ================================================
"""

from __future__ import annotations

import enum
from typing import Final

from cortexd.errors import BadKey, CortexError, OverBudget

OTHERS_AFTER_SILENCE: Final = 1
"""How many more deliveries may follow one without an answer."""

OTHERS_AFTER_FAILURE: Final = 2
"""How many more deliveries may follow the first that the node answered with a failure."""


class Reach(enum.Enum):
    """How far a failed attempt got.

    UNSENT: the node cannot have read the whole request. UNANSWERED: it may have read it, and what
    failed is not known. ANSWERED: it stated an error.
    """

    UNSENT = "unsent"
    UNANSWERED = "unanswered"
    ANSWERED = "answered"


class Retries:
    """The retries of one request. ``deliveries`` counts the nodes that may have worked on it."""

    def __init__(self) -> None:
        self.deliveries = 0
        self._left: int | None = None

    @property
    def are_left(self) -> bool:
        """Whether one more delivery is allowed if the current one ends without an answer."""
        return self._left is None or self._left > OTHERS_AFTER_SILENCE

    def allow(self, error: CortexError, reach: Reach, *, may_repeat: bool) -> bool:
        """Note a failed attempt, and return whether another node may be asked.

        Without ``may_repeat`` the request does something that must not happen twice.
        """
        if not error.elsewhere:
            return False
        if reach is Reach.UNSENT or (reach is Reach.ANSWERED and _is_refusal(error)):
            return True
        self.deliveries += 1
        is_answered = reach is Reach.ANSWERED and not error.ends_engine
        limit = OTHERS_AFTER_FAILURE if is_answered else OTHERS_AFTER_SILENCE
        self._left = limit if self._left is None else min(self._left - 1, limit)
        return may_repeat and self._left > 0


def _is_refusal(error: CortexError) -> bool:
    """Return whether a node has refused a request without any work on it."""
    is_of_the_server = isinstance(error, (BadKey, OverBudget))
    return error.is_unbegun or is_of_the_server or not error.is_node_fault


def hint(deliveries: int, *, may_repeat: bool) -> str:
    """Return what a client is told beside the failure, when no further node is asked.

    ``deliveries`` counts the nodes that failed, also on the same request at another time.
    """
    if not may_repeat:
        return "; it was sent to no other node, because what it does must not happen twice"
    if deliveries < 2:
        return ""
    return (
        f"; {deliveries} nodes failed on this request, which may be the cause, so it is sent to no "
        "other node"
    )
