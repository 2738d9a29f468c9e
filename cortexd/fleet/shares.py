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
from math import exp, expm1, inf
from typing import Final

from cortexd.access.requesters import Priority, Requester
from cortexd.fleet.nodes import Lease, ReplicaKey

DECAY_SECONDS: Final = 3600.0
"""After so many seconds, used GPU seconds count only 1/e as much."""

RECENT_SECONDS: Final = 300.0
"""For so long after its last request a class counts as using a replica."""

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
        passed = (now - self.at) / DECAY_SECONDS
        if passed <= 0:
            return self.seconds
        return self.seconds * exp(-passed) - self.rate * DECAY_SECONDS * expm1(-passed)

    def settle(self, now: float) -> None:
        """Put what was used by ``now`` on the account, so that the rate may change."""
        self.seconds = self.by(now)
        self.at = max(now, self.at)


class _Meter:
    """A replica in use: its virtual clock, and its leases by the names of their requesters.

    ``by_rank`` counts the leases of each rank; the first entry is of no rank.
    """

    __slots__ = ("_at", "by_name", "by_rank", "leases", "virtual")

    def __init__(self, now: float) -> None:
        self.virtual = 0.0
        self.leases = 0
        self.by_name: dict[str, int] = {}
        self.by_rank = [0] * (len(Priority) + 1)
        self._at = now

    def at(self, now: float) -> float:
        """Return what the virtual clock shows ``now``; looking at it changes nothing."""
        if self.leases and now > self._at:
            return self.virtual + (now - self._at) / self.leases
        return self.virtual

    def advance(self, now: float) -> None:
        """Let the virtual clock run until ``now``."""
        self.virtual, self._at = self.at(now), max(now, self._at)


class Shares:
    """The GPU seconds of every requester, by its name."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._meters: dict[ReplicaKey, _Meter] = {}
        self._begun: dict[int, float] = {}
        self._used_at: dict[ReplicaKey, list[float]] = {}
        self._classes = 0

    def begin(self, lease: Lease, now: float, before: float = 0.0) -> None:
        """Note that a lease begins, or is adopted with so many GPU seconds that it used before."""
        if lease.is_probe:
            return
        key = lease.node, lease.base or lease.model
        meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = _Meter(now)
        meter.advance(now)
        self._begun[lease.number] = meter.virtual - before
        name = lease.requester.name
        self._use(name, now).leases += 1
        self._change(meter, name, 1, now)
        self._note_class(key, meter, lease.requester.priority, 1, now)

    def end(self, lease: Lease, now: float) -> float | None:
        """Note that a lease has ended; return its GPU seconds, ``None`` for one without any."""
        begun = self._begun.pop(lease.number, None)
        if begun is None:
            return None
        key = lease.node, lease.base or lease.model
        meter = self._meters[key]
        meter.advance(now)
        name = lease.requester.name
        self._change(meter, name, -1, now)
        self._note_class(key, meter, lease.requester.priority, -1, now)
        use = self._uses[name]
        use.leases -= 1
        if not use.leases:
            use.rate = 0.0  # what rounding has left of it
        if not meter.leases:
            del self._meters[key]
        return meter.virtual - begun

    def _change(self, meter: _Meter, name: str, step: int, now: float) -> None:
        """Let a requester have one lease more or less at a replica; all rates there follow."""
        by_name, before = meter.by_name, meter.leases
        had = by_name.get(name, 0)
        has, meter.leases = had + step, before + step
        if has:
            by_name[name] = has
        else:
            del by_name[name]
        if had == before:
            # It alone has leases there, so that it uses the whole replica.
            if not (had and has):
                self._add_rate(name, float(step), now)
            return
        for other, leases in by_name.items():
            was = had if other == name else leases
            rate = leases / meter.leases - (was / before if before else 0.0)
            self._add_rate(other, rate, now)
        if not has:
            self._add_rate(name, -had / before, now)

    def _note_class(
        self, key: ReplicaKey, meter: _Meter, priority: Priority, step: int, now: float
    ) -> None:
        meter.by_rank[priority] += step
        used_at = self._used_at.get(key)
        if used_at is None:
            used_at = self._used_at[key] = [-inf] * len(meter.by_rank)
        if used_at[priority] == -inf:
            self.see(priority)
        used_at[priority] = now

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

    def used_by(self, key: ReplicaKey, now: float) -> Priority | None:
        """Return the highest class that uses a replica now or has lately, ``None`` for none."""
        used_at, meter = self._used_at.get(key), self._meters.get(key)
        if used_at is None:
            return None
        for priority in Priority:
            is_used = meter is not None and meter.by_rank[priority]
            if is_used or now - used_at[priority] < RECENT_SECONDS:
                return priority
        return None

    def _add_rate(self, name: str, rate: float, now: float) -> None:
        use = self._uses[name]
        use.settle(now)
        use.rate += rate

    def _use(self, name: str, now: float) -> _Use:
        use = self._uses.get(name)
        if use is None:
            use = self._uses[name] = _Use(now)
        return use

    def charge(self, name: str, seconds: float, now: float) -> None:
        """Add GPU seconds that were no lease: those of a load."""
        use = self._use(name, now)
        use.settle(now)
        use.seconds += seconds

    def used(self, name: str, now: float) -> float:
        """Return the GPU seconds that a requester has used by now, decayed."""
        use = self._uses.get(name)
        return use.by(now) if use is not None else 0.0

    def standing(self, requester: Requester, now: float) -> float:
        """Return the used GPU seconds of a requester per weight: the least is served first."""
        return self.used(requester.name, now) / requester.weight

    def of_lease(self, lease: Lease, now: float) -> float:
        """Return the GPU seconds that a lease has used so far, 0 for one that uses none."""
        begun = self._begun.get(lease.number)
        if begun is None:
            return 0.0
        return self._meters[lease.node, lease.base or lease.model].at(now) - begun

    def all_used(self, now: float) -> dict[str, float]:
        """Return the used GPU seconds of each requester that has any, by its name."""
        return {name: use.by(now) for name, use in self._uses.items()}

    def take(self, used: Mapping[str, float], now: float) -> None:
        """Take over what requesters have used in an earlier process."""
        for name, seconds in used.items():
            self.charge(name, seconds, now)

    def forget(self, now: float) -> None:
        """Forget requesters whose used seconds have decayed to nothing."""
        for name, use in list(self._uses.items()):
            if not use.leases and use.by(now) < NOTHING:
                del self._uses[name]
        self._used_at = {
            key: used_at
            for key, used_at in self._used_at.items()
            if key in self._meters or now - max(used_at) < RECENT_SECONDS
        }


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
