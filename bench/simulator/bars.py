"""The bars that cortexd's scheduler has to pass on traces, beside plain LRU and beside its own
strategy `lru`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.simulator.outcomes import Outcome

DAY_LIMIT, WEEK_LIMIT, WHOLE_LIMIT = 1.25, 1.40, 1.60
"""The loads allowed over those of Belady's MIN: on days, on weeks, on a short trace."""

LRU_LIMIT = 0.85
"""The loads allowed over those of plain LRU."""

SAME_SECONDS = 0.05
"""Times that differ by less are equal: tables show tenths of a second."""

HEAD = ("trace", "figure", "measured", "at most", "verdict")


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure of a trace and the most that it may be."""

    trace: str
    figure: str
    measured: float
    at_most: float
    slack: float = 0.0

    @property
    def passes(self) -> bool:
        """Whether the figure is within the bar."""
        return self.measured <= self.at_most + self.slack


def bars_of_recorded(
    trace: str, limit: float, ours: Outcome, strategy_lru: Outcome, plain_lru: Outcome
) -> list[Bar]:
    """Return the bars of a recorded trace, with so many loads allowed over MIN."""
    return [
        Bar(trace, "loads over MIN", ours.over_least, limit),
        Bar(trace, "loads over LRU", ours.per_answer / plain_lru.per_answer, LRU_LIMIT),
        *_bars_of_waits(trace, ours, strategy_lru),
    ]


def bars_of_made(trace: str, ours: Outcome, strategy_lru: Outcome) -> list[Bar]:
    """Return the bars of a made trace: no figure is worse than under the strategy `lru`."""
    return [
        Bar(trace, "loads per answer", ours.per_answer, strategy_lru.per_answer),
        *_bars_of_waits(trace, ours, strategy_lru),
    ]


def _bars_of_waits(trace: str, ours: Outcome, strategy_lru: Outcome) -> list[Bar]:
    pairs = [
        ("unanswered", float(ours.unanswered), float(strategy_lru.unanswered)),
        ("wait p95 s", ours.wait(0.95), strategy_lru.wait(0.95)),
        ("wait p99 s", ours.wait(0.99), strategy_lru.wait(0.99)),
        ("longest wait s", ours.wait(1), strategy_lru.wait(1)),
        ("unfairness s", ours.unfair, strategy_lru.unfair),
    ]
    return [Bar(trace, figure, mine, other, SAME_SECONDS) for figure, mine, other in pairs]


def table_rows(bars: Sequence[Bar]) -> list[list[str]]:
    """Lay out the bars: the head, then one row each."""
    return [
        list(HEAD),
        *(
            [
                bar.trace,
                bar.figure,
                f"{bar.measured:.3f}",
                f"{bar.at_most:.3f}",
                "pass" if bar.passes else "MISS",
            ]
            for bar in bars
        ),
    ]
