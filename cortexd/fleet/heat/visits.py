"""Which requests are the visits of sessions: they show how popular a model is.

A session asks a model again and again, each request a minute after the one before, and then never.
So requests show well who will ask within minutes, and badly who will ask tomorrow: there a session
of a hundred requests is worth one. A *visit* is the first request of a session for a model within
``VISIT_SECONDS``.

Visits are also a clock: how popular a model is should not fade overnight while nobody asks
anything, so it fades with the visits to all models.

Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from typing import Final

VISIT_SECONDS: Final = 3600.0
"""A session that goes on for longer makes another visit."""

MOST_SESSIONS: Final = 20_000
"""How many visits are remembered as under way: some 4 MB."""


class Visits:
    """The visits under way, and the ``count`` of all visits so far."""

    def __init__(self) -> None:
        self.count = 0
        self._began_at: dict[tuple[str, str], float] = {}  # the oldest first

    def note(self, model: str, session: str, now: float) -> bool:
        """Note a request of a session for a model; return whether it is a visit.

        All requests without a session, "", are one session.
        """
        began_at = self._began_at
        key = session, model
        since = began_at.get(key)
        if since is not None and now < since + VISIT_SECONDS:
            return False
        if since is not None:
            del began_at[key]
        began_at[key] = now
        self.count += 1
        self._forget(now)
        return True

    def _forget(self, now: float) -> None:
        """Forget a visit or two that are over, so that no call has much to do."""
        began_at = self._began_at
        for _ in range(2):
            oldest = next(iter(began_at))
            if now < began_at[oldest] + VISIT_SECONDS and len(began_at) <= MOST_SESSIONS:
                return
            del began_at[oldest]
