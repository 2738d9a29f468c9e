"""Keeps in the store what each key has used, so that budgets hold over restarts.

A daemon that is killed forgets the usage of the last WRITE_SECONDS. One that hands over writes all
of it first, and then reports to its successor what the rest of its requests use.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from cortexd.access.keys import Key
from cortexd.access.usage import DAY, FINE_HOURS, HOUR, KEPT, Usage
from cortexd.dispatcher import Dispatcher
from cortexd.logs import get_logger
from cortexd.metering.meters import Meters
from cortexd.store.journal import Store
from cortexd.store.recorder import Recorder
from cortexd.store.usage import add_usage, tokens_since, trim_usage, usage_since

WRITE_SECONDS: Final = 10.0
"""Seconds between two writes. Usage counts in the hour in which it is written."""

MOST_KEYS: Final = 150
"""The usage of how many keys is written at once, in some 5 ms; the rest follows."""

log = get_logger("cortexd.store")


class UsageKeeper(Service):
    """Writes the usage of ``meters`` to the store of ``recorder``, and restores budgets from it.

    It runs while the recorder does. ``unix_time`` returns the time in seconds.
    """

    def __init__(
        self,
        meters: Meters,
        dispatcher: Dispatcher,
        recorder: Recorder,
        clock: IReactorTime,
        unix_time: Callable[[], float],
    ) -> None:
        self._meters = meters
        self._recorder = recorder
        self._clock = clock
        self._unix_time = unix_time
        self._loop: LoopingCall | None = None
        self._trimmed_in = 0
        self._generation = meters.generation
        dispatcher.listen(meters.follow)
        recorder.restorers.append(self.restore)

    def startService(self) -> None:
        """Write changes from now on."""
        super().startService()
        self._loop = loop = LoopingCall(self.write)
        loop.clock = self._clock
        loop.start(WRITE_SECONDS, now=False).addErrback(_writing_stopped)

    def stopService(self) -> None:
        """Write what is left."""
        super().stopService()
        loop, self._loop = self._loop, None
        if loop is not None and loop.running:
            loop.stop()
        self._write_all()

    def restore(self, store: Store) -> None:
        """Read what the budgets have lost: at the start, for new keys, or after a lasting fault."""
        now, meters = self._unix_time(), self._meters
        self._generation = meters.generation
        budgeted = [key for key in meters.keys.values() if key.limits.token_budget is not None]
        if budgeted:
            hour = int(now // HOUR) - KEPT[HOUR]
            meters.restore(HOUR, tokens_since(store, HOUR, hour))
            meters.restore(DAY, tokens_since(store, DAY, int(now // DAY) - _longest(budgeted)))

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
        if self._generation != self._meters.generation:
            self.restore(store)
        return len(written)

    def _write_all(self) -> None:
        while self.write():
            pass

    def used(self, days: int) -> dict[str, Usage]:
        """Return what each key has used in the last days, today included, by its name."""
        self._write_all()
        store = self._recorder.store
        today = int(self._unix_time() // DAY)
        return {} if store is None else usage_since(store, today - days + 1)

    @property
    def names(self) -> list[str]:
        """The names of the keys that there are."""
        return list(self._meters.keys)


def _longest(keys: list[Key]) -> int:
    """Return how many days back the budgets of keys reach."""
    hours = [key.limits.budget_hours or 0 for key in keys]
    longest = max(hours)
    return int(longest // 24) + 1 if longest > FINE_HOURS else 0


def _writing_stopped(failure: object) -> None:
    log.error("usage_not_kept", failure=failure)
