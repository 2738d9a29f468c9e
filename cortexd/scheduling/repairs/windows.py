"""When the node of a planned restart may be closed: pure rules, each with the reason in words."""

from __future__ import annotations

from collections.abc import Iterable

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, counted
from cortexd.fleet.states import ANSWERING_HEALTH, NodeHealth
from cortexd.scheduling.placement import is_changing
from cortexd.scheduling.repairs.reasons import Urgency
from cortexd.scheduling.repairs.restarts import Phase, Restart
from cortexd.scheduling.repairs.terms import RepairTerms
from cortexd.scheduling.waiting import Waiting


def in_the_way(node: Node, restarts: Iterable[Restart]) -> tuple[str, ...]:
    """Return the other nodes that restart now and list a model that this node lists.

    Two of them must not restart at a time, or nobody could answer for the model. That does not hold
    for a node that does not answer anyway: then only its restart brings its models back.
    """
    if node.health not in ANSWERING_HEALTH:
        return ()
    return tuple(
        restart.node.name
        for restart in restarts
        if restart.node is not node
        and restart.phase is not Phase.DUE
        and not node.replicas.keys().isdisjoint(restart.node.replicas)
    )


def hindrance(
    restart: Restart,
    restarts: Iterable[Restart],
    fleet: Fleet,
    waiting: Waiting,
    terms: RepairTerms,
    begun: int,
    now: float,
) -> str:
    """Say why the node of a restart that is due may not be closed yet; empty if it may.

    ``begun`` is how many restarts the node had in the last hour.
    """
    node = restart.node
    others = in_the_way(node, restarts)
    if others:
        return f"{', '.join(others)} lists one of its models and restarts now"
    if restart.is_ordered:
        return ""
    if begun >= terms.restart_budget:
        return f"the node was restarted {counted(begun, 'time')} in the last hour"
    if restart.urgency is Urgency.AT_ONCE:
        return ""
    return busy_words(node, fleet, waiting, terms, now)


def busy_words(node: Node, fleet: Fleet, waiting: Waiting, terms: RepairTerms, now: float) -> str:
    """Say why this is no idle window of a node; empty if it is."""
    if node.leases:
        return f"{counted(node.leases, 'request')} on it"
    if node.health is not NodeHealth.UP or node.unreachable:
        return "the node does not answer"
    if waiting.on(node):
        return "requests wait for its models"
    if is_changing(fleet, node, now):
        return "a model is loaded or unloaded there"
    used_at = max((each.last_used_at for each in node.replicas.values()), default=0.0)
    idle_seconds = now - used_at
    if idle_seconds < terms.idle_seconds:
        return f"its last request ended {max(0.0, idle_seconds):.0f} s ago"
    return ""
