"""For whom a request is sent, as far as the scheduler must know it to be fair."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Priority(IntEnum):
    """The class of a key's requests; the value is its rank, and the lowest is served first."""

    INTERACTIVE = 1
    DEFAULT = 2
    BULK = 3


@dataclass(frozen=True, slots=True)
class Requester:
    """All requests with one key: they share GPU seconds with others in proportion to ``weight``.

    ``name`` is the key's name, empty for requests without a key.
    """

    name: str = ""
    priority: Priority = Priority.DEFAULT
    weight: float = 1.0


ANYONE = Requester()
"""The requester of requests without a key."""
