"""The engine's output in the agent's own log, a line for each, but not more than a log can bear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cortexd.agent.supervising.engine_lines import level_of, shown
from cortexd.logs import get_logger

BURST_LINES: Final = 2000
LINES_PER_SECOND: Final = 200.0

log = get_logger("cortexd.engine")


class Allowance:
    """How many lines the log takes: BURST_LINES at once, and LINES_PER_SECOND from then on."""

    def __init__(self) -> None:
        self._room = float(BURST_LINES)
        self._since: float | None = None
        self._left_out = 0

    def admit(self, lines: int, now: float) -> tuple[int, int]:
        """Return how many of so many lines may be logged, and how many were left out before them.

        The second is 0 while none may be logged.
        """
        passed = 0.0 if self._since is None else max(0.0, now - self._since)
        self._since = now
        self._room = min(BURST_LINES, self._room + passed * LINES_PER_SECOND)
        admitted = min(lines, int(self._room))
        self._room -= admitted
        left_out_before, self._left_out = (self._left_out, 0) if admitted else (0, self._left_out)
        self._left_out += lines - admitted
        return admitted, left_out_before


class EngineLog:
    """Logs lines of the engine with their own levels."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._allowance = Allowance()

    def __call__(self, lines: Sequence[bytes]) -> None:
        """Log the lines that the log can bear; say how many are missing before them."""
        admitted, left_out = self._allowance.admit(len(lines), self._now())
        if left_out:
            log.warning("engine_lines_left_out", lines=left_out)
        for line in lines[:admitted]:
            level, text = level_of(shown(line))
            getattr(log, level)("engine", line=text)
