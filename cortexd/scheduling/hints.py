"""What a request tells beside its model, for the scheduler to choose and to wait by.

Pure values. A request without hints is treated as one of which nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of a request.

    ``wait`` is for how many seconds its client will wait for a replica, ``None`` for as long as the
    queue lets it. ``session`` names the conversation that the request belongs to, as its client
    names it, "" if it does not. ``prefixes`` are the keys of what the prompt begins with, each of a
    longer beginning than the one before: equal keys, equal beginnings.
    """

    wait: float | None = None
    session: str = ""
    prefixes: tuple[int, ...] = ()


NO_HINTS: Final = Hints()
"""Nothing is known of a request."""
