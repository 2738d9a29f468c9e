"""Whose turn it is in the queue of a model: the one rule, stated here and nowhere else.

1. *Class*: requests of a lower rank come first (interactive 1, default 2, bulk 3).
2. *Share*: in one class, the requester comes first that stands lowest: it has used the fewest GPU
   seconds lately, per weight (``cortexd.fleet.shares``).
3. *Time*: the requests of one requester come in the order of their arrival, and so do those of
   requesters that stand equally.
4. *Overdue*: a requester that has waited longer than ``max_wait`` times its rank without any grant
   from the queue comes before all others, the longest overdue first, within two limits:

   a. A request is delayed by lower classes once at most. An overdue one does not pass a request of
      a higher class if one of a lower class ran in the model as that came, or has passed it since.
   b. In one class, an overdue request does not pass a request that another has passed already: at
      most every second grant is out of order.

So with one requester the queue is first come, first served. No requester starves: requests that may
not be passed again become overdue themselves, and then come in the order of time. A flood is not
overdue because its last requests wait long: it is served all the time.

How a requester *stands* in a queue is what it has used lately, anywhere. But a requester whose
request comes to a queue where it has no other starts at most a tenth, and at most ``HEAD_START``,
below the highest standing at which its class was granted there: time without requests is no claim
to a long turn. Otherwise a flood with a new key would keep off all that worked there before, for as
long as they had worked.

Pure: ``now`` is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import exp
from typing import Final

from cortexd.access.requesters import Priority, Requester
from cortexd.fleet.shares import DECAY_SECONDS, NOTHING, Shares, next_of
from cortexd.scheduling.waiting import Waiter
from cortexd.values import value

HEAD_START: Final = 10.0
"""GPU seconds per weight by which a requester may stand below others as its request comes."""

HEAD_SHARE: Final = 0.1
"""The part of the standing of others by which it may; the smaller of both holds."""


@value
class Front:
    """The first request of a requester in a queue, and how the requester stands there.

    The requester waits for a grant since ``since``. ``is_passed``: a request that is later in the
    order was granted before it, or one of a lower class ran as it came.
    """

    waiter: Waiter
    since: float
    standing: float
    is_passed: bool

    @property
    def key(self) -> tuple[int, float, int]:
        """The order by class, share and time, the first first."""
        return self.waiter.requester.priority, self.standing, self.waiter.number

    def due_at(self, max_wait: float) -> float:
        """Return when the requester becomes overdue."""
        return self.since + max_wait * self.waiter.requester.priority


def next_turn(
    fronts: Sequence[Front], now: float, max_wait: float
) -> tuple[Front, tuple[Front, ...]]:
    """Return whose turn it is, and which fronts it passes. There must be one front at least."""
    order = sorted(fronts, key=lambda front: front.key)
    last = next((at for at, front in enumerate(order) if front.is_passed), len(order))
    overdue = [front for front in order[: last + 1] if now >= front.due_at(max_wait)]
    chosen = min(overdue, key=lambda front: front.due_at(max_wait), default=order[0])
    return chosen, tuple(order[: order.index(chosen)])


def crowded_out(
    waiting: Iterable[tuple[Requester, Collection[Waiter]]], requester: Requester
) -> Waiter | None:
    """Return the request that leaves a full queue to one more of ``requester``, ``None`` for none.

    It is the newest of the requester with the most requests there per weight, in the lowest class
    that waits. It leaves only to a requester of a higher class, or to one that has fewer requests
    per weight there, with this one, than the other has.
    """
    crowds: dict[Requester, Collection[Waiter]] = dict(waiting)

    def crowd(each: Requester, more: int = 0) -> tuple[int, float]:
        return each.priority, (len(crowds.get(each, ())) + more) / each.weight

    most = max(crowds, key=crowd, default=requester)
    if most == requester or crowd(most) <= crowd(requester, 1):
        return None
    return list(crowds[most])[-1]


class Standings:
    """How requesters stand in the queues of models.

    A mark is how the requester stood whose request was granted last, by model and class; a lift is
    what is added to a requester's standing, by model. Both decay as the used seconds do.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._marks: dict[tuple[str, Priority], _Decaying] = {}
        self._lifts: dict[tuple[str, str], _Decaying] = {}
        self._old_marks: list[tuple[str, Priority]] = []
        self._old_lifts: list[tuple[str, str]] = []

    def come(self, model: str, requester: Requester, now: float) -> None:
        """Note that a request comes to a queue in which its requester has no other."""
        mark = self._marks.get((model, requester.priority))
        if mark is None:
            return
        lowest = mark.by(now) - min(HEAD_START, HEAD_SHARE * mark.by(now))
        lift = lowest - self._shares.standing(requester, now)
        known = self._lifts.get((model, requester.name))
        if lift > (known.by(now) if known is not None else NOTHING):
            self._lifts[model, requester.name] = _Decaying(lift, now)

    def granted(self, model: str, requester: Requester, now: float) -> None:
        """Note that a request for a model is granted."""
        key, standing = (model, requester.priority), self.of(model, requester, now)
        mark = self._marks.get(key)
        if mark is None or standing > mark.by(now):
            self._marks[key] = _Decaying(standing, now)

    def of(self, model: str, requester: Requester, now: float) -> float:
        """Return how a requester stands in the queue of a model; the lowest comes first."""
        standing = self._shares.standing(requester, now)
        lift = self._lifts.get((model, requester.name)) if self._lifts else None
        return standing + lift.by(now) if lift is not None else standing

    def forget(self, now: float) -> None:
        """Forget marks and lifts that have decayed to nothing; of many, each call looks at some."""
        for mark in next_of(self._marks, self._old_marks):
            if mark in self._marks and self._marks[mark].by(now) <= NOTHING:
                del self._marks[mark]
        for lift in next_of(self._lifts, self._old_lifts):
            if lift in self._lifts and self._lifts[lift].by(now) <= NOTHING:
                del self._lifts[lift]


@value
class _Decaying:
    """GPU seconds per weight at some time."""

    seconds: float
    at: float

    def by(self, now: float) -> float:
        return self.seconds * exp(min(0.0, self.at - now) / DECAY_SECONDS)
