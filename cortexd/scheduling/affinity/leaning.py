"""Whether a request goes to a replica that has read its beginning before: pure.

``routing`` chooses among the replicas that can answer now. Of those, a request then leans towards
the one where it costs least, in seconds:

- what the replica's prefix cache saves: the tokens that it should hold, over its rate of reading;
  short beginnings do not count, so that small requests spread over the copies;
- what its other requests cost: an answer takes up to twice as long on a replica whose slots are all
  in use, so each busy slot costs its share of the usual time of an answer there.

What another conversation has left there saves less than what the request's own conversation has:
the same beginning is read only once on the other replica, and all later turns profit from its being
less busy. So only a share of it counts.

A request never waits for a replica that it leans towards, nor goes to one that fails, whose node is
loading, or that ``routing`` could not have chosen: only free replicas of the same standing as the
first choice are compared. With one copy of a model there is nothing to compare.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final, NamedTuple

from cortexd.fleet.learning.prefills import Paces, Reading
from cortexd.fleet.nodes import Lease, Replica
from cortexd.fleet.states import NodeHealth
from cortexd.scheduling.affinity.table import Head, Match, Table
from cortexd.scheduling.hints import Hints

SESSION: Final = "session"
"""The replica has read the request's conversation, found by the name of its session."""

PREFIX: Final = "prefix"
"""The replica has read what the prompt begins with."""

ELSEWHERE: Final = "elsewhere"
"""Another replica has, but is not free, or the way there costs more than it saves."""

NEW: Final = "new"
"""No replica has."""

SHARED: Final = 0.25
"""The share that counts of what another conversation has left, as if a conversation had 4 turns."""

LEAST_TOKENS: Final = 256
"""With fewer tokens in its cache no replica is preferred, and an answer that finds none is no miss.
"""

MOST_PENDING: Final = 20_000
"""How many requests that are under way are known at once."""


class _Pending(NamedTuple):
    """A request under way: its hints, its head at its replica, and what it found there."""

    hints: Hints
    head: Head
    match: Match | None
    was_read: bool


class Affinity:
    """Knows what the replicas have read, and leans requests towards them if it ``is_on``."""

    def __init__(self, *, is_on: bool = True) -> None:
        self.is_on = is_on
        self.table = Table()
        self.paces = Paces()
        self._pending: OrderedDict[int, _Pending] = OrderedDict()

    def switch(self, *, is_on: bool) -> None:
        """Follow the configuration; what is switched off forgets all that it knew."""
        if self.is_on and not is_on:
            self.table.clear()
            self._pending.clear()
        self.is_on = is_on

    def concerns(self, replicas: Collection[Replica], hints: Hints) -> bool:
        """Whether there is anything to compare for a request."""
        return self.is_on and len(replicas) > 1 and bool(hints.prefixes or hints.session)

    def lean(
        self,
        first: Replica,
        replicas: Collection[Replica],
        hints: Hints,
        now: float,
        tried: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Replica:
        """Return the free replica where a request costs least; ``first`` is routing's choice."""
        if not self.concerns(replicas, hints) or not self.table.of(first.model):
            return first
        if first.is_ejected:
            return first  # It is a trial.
        best, least, standing = first, self._cost(first, hints, now), _standing(first, now)
        for replica in replicas:
            if (
                replica is not first
                and replica.leases + replica.ghosts - replica.probes < replica.terms.capacity
                and replica.node.name not in tried
                and (only is None or replica.node.name in only)
                and replica.answers
                and not replica.is_ejected
                and self.table.holding(replica) is not None
                and _standing(replica, now) == standing
            ):
                cost = self._cost(replica, hints, now)
                if cost < least:
                    best, least = replica, cost
        return best

    def _cost(self, replica: Replica, hints: Hints, now: float) -> float:
        """Return what a request costs at a replica, in seconds, against an idle one without it."""
        node, model = replica.node.name, replica.model
        busy = (replica.leases + replica.ghosts) / replica.terms.capacity
        cost = busy * self.paces.answer_seconds(node, model) if busy else 0.0
        match = self._match(replica, hints, now)
        if match is not None and match.tokens >= LEAST_TOKENS:
            tokens = match.tokens if match.is_own else match.tokens * SHARED
            cost -= tokens / self.paces.rate(node, model)
        return cost

    def _match(self, replica: Replica, hints: Hints, now: float) -> Match | None:
        holding = self.table.holding(replica)
        return None if holding is None else holding.match(hints, self.table.sizes, now)

    def granted(
        self,
        lease: Lease,
        replica: Replica,
        replicas: Collection[Replica],
        hints: Hints,
        now: float,
    ) -> str:
        """Note that a request goes to a replica, and say how it fits; "" where nothing is known."""
        if not self.concerns(replicas, hints):
            return ""
        table, match = self.table, None
        holding = table.holding(replica)
        if holding is not None:
            match = holding.match(hints, table.sizes, now)
        was_read = False
        if match is not None:
            kind = SESSION if match.by_session else PREFIX
            was_read = match.head.is_read
        else:
            kind = ELSEWHERE if self._is_held(replica, replicas, hints, now) else NEW
        head = table.add(replica, hints, now, holding)
        self._pending[lease.number] = _Pending(hints, head, match, was_read)
        if len(self._pending) > MOST_PENDING:
            self._pending.popitem(last=False)
        return kind

    def _is_held(
        self, but: Replica, replicas: Collection[Replica], hints: Hints, now: float
    ) -> bool:
        """Whether another replica than one holds what a request begins with."""
        holdings = self.table.of(but.model)
        if not holdings or (len(holdings) == 1 and but.node.name in holdings):
            return False
        return any(
            replica is not but
            and replica.node.name in holdings
            and self._match(replica, hints, now) is not None
            for replica in replicas
        )

    def ended(self, lease: Lease, replica: Replica | None, reading: Reading | None) -> None:
        """Learn from the end of a request; ``replica`` is ``None`` if it has gone."""
        if reading is not None and reading.first_seconds is not None:
            self.paces.learn(lease.node, lease.model, reading)
        pending = self._pending.pop(lease.number, None)
        if pending is None or replica is None:
            return
        head, match = pending.head, pending.match
        if reading is None or reading.first_seconds is None:
            if not head.is_read:
                self.table.drop(replica, head)
            return
        head.is_read = True
        if (
            match is not None
            and pending.was_read
            and reading.cached_tokens == 0
            and match.tokens >= LEAST_TOKENS
            and match.head.prefixes[-1:] != pending.hints.prefixes[-1:]
        ):
            # A prompt that is repeated may be read whole although it is cached (nodes.md 7.10).
            self.table.drop_used_by(replica, match.head.used_at)
        self._learn_sizes(pending, reading)

    def _learn_sizes(self, pending: _Pending, reading: Reading) -> None:
        """Learn how long the request's prefixes are, of which its prompt is the longest."""
        tokens, prefixes = reading.prompt_tokens, pending.hints.prefixes
        if tokens <= 0:
            return
        pending.head.tokens = float(tokens)
        table, known = self.table, self.table.sizes
        for number, key in enumerate(prefixes, start=1):
            if key not in known:
                table.learn_size(key, tokens * number / (len(prefixes) + 1))
        match, cached = pending.match, reading.cached_tokens
        if match is not None and not match.is_own and cached:
            shared = next((key for key in reversed(prefixes) if key in match.head.prefixes), None)
            if shared is not None:
                table.learn_size(shared, float(min(cached, tokens)))


def _standing(replica: Replica, now: float) -> tuple[bool, bool]:
    """Return what comes before everything else in the choice of a replica."""
    breaker = replica.breaker
    is_suspect = breaker is not None and breaker.is_suspect(now)
    return is_suspect, replica.node.health is not NodeHealth.UP
