"""Where a model could be loaded, and what each node would cost: pure, over the fleet as it is.

For every node that lists the model, ``survey`` returns an Option (the replicas to evict and the
seconds of the load) or an Obstacle (why the model cannot be loaded there). ``best`` chooses among
the options.

An obstacle is *passing* if waiting may remove it: requests run there now, or a load does. It is not
passing if only a person can remove it: the node is down, the model is too large for it, its last
loads failed.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.learning.load_times import ASSUMED_LOAD_SECONDS
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, ReplicaState
from cortexd.scheduling.copying.keeping import is_kept, is_spare
from cortexd.scheduling.eviction import (
    NO_VICTIMS,
    STRATEGIES,
    Claim,
    Cost,
    VictimSet,
    cheapest_victims,
    is_evictable,
)
from cortexd.values import value

_Key = tuple[bool, int, Cost, int, float, int, int, int]

WAYS: Final = 2
"""The loads that an eviction costs: that of the target, and later that of the victim."""


@dataclass(frozen=True, slots=True)
class EvictionTerms:
    """How victims are chosen: see ``cortexd.scheduling.eviction``."""

    strategy: str = "heat"
    min_residency: float = 10.0


class Hindrance(enum.Enum):
    """Why a model cannot be loaded on a node now."""

    # Members are singletons; the identity hash is faster than Enum's hash of the name.
    __hash__ = object.__hash__

    NOT_ALLOWED = "lacks the labels that the model needs"
    NOT_ANSWERING = "does not answer"
    UNREACHED = "has closed a connection, or did not answer a command to load a model"
    CORDONED = "is cordoned"
    CLOSED = "takes no work for a while"
    ASLEEP = "sleeps"
    RESTARTS = "is about to be restarted"
    TRIED = "was already tried"
    LOADED = "has it loaded"
    EJECTED = "failed its last requests"
    SWAPPING = "is loading or unloading another model"
    LOADING = "is already loading it"
    STUCK = "cannot load it until a restart"
    FAILED = "failed to load it"
    TOO_LARGE = "can never hold it"
    OCCUPIED = "has no idle model to evict for it"


PASSING = frozenset(
    {
        Hindrance.UNREACHED,
        Hindrance.CLOSED,
        Hindrance.ASLEEP,
        Hindrance.RESTARTS,
        Hindrance.LOADED,
        Hindrance.SWAPPING,
        Hindrance.LOADING,
        Hindrance.OCCUPIED,
    }
)
"""The hindrances that waiting may remove."""


@value
class Obstacle:
    """Why a replica cannot be loaded now."""

    replica: Replica
    hindrance: Hindrance

    @property
    def is_passing(self) -> bool:
        """Whether waiting may remove it."""
        return self.hindrance in PASSING


@dataclass(slots=True)
class Option:
    """What the load of a replica costs: the eviction of ``victims``, and about ``seconds``.

    ``footprint_mb`` is ``None`` if the footprint of the model is unknown. ``is_measured`` says
    whether ``seconds`` comes from loads that were seen.

    It holds for the moment of its decision, which makes one for each node: it is not frozen, and
    has its key only once, because that takes half the time.
    """

    replica: Replica
    victims: VictimSet
    seconds: float
    footprint_mb: int | None
    is_measured: bool = True
    _key: _Key | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def key(self) -> _Key:
        """The order of options, the best first.

        No victims before victims; then the node that the model prefers, if it is awake; then the
        least cost; for an unknown footprint the most room; the fastest load; the node with the
        fewest leases; the node with the most room.
        """
        key = self._key
        if key is not None:
            return key
        node, terms = self.replica.node, self.replica.terms
        distance, free_mb = 0, node.free_mb
        if terms.prefer:
            distance = terms.distance(node.labels if node.takes_work else ())
        victims = self.victims
        key = self._key = (
            bool(victims.victims),
            distance,
            victims.cost,
            -free_mb if self.footprint_mb is None else 0,
            self.seconds,
            node.leases,
            -free_mb,
            node.position,
        )
        return key

    def is_worth_it(
        self, waiting: int, strategy: str, now: float, claim: Claim | None = None
    ) -> bool:
        """Whether the eviction of its victims helps more requests than it delays.

        While the target loads, requests for the victims have to wait, and loading the victims again
        takes another load. So evict only if at least as many requests wait as the victims would get
        during two loads. A load that was never seen is always worth it: only a load shows how long
        one takes. Victims that the ``claim`` of the queue outranks do not count.
        """
        if not self.is_measured:
            return True
        pace_of = STRATEGIES[strategy].pace
        pace = sum(
            pace_of(victim.demand, now)
            for victim in self.victims.victims
            if claim is None or not claim.outranks(victim)
        )
        return waiting >= WAYS * pace * self.seconds


Finding = Option | Obstacle


def survey(
    fleet: Fleet,
    replicas: Iterable[Replica],
    terms: EvictionTerms,
    now: float,
    *,
    swapping: Collection[str],
    tried: Collection[str] = (),
    may_evict: bool = True,
    may_drain: bool = False,
    claim: Claim | None = None,
) -> list[Finding]:
    """Return an option or an obstacle for each of a model's replicas.

    ``swapping`` are the nodes with a swap under way. Without ``may_evict`` only free memory counts.
    With ``may_drain`` replicas in use may be evicted too, once they are idle. ``claim`` says what
    other classes leave to the queue, ``None`` where there are no classes.
    """
    found: list[Finding] = []
    for replica in replicas:
        hindrance = _hindrance(fleet, replica, now, swapping, tried)
        if hindrance is not None:
            found.append(Obstacle(replica, hindrance))
            continue
        victims = victims_for(fleet, replica, terms, now, may_evict, may_drain, claim)
        if victims is None:
            found.append(Obstacle(replica, Hindrance.OCCUPIED))
        else:
            found.append(make_option(fleet, replica, victims))
    return found


def make_option(fleet: Fleet, replica: Replica, victims: VictimSet) -> Option:
    """Return the option to load a replica once these victims are gone."""
    node, model = replica.node.name, replica.model
    seconds = fleet.footprints.load_seconds(node, model)
    known_mb = fleet.footprints.known_mb(node, model)
    if seconds is None:
        return Option(replica, victims, ASSUMED_LOAD_SECONDS, known_mb, False)
    return Option(replica, victims, seconds, known_mb)


def best(found: Iterable[Finding]) -> Option | None:
    """Return the best option, or ``None`` if there are only obstacles."""
    found_best: Option | None = None
    for finding in found:
        if isinstance(finding, Option) and (found_best is None or finding.key < found_best.key):
            found_best = finding
    return found_best


def may_pass(found: Iterable[Finding]) -> bool:
    """Whether waiting may help if the model cannot be loaded now."""
    return any(isinstance(finding, Option) or finding.is_passing for finding in found)


def _hindrance(
    fleet: Fleet, replica: Replica, now: float, swapping: Collection[str], tried: Collection[str]
) -> Hindrance | None:
    node = replica.node
    if not replica.is_allowed:
        return Hindrance.NOT_ALLOWED
    if not node.takes_work:
        if node.cordoned:
            return Hindrance.CORDONED
        if node.closed:
            return Hindrance.CLOSED if node.power.is_awake else Hindrance.ASLEEP
        is_up = node.health in ANSWERING_HEALTH
        if node.awaits_restart and not is_up:
            return Hindrance.RESTARTS
        return Hindrance.UNREACHED if is_up else Hindrance.NOT_ANSWERING
    if node.name in tried:
        return Hindrance.TRIED
    state = replica.state
    if state in ANSWERING_STATES:
        breaker = replica.breaker
        is_out = breaker is not None and breaker.is_ejected and breaker.trial is None
        return Hindrance.EJECTED if is_out else Hindrance.LOADED
    if state is ReplicaState.LOADING:
        if fleet.loads(replica, now):
            return Hindrance.LOADING
        return Hindrance.RESTARTS if node.awaits_restart else Hindrance.STUCK
    if state is ReplicaState.UNLOADED:
        if not can_ever_hold(fleet, replica):
            if not can_ever_hold(fleet, replica, restarted=True):
                return Hindrance.TOO_LARGE
            return Hindrance.RESTARTS if node.awaits_restart else Hindrance.STUCK
        if now < replica.retry_at:
            return Hindrance.RESTARTS if node.awaits_restart else Hindrance.FAILED
    if node.name in swapping or state is not ReplicaState.UNLOADED or is_changing(fleet, node, now):
        return Hindrance.SWAPPING
    return None


def is_changing(fleet: Fleet, node: Node, now: float) -> bool:
    """Whether a load or an unload runs on a node, ours or that of another client."""
    for replica in node.unsettled:
        if replica.state is ReplicaState.UNLOADING or fleet.loads(replica, now):
            return True
    return False


def needed_mb(fleet: Fleet, replica: Replica) -> int:
    """Return the MiB that must be free to load a replica.

    For an unknown footprint it is the mean of the models on the node, so that the load is tried in
    any reasonable room before a model is evicted for it. After a load that ran out of memory it is
    more than was free then, whatever the known footprint, but no more than the node can free.
    """
    node = replica.node
    known = fleet.footprints.known_mb(node.name, replica.model)
    if known is not None and not replica.refused_mb:
        return known
    mean = node.resident_mb // node.resident if node.resident else 1
    wanted = max(mean if known is None else 0, replica.refused_mb + 1)
    at_most = node.usable_mb - immovable_mb(fleet, node, replica.model)
    return max(known or 1, min(wanted, at_most))


def fits(fleet: Fleet, replica: Replica) -> bool:
    """Whether a replica can be loaded without an eviction."""
    node = replica.node
    is_below_limit = not node.max_resident or node.resident < node.max_resident
    return is_below_limit and needed_mb(fleet, replica) <= node.free_mb


def immovable_mb(fleet: Fleet, node: Node, model: str, *, restarted: bool = False) -> int:
    """Return the MiB of a node that no eviction can free for ``model``.

    With ``restarted`` they are the MiB that a restart cannot free either. A pinned model that loads
    or is missing counts with its known footprint only: during a load of unknown footprint all free
    memory is booked, which says nothing about what the model will take.
    """
    mb = min(node.leaked_mb, node.boot_leaked_mb) if restarted else node.leaked_mb
    for replica in _staying(node, model, restarted):
        if replica.state in (ReplicaState.UNLOADED, ReplicaState.LOADING):
            mb += fleet.footprints.known_mb(node.name, replica.model) or 0
        else:
            mb += replica.footprint_mb
    return mb


def _staying(node: Node, model: str, restarted: bool) -> list[Replica]:
    """Return what stays on a node beside a model: what is stuck until a restart, or pinned.

    A pinned model that is missing needs room as well, so it counts against every model that is not
    pinned. It does not count against another pinned model, which has the same right.
    """
    staying = [
        replica
        for replica in node.unsettled
        if replica.state is ReplicaState.STUCK and replica.model != model and not restarted
    ]
    for other in node.pins:
        replica = node.replicas.get(other)
        if replica is None or other == model:
            continue
        if replica.state is ReplicaState.STUCK and not restarted:
            continue
        if replica.is_resident or model not in node.pins:
            staying.append(replica)
    return staying


def can_ever_hold(fleet: Fleet, replica: Replica, *, restarted: bool = False) -> bool:
    """Whether the node can hold the model after the eviction of all that may be evicted.

    Pinned models, stuck models and leaked memory stay; with ``restarted``, only pinned models do.
    What other programs take stays in any case.
    """
    node, model = replica.node, replica.model
    known = fleet.footprints.known_mb(node.name, model)
    if not (node.unsettled or node.pins or restarted):
        return node.leaked_mb + (known or 1) <= node.usable_mb  # the usual case: nothing stays
    if 0 < node.max_resident <= len(_staying(node, model, restarted)):
        return False
    return immovable_mb(fleet, node, model, restarted=restarted) + (known or 1) <= node.usable_mb


def victims_for(
    fleet: Fleet,
    replica: Replica,
    terms: EvictionTerms,
    now: float,
    may_evict: bool,
    may_drain: bool,
    claim: Claim | None = None,
) -> VictimSet | None:
    """Return the victims that a replica needs to fit, or ``None`` if the node has not enough."""
    node = replica.node
    need_mb = needed_mb(fleet, replica) - node.free_mb
    need_victims = node.resident + 1 - node.max_resident if node.max_resident else 0
    if need_mb <= 0 and need_victims <= 0:
        return NO_VICTIMS
    if not may_evict:
        return None
    residents: Iterable[Replica] = node.residents
    if claim is not None:
        residents = [other for other in residents if claim.may_take(other, may_drain)]
    elif not may_drain:
        residents = [other for other in residents if not other.leases]
    candidates = [other for other in residents if now >= other.keep_until and is_evictable(other)]
    choices = [candidates]
    if fleet.least_copies:
        # What min_copies keeps makes room last of all, for a pinned model or after a long wait.
        choices = [[other for other in candidates if not is_kept(fleet, other)]]
        if replica.pinned or may_drain:
            choices.append(candidates)
    for each in choices:
        victims = cheapest_victims(
            each,
            need_mb=need_mb,
            need_victims=need_victims,
            strategy=terms.strategy,
            min_residency=terms.min_residency,
            now=now,
            spare=[other for other in each if is_spare(fleet, other)],
        )
        if victims is not None:
            return victims
    return None


def idle_evictable(fleet: Fleet, but: Replica) -> list[Replica]:
    """Return all idle replicas of a node that may be evicted, for a load that ran out of memory."""
    return [
        other
        for other in but.node.residents
        if other is not but
        and is_evictable(other)
        and not other.leases
        and (but.pinned or not is_kept(fleet, other))
    ]
