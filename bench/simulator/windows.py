"""Windows of a recorded trace: days taken out of it, each a trace with a fleet of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.simulator.bars import DAY_LIMIT, WEEK_LIMIT, WHOLE_LIMIT
from bench.simulator.traces import DAY_SECONDS, Size, TraceError, trace_of
from bench.simulator.world import Call, Trace

WINDOW_DAYS = {"day": 1, "week": 7}


@dataclass(frozen=True, slots=True)
class Window:
    """Some days of a trace, the first day being day 0."""

    from_day: int
    days: int

    @property
    def words(self) -> str:
        """Name the window, such as "day 3" or "days 3 to 9"."""
        last = self.from_day + self.days - 1
        return f"days {self.from_day} to {last}" if self.days > 1 else f"day {self.from_day}"

    def cut(self, calls: Sequence[Call]) -> tuple[Call, ...]:
        """Return the calls of the window; its begin becomes second 0."""
        begin = self.from_day * DAY_SECONDS
        end = begin + self.days * DAY_SECONDS
        return tuple(replace(call, at=call.at - begin) for call in calls if begin <= call.at < end)


def days_of(calls: Sequence[Call]) -> int:
    """Return the number of days that calls begin, in the order of time."""
    return int(calls[-1].at // DAY_SECONDS) + 1


def window_of(calls: Sequence[Call], window: Window, name: str, size: Size) -> Trace:
    """Make a trace of one window, for a fleet of the models that are asked in it.

    Raises TraceError for a window without calls.
    """
    within = window.cut(calls)
    if not within:
        last = int(calls[-1].at // DAY_SECONDS)
        raise TraceError(f"{name}: no call within {window.words}, expected days from 0 to {last}")
    return trace_of(within, f"{name}, {window.words}", size)


def windows_of(calls: Sequence[Call], days: int, name: str, size: Size) -> list[Trace]:
    """Make a trace of each window of so many days that has calls, one beginning on each day; the
    windows of several days overlap. Calls of fewer days make one trace.
    """
    all_days = days_of(calls)
    if all_days <= days:
        return [trace_of(calls, name, size)]
    windows = [Window(day, days) for day in range(all_days - days + 1)]
    return [window_of(calls, window, name, size) for window in windows if window.cut(calls)]


def checked_windows(
    calls: Sequence[Call], name: str, size: Size
) -> list[tuple[str, float, list[Trace]]]:
    """Return what the bars of a file are of: its days and its weeks, or the whole of a file of
    fewer than seven days; each with its name and the loads allowed over MIN.
    """
    if days_of(calls) < WINDOW_DAYS["week"]:
        return [(name, WHOLE_LIMIT, [trace_of(calls, name, size)])]
    limits = {"day": DAY_LIMIT, "week": WEEK_LIMIT}
    return [
        (f"{name}, every {kind}", limits[kind], windows_of(calls, days, name, size))
        for kind, days in WINDOW_DAYS.items()
    ]
