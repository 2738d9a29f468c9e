"""Which requests are the visits of sessions: they show how popular a model is.

A session asks a model again and again, each request a minute after the one before, and then never.
So requests show well who will ask within minutes, and badly who will ask tomorrow: there a session
of a hundred requests is worth one. A *visit* is the first request of a session for a model within
``VISIT_SECONDS``.

Visits are also a clock: how popular a model is should not fade overnight while nobody asks
anything, so it fades with the visits to all models.

Clients name their sessions as they like. A client that names a new one with each request would make
its model look popular for as long as others make few visits, and the models of all others look
forgotten. So a requester makes ``MOST_VISITS_OF_REQUESTER`` visits an hour to a model; beyond that,
its requests count as requests alone.

Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

VISIT_SECONDS: Final = 3600.0
"""A session that goes on for longer makes another visit."""

MOST_SESSIONS: Final = 20_000
"""How many visits are remembered as under way: some 4 MB."""

MOST_VISITS_OF_REQUESTER: Final = 60
"""How many visits a requester makes to a model at once, and then in an hour: a model that so many
sessions ask for is kept by its requests already."""

MOST_LEVELS: Final = 20_000
"""For how many requesters and models is known how many visits they have made."""

_REFILL: Final = MOST_VISITS_OF_REQUESTER / VISIT_SECONDS


class Visits:
    """The visits under way, and the ``count`` of all visits so far."""

    def __init__(self) -> None:
        self.count = 0
        # By requester and model: how many visits count against the most, as of when.
        self._levels: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._began_at: dict[tuple[str, str], float] = {}  # the oldest first

    def note(self, model: str, session: str, now: float, requester: str = "") -> bool:
        """Note a request of a session for a model; return whether it is a visit.

        All requests without a session, "", are one session. ``requester`` is the name of whoever
        named the session, "" where requesters have no names, so that none can be told apart.
        """
        began_at = self._began_at
        key = session, model
        since = began_at.get(key)
        if since is not None and now < since + VISIT_SECONDS:
            return False
        if requester and not self._may_visit(requester, model, now):
            return False
        if since is not None:
            del began_at[key]
        began_at[key] = now
        self.count += 1
        self._forget(now)
        return True

    def _may_visit(self, requester: str, model: str, now: float) -> bool:
        """Return whether a requester may make a visit more to a model, and count it."""
        levels, key = self._levels, (requester, model)
        level, at = levels.get(key, (0.0, now))
        level = max(0.0, level - _REFILL * max(0.0, now - at))
        if level + 1.0 > MOST_VISITS_OF_REQUESTER:
            return False
        levels[key] = level + 1.0, now
        levels.move_to_end(key)
        if len(levels) > MOST_LEVELS:
            levels.popitem(last=False)
        return True

    def _forget(self, now: float) -> None:
        """Forget a visit or two that are over, so that no call has much to do."""
        began_at = self._began_at
        for _ in range(2):
            oldest = next(iter(began_at))
            if now < began_at[oldest] + VISIT_SECONDS and len(began_at) <= MOST_SESSIONS:
                return
            del began_at[oldest]
