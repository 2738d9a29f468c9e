"""Which peers had a line in the log lately, so that none of them can fill it."""

from __future__ import annotations

from typing import Final

QUIET_SECONDS: Final = 60.0
"""For how long the failures of a peer make no second line in the log."""

MOST_PEERS: Final = 1024
"""How many peers are remembered; the oldest is forgotten first."""


class Recent:
    """The peers that had a line within QUIET_SECONDS."""

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}

    def note(self, peer: str, now: float) -> bool:
        """Return whether a peer may have a line now, and note it if so."""
        before = self._noted.get(peer)
        if before is not None and now - before < QUIET_SECONDS:
            return False
        self._noted.pop(peer, None)  # so that it is the latest
        self._noted[peer] = now
        if len(self._noted) > MOST_PEERS:
            del self._noted[next(iter(self._noted))]
        return True
