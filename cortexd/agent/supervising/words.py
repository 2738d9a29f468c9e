"""How processes end, in words: pure."""

from __future__ import annotations

import signal
from typing import Final

ENDED_WITH: Final = "ended with status"


def how_ended(status: int | None, number: int | None) -> str:
    """Return how a process ended, by its exit status or by the signal that ended it.

    Without either, nothing is known of it.
    """
    if not number:
        return "ended" if status is None else f"{ENDED_WITH} {status}"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"


def hint_of(number: int | None) -> str:
    """Return what may have sent a signal, empty if its name says enough."""
    return " (the kernel does this if memory is short)" if number == signal.SIGKILL else ""


def span(seconds: float) -> str:
    """Return a time in seconds, as short as it can be told."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
