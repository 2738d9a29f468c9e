"""When a node may sleep, and when it may be woken: pure rules, each with the reason in words."""

from __future__ import annotations

from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica, counted
from cortexd.fleet.sleep.power import PowerState, PowerTerms
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, NodeHealth, ReplicaState
from cortexd.scheduling.copying.keeping import kept_on
from cortexd.scheduling.eviction import NO_VICTIMS, Claim
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    Hindrance,
    Obstacle,
    Option,
    can_ever_hold,
    is_changing,
    make_option,
    victims_for,
)
from cortexd.scheduling.repairs.restarts import Restarts
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.waiting import Waiting

FIRST_PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
"""How long after an attempt to wake a node in vain the next one is made: doubled each time."""

MOST_DOUBLINGS: Final = 10


def busy_words(node: Node, fleet: Fleet, waiting: Waiting, swaps: Swaps, now: float) -> str:
    """Say what a node does or is to do, so that it must not sleep; empty if that is nothing."""
    if node.health is not NodeHealth.UP or node.unreachable:
        return "the node does not answer"
    if node.leases:
        return f"{counted(node.leases, 'request')} on it"
    if node.closed:
        return node.closed
    if node.name in swaps or is_changing(fleet, node, now):
        return "a model is loaded or unloaded there"
    if waiting.on(node):
        return "requests wait for its models"
    kept = kept_on(fleet, node)
    if kept is not None:
        return f"it has a copy of {kept.model} that min_copies keeps loaded"
    return ""


def why_awake(
    node: Node, fleet: Fleet, waiting: Waiting, swaps: Swaps, restarts: Restarts, now: float
) -> str:
    """Say why a node cannot be let sleep now, however long it was idle; empty if it can."""
    terms = node.power.terms
    if terms is None:
        return "its [[nodes]] has no power"
    if not node.power.is_awake:
        return f"it is {node.power.state.value} already"
    if not can_suspend(node, terms):
        return "neither its power.suspend nor an agent of its own has a command for that"
    if restarts.on(node.name) is not None:
        return "a restart of its engine is planned"
    return busy_words(node, fleet, waiting, swaps, now)


def can_suspend(node: Node, terms: PowerTerms) -> bool:
    """Return whether the gateway or the node's agent can let it sleep."""
    return terms.has_command or (node.agent is not None and node.agent.can_suspend)


def is_idle_long(node: Node, terms: PowerTerms, now: float) -> bool:
    """Return whether a node was awake and unused for so long that it should sleep."""
    times: list[float] = [max(each.last_used_at, each.loaded_at) for each in node.replicas.values()]
    used_at = max(
        node.since,
        node.power.woken_at,
        node.last_used_at,
        *times,
    )
    return now - used_at >= terms.idle_seconds


def why_not_woken(node: Node, now: float) -> str:
    """Say why a node cannot be woken now; empty if it can.

    A node that does not answer may sleep without our knowledge, as after a restart of the gateway.
    """
    power = node.power
    if power.terms is None:
        return "its [[nodes]] has no power"
    if power.state is PowerState.ASLEEP:
        return ""
    if not power.is_awake:
        return f"it is {power.state.value}"
    if node.health in ANSWERING_HEALTH:
        return "it is awake"
    if node.closed:
        return node.closed
    if node.agent is not None:
        return "its machine is awake, for its agent is connected"
    if now < power.retry_at:
        return f"it was woken in vain; the next attempt is made in {power.retry_at - now:.0f} s"
    return ""


def retry_pause(attempts: int) -> float:
    """Return how many seconds after so many attempts in vain a node is not woken again."""
    doubled = FIRST_PAUSE_SECONDS * float(1 << min(max(0, attempts - 1), MOST_DOUBLINGS))
    return min(LONGEST_PAUSE_SECONDS, doubled)


def wake_cost(node: Node, now: float) -> float | None:
    """Return the seconds until a node answers that does not now; ``None`` if it is not woken."""
    power = node.power
    if power.terms is None:
        return None
    if power.state is PowerState.WAKING:
        return max(0.0, power.terms.wake_seconds - (now - power.since))
    return None if why_not_woken(node, now) else power.terms.wake_seconds


def after_wake(
    fleet: Fleet,
    obstacle: Obstacle,
    terms: EvictionTerms,
    now: float,
    *,
    may_evict: bool,
    may_drain: bool,
    claim: Claim | None,
) -> Finding:
    """Return what a replica on a node that does not answer would cost once the node is woken.

    Of a node that cannot be woken, the obstacle stays.
    """
    replica = obstacle.replica
    seconds = wake_cost(replica.node, now)
    if seconds is None:
        return obstacle
    if replica.state in ANSWERING_STATES:
        breaker = replica.breaker
        if breaker is not None and breaker.is_ejected and breaker.trial is None:
            return Obstacle(replica, Hindrance.EJECTED)
        return Option(replica, NO_VICTIMS, seconds, replica.footprint_mb)
    if replica.state is not ReplicaState.UNLOADED:
        return obstacle
    return _after_load(fleet, replica, seconds, terms, now, may_evict, may_drain, claim)


def _after_load(
    fleet: Fleet,
    replica: Replica,
    wake_seconds: float,
    terms: EvictionTerms,
    now: float,
    may_evict: bool,
    may_drain: bool,
    claim: Claim | None,
) -> Finding:
    if not can_ever_hold(fleet, replica):
        return Obstacle(replica, Hindrance.TOO_LARGE)
    if now < replica.retry_at:
        return Obstacle(replica, Hindrance.FAILED)
    victims = victims_for(fleet, replica, terms, now, may_evict, may_drain, claim)
    if victims is None:
        return Obstacle(replica, Hindrance.OCCUPIED)
    load = make_option(fleet, replica, victims)
    # A node that is awake comes first where nothing is known of the model's size.
    known_mb = load.footprint_mb or 0
    return Option(replica, victims, wake_seconds + load.seconds, known_mb, load.is_measured)
