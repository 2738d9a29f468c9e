"""When a replica that fails gets no more requests, and when it gets them again: pure.

A *fault* is a failure of node kind: the node could not be reached, broke off, was silent for too
long, or answered with an error of its own. The fault of a client, a client that left and a node
that is merely busy are no faults. A replica is *ejected* for one of these reasons:

- ``eject_after`` faults in a row, with no answer between them;
- three of its last twenty ends were faults, and a fifth of them, while another replica does much
  better: where all fail alike, the requests are at fault;
- one fault, where it has shown that the engine is poisoned and will fail every request, or where
  the replica came back a short while ago and another replica can take its requests.

An ejected replica gets no requests for ``eject_seconds``, twice as long after each ejection in a
row, up to ``max_eject_seconds``. Then it gets one request, the *trial*, and no second one until the
trial has ended. An answer brings the replica back, and a fault ejects it again. A trial that says
nothing, because its client left, makes room for the next one. Ten answers in a row make the next
ejection a first one again.

If no other replica can answer, refusing requests would help no client. So a replica that is *alone*
gets its trial after one second, twice as long after each ejection in a row, up to ten. A request
may be the cause of its fault, since nodes report many faults of clients as their own (nodes.md
4.4.1). For a replica that is alone it therefore counts once, until the replica has answered: a
client that repeats it takes no answers from others.

After a fault a replica is *suspect* for ``eject_seconds``, whatever it answers: it gets requests
only if no other replica has a free slot. Otherwise a replica that fails at once would always have
the fewest leases, and get most requests.

The anchors are the outlier detection of Envoy (consecutive failures, failure percentage, a time of
ejection that grows, the panic threshold) and the checks of HAProxy on live traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

from cortexd.errors import BadKey, CortexError, OverBudget
from cortexd.fleet.learning.prefills import Reading
from cortexd.text import one_line

WINDOW: Final = 20
"""How many of a replica's last ends count for the share of its faults."""

LEAST_FAULTS: Final = 3
LEAST_SHARE: Final = 0.2
"""How many of these ends, and which share of them, must be faults to eject the replica."""

LULL_SECONDS: Final = 60.0
"""After this time without an end, earlier ends no longer count for the share."""

ANSWERS_TO_TRUST: Final = 10
"""How many answers in a row a replica that came back must give before it is trusted again."""

ALONE_SECONDS: Final = 1.0
LONGEST_ALONE_SECONDS: Final = 10.0
"""How long a replica that is alone waits for its trial: doubled with each ejection in a row."""

MOST_REQUESTS: Final = 16
"""How many failed requests of a replica are known by their fingerprints at once."""

MOST_DOUBLINGS: Final = 16
"""More doublings all lead to the longest time."""

LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class BreakerTerms:
    """The settings of ``[scheduling]`` for ejections; ``eject_after`` 0 switches them off."""

    eject_after: int = 3
    eject_seconds: float = 10.0
    max_eject_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the end of a lease says about its replica.

    ``answered``: it answered a request whole. ``fault`` is the reason in words of a fault, and
    empty without one. ``poisoned``: the fault has shown that the engine will fail until it is
    restarted. ``is_refusal``: its server refuses every request of ours, for want of a key or money.
    Without any of these the end says nothing. ``request`` is the fingerprint of a request that may
    itself be the cause of the fault, and empty for any other. ``reading`` is what the end shows of
    the prompt and its answer, whatever it says about the replica.
    """

    answered: bool = False
    fault: str = ""
    poisoned: bool = False
    is_refusal: bool = False
    request: str = ""
    reading: Reading | None = None


ANSWERED: Final = Outcome(answered=True)
SAYS_NOTHING: Final = Outcome()


def may_be_of_request(error: CortexError | None) -> bool:
    """Return whether an error that counts against a replica may be the fault of the request.

    So may words of no known meaning, and a connection or an engine that ended with the request.
    """
    if error is None or not error.is_node_fault or error.is_poisoned:
        return False
    return error.ends_engine or not error.elsewhere


def outcome_of(
    error: CortexError | None,
    *,
    is_known_fatal: bool = False,
    request: str = "",
    reading: Reading | None = None,
) -> Outcome:
    """Return what an attempt says about its replica that ended with ``error``, or well.

    A request that ``is_known_fatal`` would fail on every replica, so that its fault says nothing.
    ``request`` is its fingerprint, if ``may_be_of_request``.
    """
    if error is None:
        return ANSWERED if reading is None else Outcome(answered=True, reading=reading)
    if is_known_fatal or not error.is_node_fault:
        return SAYS_NOTHING if reading is None else Outcome(reading=reading)
    words = one_line(error.message)[:LONGEST_REASON] or type(error).__name__
    is_refusal = isinstance(error, (BadKey, OverBudget))
    return Outcome(
        fault=words,
        poisoned=error.is_poisoned,
        is_refusal=is_refusal,
        request=request,
        reading=reading,
    )


class Step(Enum):
    """What the end of a lease changes for its replica."""

    NOTHING = "nothing"
    EJECTED = "ejected"
    RETURNED = "returned"


@dataclass(slots=True, eq=False)
class Breaker:
    """The faults of one replica, from its first one until it is trusted again.

    ``faults`` and ``answers`` count those in a row. ``reason`` is that of the last fault, and
    ``is_poisoned`` says whether that showed a poisoned engine, ``poisoned_at`` since when faults in
    a row have shown it. ``ejections`` counts ejections in a row. While ``is_ejected``, the replica
    gets its trial at ``until``, or at ``alone_until`` if it is alone; ``trial`` is the number of
    the trial's lease. A replica is suspect until ``suspect_until``, and ``is_wary`` if its next
    fault ejects it.
    """

    faults: int = 0
    answers: int = 0
    reason: str = ""
    is_poisoned: bool = False
    poisoned_at: float = -inf
    ejections: int = 0
    is_ejected: bool = False
    ejected_at: float = -inf
    until: float = 0.0
    alone_until: float = 0.0
    trial: int | None = None
    suspect_until: float = -inf
    is_wary: bool = False
    _failed: frozenset[str] = frozenset()
    _ended_at: float = -inf
    _recent: int = 0
    _counted: int = 0

    # Questions.

    def may_try(self, now: float, *, is_alone: bool) -> bool:
        """Whether the ejected replica may get its trial now."""
        return self.trial is None and now >= (self.alone_until if is_alone else self.until)

    def is_suspect(self, now: float) -> bool:
        """Whether another replica comes first."""
        return now < self.suspect_until

    @property
    def is_trusted(self) -> bool:
        """Whether nothing is left to remember: no fault in the window, no ejection in a row."""
        return self.answers >= WINDOW and not (self.ejections or self.is_wary or self.is_ejected)

    @property
    def share(self) -> float:
        """The share of faults among the last ends."""
        return self._recent.bit_count() / self._counted if self._counted else 0.0

    # What happens.

    def begin_trial(self, lease: int) -> None:
        """Note that the request with this lease is the trial."""
        self.trial = lease

    def answers_already(self, lease: int) -> Step:
        """Take the first content of an answer; that of the trial brings the replica back."""
        return self._return() if self.is_ejected and lease == self.trial else Step.NOTHING

    def take(
        self,
        outcome: Outcome,
        lease: int,
        granted_at: float,
        now: float,
        terms: BreakerTerms,
        rivals: Sequence[Breaker | None],
    ) -> Step:
        """Take the end of the lease with this number, and return what it changes.

        ``rivals`` are the breakers of those other replicas of the model that answer and are not
        ejected, ``None`` for one that is trusted.
        """
        is_trial = lease == self.trial
        if is_trial:
            self.trial = None
        if granted_at < self.ejected_at or (self.is_ejected and not is_trial):
            return Step.NOTHING  # its request began before the ejection, which it helped to cause
        if outcome.fault:
            if not rivals and outcome.request in self._failed:
                return Step.NOTHING
            return self._take_fault(outcome, now, terms, rivals)
        if outcome.answered:
            return self._take_answer(now)
        return Step.NOTHING

    def suspect(self, now: float, terms: BreakerTerms) -> None:
        """Be wary of the replica for a while: its node seems to be sick."""
        self.suspect_until = max(self.suspect_until, now + terms.eject_seconds)
        self.is_wary = True

    def _take_answer(self, now: float) -> Step:
        self._note(False, now)
        self.faults, self._failed = 0, frozenset()
        self.answers += 1
        self.is_poisoned = False
        if self.is_ejected:
            return self._return()
        if self.answers >= ANSWERS_TO_TRUST:
            self.ejections, self.is_wary = 0, False
        return Step.NOTHING

    def _take_fault(
        self, outcome: Outcome, now: float, terms: BreakerTerms, rivals: Sequence[Breaker | None]
    ) -> Step:
        self._note(True, now)
        self.faults += 1
        self.answers = 0
        if outcome.poisoned and not self.is_poisoned:
            self.poisoned_at = now
        self.reason, self.is_poisoned = outcome.fault, outcome.poisoned
        if outcome.request and len(self._failed) < MOST_REQUESTS:
            self._failed |= {outcome.request}
        if not terms.eject_after:
            return Step.NOTHING
        self.suspect_until = now + terms.eject_seconds
        if not (self.is_ejected or self._is_due(terms, rivals)):
            return Step.NOTHING
        doublings = min(self.ejections, MOST_DOUBLINGS)
        self.ejections += 1
        self.is_ejected, self.ejected_at = True, now
        self.until = now + min(terms.eject_seconds * 2**doublings, terms.max_eject_seconds)
        alone = min(ALONE_SECONDS * 2**doublings, LONGEST_ALONE_SECONDS)
        self.alone_until = min(now + alone, self.until)
        return Step.EJECTED

    def _is_due(self, terms: BreakerTerms, rivals: Sequence[Breaker | None]) -> bool:
        """Whether the last fault ejects a replica that is not ejected."""
        if self.is_poisoned or self.faults >= terms.eject_after:
            return True
        if not rivals:
            return False
        if self.ejections or self.is_wary:
            return True
        share = self.share
        return (
            self._recent.bit_count() >= LEAST_FAULTS
            and share >= LEAST_SHARE
            and any(rival is None or rival.share < share / 2 for rival in rivals)
        )

    def _return(self) -> Step:
        self.is_ejected = False
        self.trial = None
        self.faults, self._failed = 0, frozenset()
        self.suspect_until = -inf
        self._recent = self._counted = 0
        return Step.RETURNED

    def _note(self, is_fault: bool, now: float) -> None:
        """Count an end for the share of faults."""
        if now - self._ended_at > LULL_SECONDS:
            self._recent = self._counted = 0
        self._ended_at = now
        self._recent = (self._recent << 1 | is_fault) & ((1 << WINDOW) - 1)
        self._counted = min(self._counted + 1, WINDOW)
