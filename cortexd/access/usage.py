"""What the requests with one key have used: counts that add up, and the tokens of each hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

HOUR: Final = 3600
DAY: Final = 24 * HOUR

FINE_HOURS: Final = 48
"""The longest budget that counts by hours; a longer one counts by days."""

KEPT: Final = {HOUR: FINE_HOURS + 1, DAY: 366}
"""How many hours and days are remembered: as many as the longest budget of a year needs."""


@dataclass(slots=True)
class Usage:
    """What some requests have used. It grows in place with each request: see ``copy``.

    ``prompt_tokens`` and ``completion_tokens`` are those that nodes counted. ``uncounted_tokens``
    is our estimate for answers whose counts never came, because the client left or the node broke
    off. ``gpu_seconds`` is the time in models, ``load_seconds`` the share of the time of loads,
    and ``loads`` the share of the loads that the requests have caused.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted_tokens: int = 0
    gpu_seconds: float = 0.0
    load_seconds: float = 0.0
    loads: float = 0.0

    def copy(self) -> Usage:
        """Return one that stays as this one is now."""
        return replace(self)

    def __bool__(self) -> bool:
        return self != Usage()

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.uncounted_tokens + other.uncounted_tokens,
            self.gpu_seconds + other.gpu_seconds,
            self.load_seconds + other.load_seconds,
            self.loads + other.loads,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.uncounted_tokens - other.uncounted_tokens,
            self.gpu_seconds - other.gpu_seconds,
            self.load_seconds - other.load_seconds,
            self.loads - other.loads,
        )

    @property
    def tokens(self) -> int:
        """The tokens that count against a budget."""
        return self.prompt_tokens + self.completion_tokens + self.uncounted_tokens


class Spent:
    """The tokens of one key by the hours and by the days of UTC, each counted from 1970 on.

    ``at`` is always in unix seconds. A budget of the last hours counts whole hours, above
    FINE_HOURS whole days: tokens leave it with the last second of their hour or day, never early.
    """

    __slots__ = ("_counted", "_total", "spans")

    def __init__(self) -> None:
        self.spans: dict[int, dict[int, int]] = {HOUR: {}, DAY: {}}
        self._counted = (HOUR, 0)
        self._total = 0

    def restore(self, span: int, tokens: Mapping[int, int]) -> None:
        """Replace the tokens of all hours or days."""
        self.spans[span] = dict(tokens)
        self._counted = (HOUR, -1)

    def add(self, tokens: int, at: float) -> None:
        """Count the tokens of a request that ends."""
        span, first = self._counted
        hours, days = self.spans[HOUR], self.spans[DAY]
        hour, day = int(at // HOUR), int(at // DAY)
        if hour in hours:
            hours[hour] += tokens
        else:
            _forget(hours, hour - KEPT[HOUR])
            _forget(days, day - KEPT[DAY])
            hours[hour] = tokens
        days[day] = days.get(day, 0) + tokens
        if (hour if span == HOUR else day) >= first:
            self._total += tokens

    def within(self, budget_hours: float | None, at: float) -> int:
        """Return the tokens of the day, or of the last ``budget_hours``."""
        span, first = counted = _since(budget_hours, at)
        if counted != self._counted:
            self._counted = counted
            self._total = sum(n for number, n in self.spans[span].items() if number >= first)
        return self._total

    def seconds_until(self, most: int, budget_hours: float | None, at: float) -> float:
        """Return after how many seconds the budget has ``most`` tokens or fewer."""
        left = self.within(budget_hours, at)
        if left <= most:
            return 0.0
        if budget_hours is None:
            return DAY - at % DAY
        span, first = self._counted
        leaves_at = at
        for number, tokens in sorted(self.spans[span].items()):
            if number >= first:
                left -= tokens
                leaves_at = (number + 1) * span + budget_hours * HOUR
            if left <= most:
                break
        return max(0.0, leaves_at - at)


def _forget(counts: dict[int, int], oldest: int) -> None:
    """Forget the hours or days before the oldest one that may count."""
    for number in [number for number in counts if number < oldest]:
        del counts[number]


def _since(budget_hours: float | None, at: float) -> tuple[int, int]:
    """Return whether hours or days count, as their length, and the first one that does."""
    if budget_hours is None:
        return DAY, int(at // DAY)
    span = HOUR if budget_hours <= FINE_HOURS else DAY
    # One whose last second is just ``budget_hours`` ago does not count any more.
    return span, int((at - budget_hours * HOUR) // span)
