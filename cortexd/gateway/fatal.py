"""Requests that end the engines they reach: known by their fingerprints, and refused for a while.

An engine that ends takes the requests of other clients with it, and a client's SDK sends a failed
request again by itself. So a request whose engines died twice goes to no node any more. The death
of an engine is *suspected* when the connection ended behind the whole request, or the answer before
its beginning, and *seen* when its node is then found down or restarted, or when its words say so.
A connection that ended says nothing if the same process then answers a poll.

===============  ===================  ==================================================
deaths seen      deaths suspected     the request is
===============  ===================  ==================================================
two              any                  refused for ``REFUSED_SECONDS`` after the last
fewer            two with those seen  asked to come again once the nodes have been polled
fewer            fewer                answered
===============  ===================  ==================================================

Requests that ran beside it die with it. One of them that is answered later is no longer known.
"""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

DEATHS: Final = 2
"""How many engines a request may end before it is refused."""

REFUSED_SECONDS: Final = 600.0
"""How long such a request is refused; deaths that are as old count no more."""

SUSPECTED_SECONDS: Final = 30.0
"""How long a death stays suspected at least: a node that died is found down or restarted before."""

MAX_KNOWN: Final = 1024
"""How many requests are known at once; of more, the one that failed first is forgotten."""

_WHOLE_BYTES: Final = 1024 * 1024
_END_BYTES: Final = 512 * 1024
"""A longer body is known by its length and its two ends, which takes a millisecond at most."""


class Verdict(enum.Enum):
    """What follows for a request from the engines that died of it."""

    ANSWER = "answer"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(slots=True)
class _Death:
    """The end of an engine on a node; ``is_seen`` once more than the connection says so.

    ``is_cut`` means that the connection ended: the process itself must have died, or nothing has.
    """

    node: str
    at: float
    is_seen: bool
    is_cut: bool


@dataclass(slots=True)
class _Known:
    """A request that may be fatal; ``is_told`` once it was reported as one."""

    model: str
    deaths: list[_Death] = field(default_factory=list)
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A request that has become fatal: its fingerprint and model, and the nodes it has ended."""

    fingerprint: str
    model: str
    nodes: tuple[str, ...]


class FatalRequests:
    """The requests that may be fatal, by their fingerprints; times in seconds of one clock.

    A death is suspected for ``suspected_seconds`` at most. ``survives`` says whether a node's
    process has answered a poll after a time.
    """

    def __init__(
        self,
        suspected_seconds: float = SUSPECTED_SECONDS,
        survives: Callable[[str, float], bool] = lambda node, at: False,
    ) -> None:
        self.suspected_seconds = suspected_seconds
        self._survives = survives
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._poisoned_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def knows_any(self, now: float) -> bool:
        """Return whether any request may be fatal; else no fingerprint need be made."""
        while self._known:
            oldest = next(iter(self._known))
            if self._counted(self._known[oldest], now):
                return True
            del self._known[oldest]
        return False

    def note_death(
        self,
        fingerprint: str,
        model: str,
        node: str,
        now: float,
        *,
        is_seen: bool = False,
        is_cut: bool = False,
    ) -> Found | None:
        """Note that a node's engine ended behind a request; return it if it is fatal by that."""
        known = self._known.setdefault(fingerprint, _Known(model))
        self._known.move_to_end(fingerprint)
        known.deaths = [*self._counted(known, now), _Death(node, now, is_seen, is_cut)]
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return self._newly_fatal(fingerprint, known, now)

    def note_poisoned(
        self, fingerprint: str, model: str, node: str, began_at: float, now: float
    ) -> Found | None:
        """Note that a node said, of a request that began then, that its engine is dead.

        Only requests that began before the first such answer can be the cause.
        """
        if began_at > self._poisoned_at.setdefault(node, now):
            return None
        return self.note_death(fingerprint, model, node, now, is_seen=True)

    def note_node_lost(self, node: str, now: float) -> list[Found]:
        """Note that a node is down or has restarted; return the requests that are fatal by that."""
        self._poisoned_at.pop(node, None)
        found = []
        for fingerprint, known in self._known.items():
            for death in known.deaths:
                if death.node == node and now - death.at <= self.suspected_seconds:
                    death.is_seen = True
            fatal = self._newly_fatal(fingerprint, known, now)
            if fatal is not None:
                found.append(fatal)
        return found

    def note_answered(self, fingerprint: str) -> None:
        """Note that a node has answered a request, which is not fatal then."""
        self._known.pop(fingerprint, None)

    def deaths(self, fingerprint: str, now: float) -> int:
        """Return how many engines may have died of a request."""
        known = self._known.get(fingerprint)
        return len(self._counted(known, now)) if known is not None else 0

    def verdict(self, fingerprints: Iterable[str], now: float) -> tuple[Verdict, float]:
        """Return what to do with a request of one of these fingerprints, and for how many seconds.

        Forgets the requests whose deaths are too old to count.
        """
        worst, seconds = Verdict.ANSWER, 0.0
        for fingerprint in fingerprints:
            known = self._known.get(fingerprint)
            if known is None:
                continue
            counted = self._counted(known, now)
            if not counted:
                del self._known[fingerprint]
            elif _seen(counted) >= DEATHS:
                return Verdict.REFUSE, counted[-1].at + REFUSED_SECONDS - now
            elif len(counted) >= DEATHS:
                first = min(death.at for death in counted if not death.is_seen)
                worst, seconds = Verdict.WAIT, first + self.suspected_seconds - now
        return worst, seconds

    def _counted(self, known: _Known, now: float) -> list[_Death]:
        """Return the deaths that count: not too old, and seen or still suspected."""
        return [
            death
            for death in known.deaths
            if now - death.at < (REFUSED_SECONDS if death.is_seen else self.suspected_seconds)
            and (death.is_seen or not (death.is_cut and self._survives(death.node, death.at)))
        ]

    def _newly_fatal(self, fingerprint: str, known: _Known, now: float) -> Found | None:
        counted = self._counted(known, now)
        if known.is_told or _seen(counted) < DEATHS:
            return None
        known.is_told = True
        return Found(fingerprint, known.model, tuple(death.node for death in counted))


def _seen(deaths: list[_Death]) -> int:
    return sum(death.is_seen for death in deaths)


def fingerprint(model: str, path: str, body: bytes) -> str:
    """Return the fingerprint of a request to a node: of its model, its route and its body."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (model.encode("utf-8", "surrogatepass"), path.encode(), b"%d" % len(body)):
        digest.update(part)
        digest.update(b"\0")
    if len(body) <= _WHOLE_BYTES:
        digest.update(body)
    else:
        view = memoryview(body)
        digest.update(view[:_END_BYTES])
        digest.update(view[-_END_BYTES:])
    return digest.hexdigest()
