"""The limits on the clients of one listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SLOWEST_BODY: Final = 4096
"""The bytes a second that a body must bring in the long run: less than any line of today."""

SMALL_BODY: Final = 64 * 1024
"""A body up to this length is read before its request is refused, which keeps the connection."""

SURPLUS_SECONDS: Final = 5.0
"""How long a client that comes when all places are taken may take for the head of its request."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How many ``clients`` are served at a time, and how many more (``surplus``) are let in.

    Those only learn that the gateway is full. A body may take ``body_seconds``, and longer by a
    second for each SLOWEST_BODY bytes that have come.
    """

    clients: int
    surplus: int
    body_seconds: float

    def is_too_slow(self, seconds: float, received: int) -> bool:
        """Return whether a body has brought too few bytes in this time."""
        return seconds > self.body_seconds + received / SLOWEST_BODY


ROOMY: Final = ClientLimits(clients=16_384, surplus=64, body_seconds=60.0)
