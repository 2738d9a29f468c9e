"""The daemon's side of the command that shows what keys have used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.protocols import amp

from cortexd.access.usage import Usage
from cortexd.control.contract import ListUsage, Refused, page
from cortexd.control.summaries import UsageSummary
from cortexd.store.usage import DAYS_KEPT

PERIODS: Final = (1, 7, 30)
"""The days of each period that is shown unless the command names one."""


class UsageReading(Protocol):
    """Knows what keys have used, as ``cortexd.metering.keeper`` does."""

    @property
    def names(self) -> list[str]:
        """The names of the keys that there are."""

    async def used(self, periods: Sequence[int]) -> dict[int, dict[str, Usage]]:
        """Return what each key has used in the last days of each period, by its name."""


class UsageControl(amp.AMP):
    """The part of a ControlProtocol that answers the command."""

    factory: Any
    _used: Sequence[UsageSummary] = ()

    @ListUsage.responder
    def list_usage(
        self, offset: int, key: str | None = None, days: int | None = None
    ) -> Deferred[Mapping[str, Any]]:
        """Return a page of what keys have used; later pages are of the state of the first."""
        return Deferred.fromCoroutine(self._usage_page(offset, key, days))

    async def _usage_page(
        self, offset: int, key: str | None, days: int | None
    ) -> Mapping[str, Any]:
        if not offset:
            self._used = await _summaries(self._reading(), key, days)
        items, following = page(self._used, offset)
        return {"items": items, "next": following}

    def _reading(self) -> UsageReading:
        reading: UsageReading | None = self.factory.usage
        if reading is None:
            raise Refused("the daemon counts no usage")
        return reading


async def _summaries(
    reading: UsageReading, key: str | None, days: int | None
) -> list[UsageSummary]:
    periods = PERIODS if days is None else (min(max(1, days), DAYS_KEPT),)
    found = await reading.used(periods)
    names = sorted({*found[periods[-1]], *reading.names})
    if key is not None:
        if key not in names:
            raise Refused(f"there is no key {key!r}; 'cortexctl usage' shows all that were used")
        names = [key]
    return [
        UsageSummary(key=name, days=period, **asdict(found[period].get(name, Usage())))
        for name in names
        for period in periods
    ]
