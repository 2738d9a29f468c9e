"""How many lines the log gets of an event that strangers can cause as often as they like."""

from __future__ import annotations

from typing import Final

BURST: Final = 20
"""How many lines may come at once."""

SECONDS_EACH: Final = 3.0
"""After how many seconds there is room for one more line."""


class LineLimit:
    """Lets the first lines through, and then one now and then."""

    def __init__(self) -> None:
        self._room = float(BURST)
        self._since = 0.0
        self._left_out = 0

    def admit(self, now: float) -> int | None:
        """Return how many lines were left out since the last one, ``None`` to leave this one out.

        ``now`` is in seconds.
        """
        self._room = min(BURST, self._room + max(0.0, now - self._since) / SECONDS_EACH)
        self._since = now
        if self._room < 1:
            self._left_out += 1
            return None
        self._room -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out
