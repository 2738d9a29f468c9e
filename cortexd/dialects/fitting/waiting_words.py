"""Words about a wait that a client shows as thinking, and how they leave the conversation again.

They are lines of their own at the beginning of an answer's thinking. A client that sends the
thinking back in a later turn sends them too; no model gets them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PHASES: Final[Mapping[str, str]] = {
    "queued": "waiting for a turn",
    "evicting": "waiting for other models to make room",
    "loading": "loading the model",
    "waking": "waking the node",
    "restarting": "restarting the engine",
}

_MARK: Final = "[cortexd] "
_LINES: Final = re.compile(r"(?:\[cortexd\] [^\n]{0,200}\n)+")


def waiting_line(phase: str, place: int, seconds: float) -> str:
    """Return a line about a wait: phase and place of an ``Expectation``, the rest in seconds."""
    words = _PHASES.get(phase, "waiting")
    behind = f", place {place} in the queue" if place > 1 else ""
    return f"{_MARK}{words}{behind}, about {max(1, round(seconds))} s left\n"


def without_waiting_lines(thinking: str) -> str:
    """Return an answer's thinking without the lines about its wait."""
    if not thinking.startswith(_MARK):
        return thinking
    found = _LINES.match(thinking)
    return thinking if found is None else thinking[found.end() :]
