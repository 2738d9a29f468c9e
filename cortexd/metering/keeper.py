"""Keeps in the store what each key has used, so that budgets hold over restarts.

What a budget has lost is read for one key at a time, when its first request comes that the budget
may refuse. So neither a start nor a reload waits for the budgets of all keys.

Usage counts in the hour in which it is written. A daemon that is killed forgets the usage since the
last write. One that hands over writes all of it first, and then reports to its successor what the
rest of its requests use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from cortexd.access.keys import KeyLimits
from cortexd.access.usage import DAY, FINE_HOURS, HOUR, KEPT, Usage
from cortexd.dispatcher import Dispatcher
from cortexd.metering.meters import Meters
from cortexd.store.journal import Store
from cortexd.store.recorder import Recorder
from cortexd.store.usage import add_usage, tokens_of, trim_usage, usage_between
from cortexd.store.writing import Writing

MOST_KEYS: Final = 150
"""The usage of how many keys is written at once, in some 5 ms; the rest follows."""

DAYS_AT_ONCE: Final = 5
"""The days that are read at once, which for 1,000 keys takes some 7 ms."""


class UsageKeeper(Writing):
    """Writes the usage of ``meters`` to the store of ``recorder``, and restores budgets from it.

    It runs while the recorder does. ``unix_time`` returns the time in seconds.
    """

    failed = "usage_not_kept"

    def __init__(
        self,
        meters: Meters,
        dispatcher: Dispatcher,
        recorder: Recorder,
        clock: IReactorTime,
        unix_time: Callable[[], float],
    ) -> None:
        super().__init__(clock)
        self._meters = meters
        self._recorder = recorder
        self._unix_time = unix_time
        self._trimmed_in = 0
        meters.restore_budget = self._restore_budget
        dispatcher.listen(meters.follow)
        recorder.restorers.append(self._restore)

    def _restore(self, store: Store) -> None:
        """Let all budgets be read from the store: at the start, or after a lasting fault."""
        self._meters.forget_restored()

    def _restore_budget(self, name: str, limits: KeyLimits) -> None:
        """Read what the budget of a key has lost, in 0.1 to 0.5 ms."""
        store, hours = self._recorder.store, limits.budget_hours or 0
        if store is None:
            return
        now = self._unix_time()
        back = {HOUR: KEPT[HOUR], DAY: int(hours // 24) + 1 if hours > FINE_HOURS else 0}
        for span, numbers in back.items():
            last = int(now // span)
            found = tokens_of(store, (name,), span, last - numbers, last)
            self._meters.restore(span, found)

    def write(self) -> int:
        """Write what has changed, of MOST_KEYS keys at most; return of how many."""
        store = self._recorder.store
        if store is None:
            return 0
        at = self._unix_time()
        changed = (each for each in self._meters.all if each.usage != each.written)
        written = {each.name: each for each in islice(changed, MOST_KEYS)}
        add_usage(store, at, {name: each.usage - each.written for name, each in written.items()})
        for each in written.values():
            each.written = each.usage.copy()
        if self._trimmed_in != (hour := int(at // HOUR)):
            self._trimmed_in = hour
            trim_usage(store, at)
        if not written:
            self._meters.forget_removed()
        return len(written)

    async def used(self, periods: Sequence[int]) -> dict[int, dict[str, Usage]]:
        """Return what each key has used in each of the periods, by its name.

        A period is so many days back, today included, and they rise. Days are read a few at a time.
        """
        self.write_all()
        today, days = int(self._unix_time() // DAY), 0
        total: dict[str, Usage] = {}
        found: dict[int, dict[str, Usage]] = {}
        for period in periods:
            while days < period and (store := self._recorder.store) is not None:
                if days:
                    await deferLater(self._clock, 0)
                step = min(DAYS_AT_ONCE, period - days)
                read = usage_between(store, today - days - step + 1, today - days)
                for name, usage in read.items():
                    total[name] = total[name] + usage if name in total else usage
                days += step
            found[period] = dict(total)
        return found

    @property
    def names(self) -> list[str]:
        """The names of the keys that there are."""
        return list(self._meters.keys)
