"""Which replicas have read which beginnings of prompts: a bounded table, pure.

An engine keeps the prompts that it read last in its prefix cache, and drops the one used longest
ago (``--prefix-cache-n``, 16 by default; nodes.md 7.10). So each replica has a list of the *heads*
that it should hold: one for each conversation, the one used last at the end. A request whose prompt
goes on where a head ends takes its place. A table that believes too much costs a prompt that is
read again; the ``cached_tokens`` of answers correct it.

A replica forgets everything when its engine is loaded anew or its node restarts. Both change the
replica's *stamp*, which is compared before each look, so no event has to tell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from cortexd.fleet.nodes import Replica
from cortexd.scheduling.hints import Hints

HEADS_OF_REPLICA: Final = 16
"""How many conversations an engine keeps: the default of mistral.rs for sequences in its cache."""

MOST_HEADS: Final = 20_000
"""How many heads all replicas have together: some 20 MB with eight prefixes each."""

MOST_SIZES: Final = 50_000
"""How many prefixes have a known length: some 5 MB."""

LIFETIME: Final = 3600.0
"""After so many seconds without use, a head is taken for forgotten."""

LONGEST_SESSION: Final = 512
"""In characters. Longer names of sessions are not remembered; clients choose them."""

Stamp = tuple[float, int]


class Head:
    """What an engine has read of one conversation: its ``prefixes`` and all of its ``tokens``.

    ``tokens`` is 0 until an answer has told. ``is_read``: a request of the conversation has been
    answered, so that the engine has read that much. ``used_at`` is when the last was granted.
    """

    __slots__ = ("is_read", "prefixes", "session", "tokens", "used_at")

    def __init__(self, session: str, prefixes: tuple[int, ...], tokens: float, now: float) -> None:
        self.session = session
        self.prefixes = prefixes
        self.tokens = tokens
        self.used_at = now
        self.is_read = False

    def goes_on_in(self, prefixes: tuple[int, ...]) -> bool:
        """Whether a prompt that begins like this can go on where the head ends."""
        return not prefixes or not self.prefixes or self.prefixes[-1] in prefixes


class Match(NamedTuple):
    """How a replica's best head fits a request: ``tokens`` of the prompt should be in its cache.

    ``is_own``: the head is of the same conversation, not only of one that begins alike.
    ``by_session``: it was found by the name of the session.
    """

    head: Head
    tokens: float
    is_own: bool
    by_session: bool


class Holding:
    """The heads that one replica should hold, the one used last at the end."""

    __slots__ = ("_by_prefix", "_by_session", "_heads", "stamp")

    def __init__(self, stamp: Stamp) -> None:
        self.stamp = stamp
        self._heads: OrderedDict[Head, None] = OrderedDict()
        self._by_session: dict[str, Head] = {}
        self._by_prefix: dict[int, Head] = {}

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads, the one used longest ago first."""
        return tuple(self._heads)

    def match(self, hints: Hints, sizes: Mapping[int, float], now: float) -> Match | None:
        """Return the head that fits a request best, ``None`` if none does."""
        prefixes, session = hints.prefixes, hints.session
        if session:
            head = self._by_session.get(session)
            if head is not None and head.goes_on_in(prefixes) and now < head.used_at + LIFETIME:
                return Match(head, head.tokens, is_own=True, by_session=True)
        for key in reversed(prefixes):
            head = self._by_prefix.get(key)
            if head is not None and now < head.used_at + LIFETIME:
                is_own = head.prefixes[-1] == key and head.session in (session, "")
                tokens = head.tokens if is_own else sizes.get(key, 0.0)
                return Match(head, tokens, is_own, by_session=False)
        return None

    def add(self, head: Head) -> Head:
        """Add a head in the place of the one that it goes on from, and return it."""
        before = self._before(head)
        if before is not None:
            head.tokens, head.is_read = max(head.tokens, before.tokens), before.is_read
            self.remove(before)
        self._heads[head] = None
        if head.session:
            self._by_session[head.session] = head
        for key in head.prefixes:
            self._by_prefix[key] = head
        if len(self._heads) > HEADS_OF_REPLICA:
            self.remove(next(iter(self._heads)))
        return head

    def _before(self, head: Head) -> Head | None:
        """Return the head that another one goes on from."""
        if head.session:
            found = self._by_session.get(head.session)
            if found is not None and found.goes_on_in(head.prefixes):
                return found
        for key in reversed(head.prefixes):
            found = self._by_prefix.get(key)
            if found is not None and found.prefixes[-1] == key and found.session == head.session:
                return found
        return None

    def remove(self, head: Head) -> None:
        """Remove a head that the engine does not hold any more."""
        if head not in self._heads:
            return
        del self._heads[head]
        if self._by_session.get(head.session) is head:
            del self._by_session[head.session]
        for key in head.prefixes:
            if self._by_prefix.get(key) is head:
                del self._by_prefix[key]

    def remove_used_by(self, used_at: float) -> None:
        """Remove the heads that were not used after ``used_at``."""
        for head in self.heads:
            if head.used_at > used_at:
                return
            self.remove(head)


class Table:
    """The holdings of all replicas, by model and node, and the lengths of prefixes in tokens."""

    def __init__(self) -> None:
        self._by_model: dict[str, dict[str, Holding]] = {}
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._heads = 0
        self.sizes: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return self._heads

    def of(self, model: str) -> Mapping[str, Holding]:
        """Return the holdings of a model's replicas, by the names of their nodes."""
        return self._by_model.get(model, _NONE)

    def holding(self, replica: Replica) -> Holding | None:
        """Return what a replica holds, ``None`` if that is nothing since its engine began."""
        holding = self._by_model.get(replica.model, _NONE).get(replica.node.name)
        if holding is not None and holding.stamp != (replica.loaded_at, replica.node.restarts):
            self._forget(replica.node.name, replica.model)
            return None
        return holding

    def add(
        self, replica: Replica, hints: Hints, now: float, holding: Holding | None = None
    ) -> Head:
        """Note that a replica reads the prompt of a request, and return its head there.

        ``holding`` is the replica's, where that is known to the caller.
        """
        name, model = replica.node.name, replica.model
        if holding is None:
            holding = self.holding(replica)
        if holding is None:
            holding = Holding((replica.loaded_at, replica.node.restarts))
            self._by_model.setdefault(model, {})[name] = holding
        self._used[name, model] = None
        self._used.move_to_end((name, model))
        before = len(holding)
        session = hints.session if len(hints.session) <= LONGEST_SESSION else ""
        head = holding.add(Head(session, hints.prefixes, 0.0, now))
        self._heads += len(holding) - before
        while self._heads > MOST_HEADS:
            self._forget(*next(iter(self._used)))
        return head

    def learn_size(self, prefix: int, tokens: float) -> None:
        """Note how many tokens a prefix has."""
        sizes = self.sizes
        sizes[prefix] = tokens
        sizes.move_to_end(prefix)
        if len(sizes) > MOST_SIZES:
            sizes.popitem(last=False)

    def drop_used_by(self, replica: Replica, used_at: float) -> None:
        """Forget what a replica was not used for after ``used_at``: engines drop the oldest."""
        holding = self.holding(replica)
        if holding is not None:
            before = len(holding)
            holding.remove_used_by(used_at)
            self._heads -= before - len(holding)

    def drop(self, replica: Replica, head: Head) -> None:
        """Forget a head that a replica's engine has never read whole."""
        holding = self.holding(replica)
        if holding is not None:
            before = len(holding)
            holding.remove(head)
            self._heads -= before - len(holding)

    def clear(self) -> None:
        """Forget everything."""
        self._by_model.clear()
        self._used.clear()
        self.sizes.clear()
        self._heads = 0

    def _forget(self, node: str, model: str) -> None:
        by_node = self._by_model[model]
        self._heads -= len(by_node.pop(node))
        self._used.pop((node, model), None)
        if not by_node:
            del self._by_model[model]


_NONE: Final[Mapping[str, Holding]] = {}
