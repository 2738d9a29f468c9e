"""The scheduler's last decisions and their reasons, for ``cortexctl why``."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from cortexd.fleet.nodes import counted
from cortexd.scheduling.copying.labels import only_words
from cortexd.scheduling.placement import Finding, Hindrance, Obstacle, Option
from cortexd.values import value

RESIDENT: Final = "resident"
"""The model was loaded and had a free slot."""

QUEUED: Final = "queued"
"""The model was loaded, and the request waited for a free slot."""

LOADED: Final = "loaded"
"""The model was loaded for the request, into free memory."""

SWAPPED: Final = "swapped"
"""The model was loaded for the request, and others were evicted for it."""

PROBED: Final = "probed"
"""A question of our own, on an idle node; the record of requests leaves it out."""

DECISIONS_KEPT: Final = 500
REQUESTS_KEPT: Final = 2000
PLAIN: Final = frozenset({Hindrance.LOADED, Hindrance.SWAPPING, Hindrance.OCCUPIED})
"""The obstacles of which there is no more to say."""

_KEY: Final = attrgetter("key")

CANDIDATES_KEPT: Final = 20
"""How many candidates of a decision are kept: the chosen one and the next best."""


@value
class Candidate:
    """One node that a decision looked at: the cost of a load there, or the obstacle to it.

    ``cost`` is in words, ``victims`` are the models that the load would evict.
    """

    node: str
    possible: bool
    cost: str
    victims: tuple[str, ...]


class _Seen(NamedTuple):
    """An option as a decision has seen it; most are never asked for, so the words come later.

    Each victim has its model, MiB, leases, last use, and priority.
    """

    node: str
    at: float
    free_mb: int
    usable_mb: int
    victims: tuple[tuple[str, int, int, float, int], ...]

    def words(self) -> str:
        """Describe what the option costs."""
        if not self.victims:
            return f"fits into {self.free_mb} free MiB of {self.usable_mb}"
        evicted = ", ".join(
            f"{model} ({footprint_mb} MiB, "
            + _use_words(leases, last_used_at, self.at)
            + (f", priority {priority}" if priority else "")
            + ")"
            for model, footprint_mb, leases, last_used_at, priority in self.victims
        )
        return f"evicts {evicted}"

    def candidate(self) -> Candidate:
        """Return the node of the option with its cost in words."""
        return Candidate(self.node, True, self.words(), tuple(each[0] for each in self.victims))


class _Plain(NamedTuple):
    """An obstacle of which the hindrance says all."""

    node: str
    hindrance: Hindrance

    def candidate(self) -> Candidate:
        """Return the node with the obstacle in words."""
        return Candidate(self.node, False, self.hindrance.value, ())


@value
class Decision:
    """One decision to load or to unload, or the record of one that failed.

    ``seconds`` is how long the load was expected to take; ``at`` is of the scheduler's clock.
    """

    number: int
    at: float
    action: str
    model: str
    node: str | None
    reason: str
    victims: tuple[str, ...]
    seconds: float
    chosen: _Seen | None
    found: tuple[_Seen | _Plain | Candidate, ...]

    @property
    def cost(self) -> str:
        """The cost of the load in words, empty for any other decision."""
        return self.chosen.words() if self.chosen is not None else ""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The nodes that the decision looked at, the best first."""
        return _in_words(self.found)


@value
class RequestTrail:
    """The scheduler's answer to one request; ``load`` is the number of the decision to load.


    ``passed_by_class`` and ``passed_by_share`` count later requests that were granted first.
    ``affinity`` says how the replica fits what the request goes on with
    (``cortexd.scheduling.affinity.leaning``).
    """

    request_id: str
    model: str
    at: float
    outcome: str
    node: str | None
    queued_seconds: float
    load: int | None
    passed_by_class: int = 0
    passed_by_share: int = 0
    affinity: str = ""


class Decisions:
    """The last decisions, by model and by request."""

    def __init__(self) -> None:
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS_KEPT)
        self._requests: OrderedDict[str, RequestTrail] = OrderedDict()
        self._number = 0

    def record(
        self,
        action: str,
        model: str,
        node: str | None,
        reason: str,
        now: float,
        *,
        option: Option | None = None,
        victims: Sequence[str] = (),
        found: Iterable[Finding] = (),
    ) -> Decision:
        """Keep a decision, and return it."""
        self._number += 1
        seconds, chosen = 0.0, None
        described = _found(found, now)
        if option is not None:
            seconds = option.seconds
            first = described[0] if described else None
            if isinstance(first, _Seen) and first.node == option.replica.node.name:
                chosen = first  # mostly: the best one is taken
            else:
                chosen = _seen(option, now)
            victims = [victim[0] for victim in chosen.victims]
        decision = Decision(
            self._number,
            now,
            action,
            model,
            node,
            reason,
            tuple(victims),
            seconds,
            chosen,
            described,
        )
        self._decisions.append(decision)
        return decision

    def note_request(self, trail: RequestTrail) -> None:
        """Keep the answer to a request; a later answer to the same request replaces it."""
        self._requests.pop(trail.request_id, None)
        self._requests[trail.request_id] = trail
        if len(self._requests) > REQUESTS_KEPT:
            self._requests.popitem(last=False)

    def request(self, request_id: str) -> RequestTrail | None:
        """Return the answer to a request, if it is still kept."""
        return self._requests.get(request_id)

    def number(self, number: int) -> Decision | None:
        """Return the decision of this number, if it is still kept."""
        return next((each for each in self._decisions if each.number == number), None)

    def about(self, model: str) -> list[Decision]:
        """Return the decisions that loaded or evicted a model, the latest first."""
        return [
            decision
            for decision in reversed(self._decisions)
            if decision.model == model or model in decision.victims
        ]

    def on(self, node: str) -> list[Decision]:
        """Return the decisions about a node and its models, the latest first."""
        return [decision for decision in reversed(self._decisions) if decision.node == node]


def candidates(found: Iterable[Finding], now: float) -> tuple[Candidate, ...]:
    """Describe what a survey found, the best first, at most ``CANDIDATES_KEPT``."""
    return _in_words(_found(found, now))


def _in_words(found: Iterable[_Seen | _Plain | Candidate]) -> tuple[Candidate, ...]:
    return tuple(each if isinstance(each, Candidate) else each.candidate() for each in found)


def _found(found: Iterable[Finding], now: float) -> tuple[_Seen | _Plain | Candidate, ...]:
    if not found:
        return ()
    options: list[Option] = []
    obstacles: list[Obstacle] = []
    for finding in found:
        if isinstance(finding, Option):
            options.append(finding)
        else:
            obstacles.append(finding)
    if len(options) > 1:
        options.sort(key=_KEY)
        del options[CANDIDATES_KEPT:]
    described: list[_Seen | _Plain | Candidate] = [_seen(option, now) for option in options]
    if obstacles:
        for obstacle in obstacles[: CANDIDATES_KEPT - len(described)]:
            node, hindrance = obstacle.replica.node.name, obstacle.hindrance
            if hindrance in PLAIN:
                described.append(_Plain(node, hindrance))
            else:
                described.append(Candidate(node, False, obstacle_words(obstacle, now), ()))
    return tuple(described)


def cost_words(option: Option, now: float) -> str:
    """Describe what an option costs."""
    return _seen(option, now).words()


def _seen(option: Option, now: float) -> _Seen:
    node = option.replica.node
    victims = [
        (each.model, each.footprint_mb, each.leases, each.last_used_at, each.terms.priority)
        for each in option.victims.victims
    ]
    return _Seen(node.name, now, node.free_mb, node.usable_mb, tuple(victims))


def _use_words(leases: int, last_used_at: float, now: float) -> str:
    if leases:
        return counted(leases, "request")
    return f"unused for {now - last_used_at:.0f} s" if last_used_at else "not used yet"


def obstacle_words(obstacle: Obstacle, now: float) -> str:
    """Say why a node cannot load a model."""
    replica, words = obstacle.replica, obstacle.hindrance.value
    if obstacle.hindrance in PLAIN:
        return words
    match obstacle.hindrance:
        case Hindrance.NOT_ALLOWED:
            return f"lacks {only_words(replica.terms.only_on)} of the model's only_on"
        case Hindrance.FAILED:
            times = "once" if replica.failures == 1 else f"{replica.failures} times"
            wait = replica.retry_at - now
            return f"{words} {times}, next try in {wait:.0f} s: {replica.failure}"
        case Hindrance.EJECTED if replica.breaker is not None:
            wait = max(0.0, replica.breaker.alone_until - now)
            return f"{words}, next try in {wait:.0f} s: {replica.breaker.reason}"
        case Hindrance.TOO_LARGE if replica.node.others_mb:
            return f"cannot hold it while other programs take {replica.node.others_mb} MiB"
        case Hindrance.NOT_ANSWERING:
            return f"{words}: {replica.node.reason}"
        case Hindrance.CLOSED:
            return f"{words}: {replica.node.closed}"
        case Hindrance.ASLEEP:
            return f"{words}, or is about to; `cortexctl wake {replica.node.name}` wakes it"
    return words
