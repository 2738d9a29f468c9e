"""When a node's engine should be restarted: pure, over the fleet as it is.

Some things wear out an engine: memory that an unload did not free, the number of unloads (each one
fragments the accelerator's memory), ids that a reload has bricked, and a fault that has poisoned an
engine. Only a restart of the process repairs them. It also helps where several models fail at the
same time, for they share one process.

What the unloads right after a start have left behind is no reason: the next start would only repeat
it. Two reasons exist only where an agent can restart the engine: that its process has ended, and
that loads run out of memory although enough is free, which is then in pieces.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from cortexd.fleet.agents import EngineLife
from cortexd.fleet.ejections import SICK_NODE_REPLICAS
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.reported import ENDED_LIVES, life_words
from cortexd.fleet.states import ANSWERING_HEALTH, ReplicaState

STUCK_POLLS = 2
"""Polls in a row that must see an id stuck: each reload looks so for a moment (nodes.md 1.7)."""


class Kind(enum.Enum):
    """The kinds of reasons, as metrics show them."""

    LEAKED = "leaked"
    UNLOADS = "unloads"
    STUCK = "stuck"
    POISONED = "poisoned"
    FAILING = "failing"
    FRAGMENTED = "fragmented"
    ENDED = "ended"
    ORDERED = "ordered"


class Urgency(enum.IntEnum):
    """When a restart is due: in an idle window, or as soon as its node can be closed."""

    WHEN_IDLE = 0
    AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a restart, in words, and the models that it is about, if any."""

    kind: Kind
    words: str
    urgency: Urgency = Urgency.WHEN_IDLE
    models: tuple[str, ...] = ()


def in_words(reasons: Collection[Reason]) -> str | None:
    """Return all reasons in one line, ``None`` without any."""
    return "; ".join(reason.words for reason in reasons) or None


def can_restart(node: Node) -> bool:
    """Return whether the node's agent can restart its engine."""
    return node.agent is not None and node.agent.can_restart


def restart_reason(fleet: Fleet, node: Node, defrag_after_cycles: int, now: float) -> str | None:
    """Return why a node's engine should be restarted, or ``None`` if it should not."""
    return in_words(restart_reasons(fleet, node, defrag_after_cycles, now))


def restart_reasons(fleet: Fleet, node: Node, defrag_after_cycles: int, now: float) -> list[Reason]:
    """Return all reasons for a restart of a node's engine.

    ``defrag_after_cycles`` is the number of unloads that is a reason, 0 for never.
    """
    reasons: list[Reason] = []
    if node.leaked_mb > node.boot_leaked_mb:
        leaked_mb = node.leaked_mb - node.boot_leaked_mb
        reasons.append(Reason(Kind.LEAKED, f"unloads did not free {leaked_mb} MiB"))
    unloads = node.unload_cycles - node.boot_unloads
    if defrag_after_cycles and unloads >= defrag_after_cycles:
        reasons.append(Reason(Kind.UNLOADS, f"{unloads} unloads since its start"))
    if not node.odd:
        return reasons + _ended(node)
    stuck = sorted(model for model, each in node.odd.items() if is_stuck(fleet, each, now))
    if stuck:
        words = f"stuck: {', '.join(stuck)}"
        reasons.append(Reason(Kind.STUCK, words, models=tuple(stuck)))
    reasons += _faults(node)
    if can_restart(node):
        reasons += _in_pieces(fleet, node)
    return reasons + _ended(node)


def is_stuck(fleet: Fleet, replica: Replica, now: float) -> bool:
    """Return whether only a restart brings a replica back into order."""
    is_endless = replica.state is ReplicaState.LOADING and not fleet.loads(replica, now)
    return is_endless or replica.stuck_polls >= STUCK_POLLS


def _faults(node: Node) -> list[Reason]:
    """Return the reason that requests fail, if they do.

    A device that has failed every request since the first of these faults fails the next ones too.
    While requests run for models that have not failed, they may show that it does not.
    """
    ejected = {
        model: replica.breaker
        for model, replica in node.odd.items()
        if replica.breaker is not None and replica.breaker.is_ejected
    }
    poisoned = {model: breaker for model, breaker in ejected.items() if breaker.is_poisoned}
    if poisoned:
        since = min(breaker.poisoned_at for breaker in poisoned.values())
        may_answer = any(each.leases and not each.is_ejected for each in node.replicas.values())
        fails_all = node.answered_at < since and not may_answer
        urgency = Urgency.AT_ONCE if fails_all else Urgency.WHEN_IDLE
        told = sorted(f"{model} ({breaker.reason})" for model, breaker in poisoned.items())
        words = f"poisoned: {', '.join(told)}"
        return [Reason(Kind.POISONED, words, urgency, tuple(sorted(poisoned)))]
    if len(ejected) >= SICK_NODE_REPLICAS:
        words = f"requests fail on {', '.join(sorted(ejected))}"
        return [Reason(Kind.FAILING, words, models=tuple(sorted(ejected)))]
    return []


def _in_pieces(fleet: Fleet, node: Node) -> list[Reason]:
    """Return the reason that the memory of a node is in pieces, if it is."""
    in_pieces = sorted(
        model for model, replica in node.odd.items() if is_fragmented(fleet, replica)
    )
    if not in_pieces:
        return []
    words = f"loads run out of memory although enough is free: {', '.join(in_pieces)}"
    return [Reason(Kind.FRAGMENTED, words, models=tuple(in_pieces))]


def _ended(node: Node) -> list[Reason]:
    """Return the reason that the engine of a node has ended, if its agent can restart it."""
    if node.report is None or not can_restart(node) or not has_ended(node):
        return []
    return [Reason(Kind.ENDED, life_words(node.report), Urgency.AT_ONCE)]


def is_fragmented(fleet: Fleet, replica: Replica) -> bool:
    """Return whether the last load of a replica failed in more free memory than it takes."""
    if replica.state is not ReplicaState.UNLOADED or not replica.refused_mb:
        return False
    known = fleet.footprints.known_mb(*replica.key)
    return known is not None and known <= replica.refused_mb


def has_ended(node: Node) -> bool:
    """Return whether the engine of a node has no process, as far as its agent knows."""
    if node.report is None or node.report.life not in ENDED_LIVES:
        return False
    # The agent of another engine would say so too: what answers has not ended.
    return is_away(node)


def is_dead(node: Node) -> bool:
    """Return whether the engine of a node has ended, as its agent and a poll have shown.

    An agent alone may be wrong: nothing that would harm an engine that runs follows from its words.
    """
    return has_ended(node) and not node.is_heard


def is_given_up(node: Node) -> bool:
    """Return whether the agent of a node has started its engine so often that it has given up."""
    return node.report is not None and node.report.life is EngineLife.GIVEN_UP


def is_away(node: Node) -> bool:
    """Return whether a node does not answer, as far as polls and loads have shown."""
    return node.health not in ANSWERING_HEALTH or node.unreachable
