"""GPU seconds: how many each requester has used lately, and uses now.

A replica that answers uses one GPU second in each second, whatever the number of its leases: they
share that second equally. A lease of an adapter runs in the replica of its base. So the seconds of
all leases of a replica add up to the time in which it had any.

Each replica in use has a *meter*: a virtual clock that advances by ``1/n`` in each second with
``n`` leases. The seconds of a lease are the difference of that clock between its end and its begin.

What a requester has used decays exponentially with the time constant ``DECAY_SECONDS``. What it
uses now counts at once, so that a flood of long answers counts before the first of them ends.
Probes are no requests, so they use nothing.

Which classes have used a replica lately is noted here too, because a class does not take the memory
of what a higher one uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import expm1, inf
from typing import Final, TypeVar

from cortexd.access.requesters import Priority, Requester
from cortexd.fleet.nodes import Lease, ReplicaKey

DECAY_SECONDS: Final = 3600.0
"""After so many seconds, used GPU seconds count only 1/e as much."""

RECENT_SECONDS: Final = 300.0
"""For so long after its last request a class counts as using a replica."""

LOOKED_AT_ONCE: Final = 32
"""How many entries of a table one call looks at, to forget old ones."""

_Key = TypeVar("_Key")

NOTHING: Final = 0.001
"""Fewer used seconds than these are forgotten."""


class _Use:
    """What one requester has used by ``at``, and its ``rate`` since then in GPU seconds a second.

    ``leases`` is how many run now.
    """

    __slots__ = ("at", "leases", "rate", "seconds")

    def __init__(self, now: float) -> None:
        self.seconds = self.rate = 0.0
        self.at = now
        self.leases = 0

    def by(self, now: float) -> float:
        """Return what was used by ``now``, decayed."""
        if now <= self.at:
            return self.seconds
        lost = -expm1((self.at - now) / DECAY_SECONDS)  # the part that decays
        return self.seconds + (self.rate * DECAY_SECONDS - self.seconds) * lost

    def change(self, now: float, rate: float, seconds: float = 0.0) -> None:
        """Use so much more in each second from now on, and so many seconds at once."""
        if now > self.at:
            self.seconds = self.by(now)
            self.at = now
        self.seconds += seconds
        self.rate += rate


class _Meter:
    """The virtual clock of a replica as of ``at``, and how many leases it has.

    While all leases are of one requester, ``sole`` is what it uses. Once another came, ``counts``
    has the leases of each, until there are no leases. By rank, ``by_rank`` counts the leases, and
    ``used_at`` has when the last one began or ended; the first entry of both is of no rank.
    """

    __slots__ = ("at", "by_rank", "counts", "leases", "sole", "used_at", "virtual")

    def __init__(self, now: float) -> None:
        self.virtual = 0.0
        self.leases = 0
        self.sole: _Use | None = None
        self.counts: dict[_Use, int] = {}
        self.by_rank = [0] * (len(Priority) + 1)
        self.used_at = [-inf] * (len(Priority) + 1)
        self.at = now

    def at_time(self, now: float) -> float:
        """Return what the virtual clock shows ``now``; looking does not change it."""
        if self.leases and now > self.at:
            return self.virtual + (now - self.at) / self.leases
        return self.virtual

    def advance(self, now: float) -> None:
        """Let the virtual clock run until ``now``."""
        if now > self.at:
            if self.leases:
                self.virtual += (now - self.at) / self.leases
            self.at = now

    def share(self, use: _Use, step: int, now: float) -> None:
        """Let one of several requesters have one lease more or less; all rates follow."""
        counts, before = self.counts, self.leases
        if self.sole is not None:
            counts[self.sole] = before
            self.sole = None
        after = before + step
        for other, leases in counts.items():
            if other is not use:
                other.change(now, leases / after - leases / before)
        had = counts.get(use, 0)
        has = had + step
        use.change(now, has / after - had / before)
        if has:
            counts[use] = has
        else:
            del counts[use]


class Shares:
    """The GPU seconds of every requester, by its name.

    Every lease comes through here as it begins and ends. While all leases of a replica are of one
    requester, only the first and the last of them change a rate.
    """

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._meters: dict[ReplicaKey, _Meter] = {}
        self._running: dict[int, tuple[_Meter, _Use, float]] = {}
        self._classes = 0
        self._old_uses: list[str] = []
        self._old_meters: list[ReplicaKey] = []

    def begin(self, lease: Lease, now: float, before: float = 0.0) -> None:
        """Note that a lease begins, or is adopted with so many GPU seconds that it used before."""
        if lease.is_probe:
            return
        key = lease.node, lease.base or lease.model
        requester = lease.requester
        meter, use = self._meters.get(key), self._uses.get(requester.name)
        if meter is None:
            meter = self._meters[key] = _Meter(now)
        if use is None:
            use = self._use(requester.name, now)
        meter.advance(now)
        if not meter.leases:
            meter.virtual = 0.0
            meter.sole = use
            use.change(now, 1.0)
        elif meter.sole is not use:
            meter.share(use, 1, now)
        meter.leases += 1
        use.leases += 1
        priority = requester.priority
        meter.by_rank[priority] += 1
        meter.used_at[priority] = now
        self._classes |= 1 << priority
        self._running[lease.number] = meter, use, meter.virtual - before

    def end(self, lease: Lease, now: float) -> float | None:
        """Note that a lease has ended; return its GPU seconds, ``None`` for one without any."""
        running = self._running.pop(lease.number, None)
        if running is None:
            return None
        meter, use, begun = running
        meter.advance(now)
        if meter.leases == 1:
            use.change(now, -1.0)
            meter.sole = None
            meter.counts.clear()
        elif meter.sole is not use:
            meter.share(use, -1, now)
        meter.leases -= 1
        use.leases -= 1
        if not use.leases:
            use.rate = 0.0  # what rounding has left of it
        priority = lease.requester.priority
        meter.by_rank[priority] -= 1
        meter.used_at[priority] = now
        return meter.virtual - begun

    def see(self, priority: Priority) -> None:
        """Note that there are requests of a class."""
        self._classes |= 1 << priority

    def has_others(self, priority: Priority) -> bool:
        """Whether requests of another class were ever seen."""
        return self._classes & ~(1 << priority) != 0

    def runs_below(self, key: ReplicaKey, priority: Priority) -> bool:
        """Whether a request of a lower class runs in a replica now."""
        meter = self._meters.get(key)
        return meter is not None and any(meter.by_rank[priority + 1 :])

    def running(self, key: ReplicaKey, rank: Priority) -> int:
        """Return how many requests run in a replica, without those of a class below ``rank``."""
        meter = self._meters.get(key)
        return 0 if meter is None else sum(meter.by_rank[: rank + 1])

    def used_by(self, key: ReplicaKey, now: float) -> Priority | None:
        """Return the highest class that uses a replica now or has lately, ``None`` for none."""
        meter = self._meters.get(key)
        if meter is None:
            return None
        for priority in Priority:
            if meter.by_rank[priority] or now - meter.used_at[priority] < RECENT_SECONDS:
                return priority
        return None

    def _use(self, name: str, now: float) -> _Use:
        use = self._uses.get(name)
        if use is None:
            use = self._uses[name] = _Use(now)
        return use

    def charge(self, name: str, seconds: float, now: float) -> None:
        """Add GPU seconds that were no lease: those of a load."""
        self._use(name, now).change(now, 0.0, seconds)

    def used(self, name: str, now: float) -> float:
        """Return the GPU seconds that a requester has used by now, decayed."""
        use = self._uses.get(name)
        return use.by(now) if use is not None else 0.0

    def standing(self, requester: Requester, now: float) -> float:
        """Return the used GPU seconds of a requester per weight: the least is served first."""
        use = self._uses.get(requester.name)
        return use.by(now) / requester.weight if use is not None else 0.0

    def of_lease(self, lease: Lease, now: float) -> float:
        """Return the GPU seconds that a lease has used so far, 0 for one that uses none."""
        running = self._running.get(lease.number)
        if running is None:
            return 0.0
        meter, _, begun = running
        return meter.at_time(now) - begun

    def all_used(self, now: float) -> dict[str, float]:
        """Return the used GPU seconds of each requester that has any, by its name."""
        return {name: use.by(now) for name, use in self._uses.items()}

    def take(self, used: Mapping[str, float], now: float) -> None:
        """Take over what requesters have used in an earlier process."""
        for name, seconds in used.items():
            self.charge(name, seconds, now)

    def forget(self, now: float) -> None:
        """Forget requesters whose used seconds have decayed to nothing, and meters without use.

        Where there are many, each call looks at some of them.
        """
        for name in next_of(self._uses, self._old_uses):
            use = self._uses.get(name)
            if use is not None and not use.leases and use.by(now) < NOTHING:
                del self._uses[name]
        for key in next_of(self._meters, self._old_meters):
            meter = self._meters.get(key)
            if meter is None or meter.leases:
                continue
            if now - max(meter.used_at) >= RECENT_SECONDS:
                del self._meters[key]


def next_of(entries: Iterable[_Key], left: list[_Key]) -> list[_Key]:
    """Return the keys of a table that are looked at next, and take them from what is ``left``.

    Once nothing is left, all of the table's ``entries`` are.
    """
    if not left:
        left.extend(entries)
    keys = left[-LOOKED_AT_ONCE:]
    del left[-LOOKED_AT_ONCE:]
    return keys


def by_requester(requesters: Iterable[Requester]) -> dict[str, float]:
    """Return the share of each requester in a load, by its name; together they are 1.

    ``requesters`` has one entry for each request that waited for the load: each request bears the
    same part, as running requests share their replica.
    """
    names = [requester.name for requester in requesters]
    shares = dict.fromkeys(names, 0.0)
    for name in names:
        shares[name] += 1.0
    return {name: count / len(names) for name, count in shares.items()}
