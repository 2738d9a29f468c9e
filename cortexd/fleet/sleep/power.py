"""Whether a node's machine sleeps, and what is configured about that.

A node that may sleep is *awake*; *suspending* from the order to sleep until it does not answer any
more; *asleep*; and *waking* from the first packet that wakes it until it answers. Meanwhile polls
that fail are expected: its health and its replicas stay as they were, and the node is closed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import inf


class PowerState(enum.Enum):
    """Whether a node's machine sleeps."""

    AWAKE = "awake"
    SUSPENDING = "suspending"
    ASLEEP = "asleep"
    WAKING = "waking"


@dataclass(frozen=True, slots=True)
class PowerTerms:
    """The configuration of a node that may sleep; times in seconds.

    ``has_command``: the gateway has a command of its own that lets it sleep; otherwise its agent
    needs one. It may sleep once it was idle for ``idle_seconds``. A node that is woken must answer
    within ``wake_seconds``, and is expected to take as long.
    """

    has_command: bool = False
    idle_seconds: float = 1800.0
    wake_seconds: float = 120.0


@dataclass(slots=True)
class Power:
    """The power of one node: its ``state`` since ``since``, by its ``terms``, if it may sleep.

    ``number`` is that of the decision that let it sleep or wakes it. ``ended_at`` is when the
    command that lets it sleep ended, and ``failure`` why it failed. It was last awake from
    ``woken_at`` on. After ``attempts`` to wake it in a row that were in vain, the next one may be
    made at ``retry_at``.
    """

    terms: PowerTerms | None = None
    state: PowerState = PowerState.AWAKE
    since: float = -inf
    number: int = 0
    ended_at: float = inf
    failure: str = ""
    woken_at: float = -inf
    attempts: int = 0
    retry_at: float = -inf

    @property
    def is_awake(self) -> bool:
        """Whether polls show what the node does, as they do of a node that never sleeps."""
        return self.state is PowerState.AWAKE
