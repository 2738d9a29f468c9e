"""Which restarts are due: for reasons of the engines, for requests that wait, for an operator."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica, ReplicaKey
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.events import RestartDue
from cortexd.scheduling.placement import (
    Finding,
    Hindrance,
    Obstacle,
    can_ever_hold,
    immovable_mb,
    is_changing,
    may_pass,
)
from cortexd.scheduling.repairs.events import RestartPlanned, RestartWanted
from cortexd.scheduling.repairs.reasons import (
    Kind,
    Reason,
    Urgency,
    can_restart,
    has_ended,
    in_words,
    is_away,
    is_dead,
    is_fragmented,
    is_given_up,
    restart_reasons,
)
from cortexd.scheduling.repairs.restarts import Phase, Restart, Restarts
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import Waiting

ENDED_SECONDS: Final = 30.0
"""How long an agent has to bring an engine back that has ended, before it is ordered to."""

NO_LONGER: Final = "it is no longer needed"
NOT_AUTOMATIC: Final = "no restart of the node is wanted now but an operator's"


class Planner:
    """Adds to ``restarts`` those that are due, and says which are no longer needed."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        restarts: Restarts,
        decisions: Decisions,
        agenda: Agenda,
    ) -> None:
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._restarts = restarts
        self._decisions = decisions
        self._agenda = agenda
        self._ended: set[str] = set()
        self._ended_since: dict[str, float] = {}
        self._reported: set[str] = set()
        self._helped_at: dict[ReplicaKey, float] = {}

    def take_terms(self, terms: SchedulingTerms) -> None:
        """Decide by other terms from now on; with them, what was in vain may help."""
        self._terms = terms
        self._helped_at.clear()

    def forget(self, node: str) -> None:
        """Forget a node that has left the configuration."""
        self._reported.discard(node)
        self._ended.discard(node)
        self._ended_since.pop(node, None)

    # Reasons.

    def reasons(self, node: Node, now: float) -> list[Reason]:
        """Return all reasons for a restart of a node's engine."""
        return restart_reasons(self._fleet, node, self._terms.defrag_after_cycles, now)

    def note_ended(self, node: Node, now: float) -> None:
        """Note when the engine of a node has ended last, until the node answers again."""
        name = node.name
        if has_ended(node):
            if name not in self._ended:
                self._ended_since[name] = now
            self._ended.add(name)
            return
        self._ended.discard(name)
        if not is_away(node):
            self._ended_since.pop(name, None)

    def may_come_back(self, node: Node, now: float) -> bool:
        """Whether the engine of a node has ended, and its agent may bring it back, or does so.

        An engine that the agent has started is silent while it loads its models, which may take as
        long as a restart. It is back once the node answers, which polls show after its agent.
        Until a poll has failed, the agent may be wrong, and the engine still there.
        """
        since = self._ended_since.get(node.name)
        if has_ended(node) and not is_dead(node):
            return True
        if since is None or is_given_up(node):
            return False
        limit = ENDED_SECONDS if has_ended(node) else self._terms.repair.restart_timeout
        return now - since < limit

    def note_restarted(self, node: Node) -> None:
        """Note that the engine of a node has started anew."""
        self._reported.discard(node.name)

    def note_begun(self, restart: Restart, now: float) -> None:
        """Note for which models a restart begins: another one for them would be in vain.

        That holds until one of them was loaded.
        """
        node = restart.node
        in_pieces = [
            model for model, each in node.replicas.items() if is_fragmented(self._fleet, each)
        ]
        for model in (restart.for_model, *in_pieces):
            self._helped_at[node.name, model] = now

    def _is_vain(self, replica: Replica) -> bool:
        return replica.loaded_at <= self._helped_at.get(replica.key, -inf)

    # For reasons of the engine.

    def consider(self, node: Node, now: float) -> None:
        """Plan a restart of a node that needs one."""
        if self._restarts.is_fresh(node.name, now):
            kinds = [each.kind for each in self.reasons(node, now)]
            self._restarts.note_reasons(node.name, kinds, now)
        if not self._may_plan(node, now):
            return
        reasons = [each for each in self.reasons(node, now) if self._may_help(node, each)]
        if reasons:
            self._plan(node, reasons, now)

    def _may_plan(self, node: Node, now: float) -> bool:
        """Whether an automatic restart of a node may be planned."""
        repair = self._terms.repair
        return (
            repair.automatic
            and can_restart(node)
            and not node.cordoned
            and node.power.is_awake
            and now >= self._restarts.rests_until(node.name)
            and self._restarts.begun(node.name, now) < repair.restart_budget
        )

    def _may_help(self, node: Node, reason: Reason) -> bool:
        if reason.kind is not Kind.FRAGMENTED:
            return True
        return any(not self._is_vain(node.replicas[model]) for model in reason.models)

    def unneeded(self, restart: Restart, now: float) -> str:
        """Take the reasons of an automatic restart as they are now.

        Return why it is given up, empty if it is not.
        """
        node = restart.node
        if restart.for_model and not self._waiting.wants(restart.for_model, node.name):
            restart.for_model = ""
        comes_back = self.may_come_back(node, now)
        is_awaited = bool(restart.for_model) or has_ended(node) or comes_back
        self._fleet.note_awaited(node, awaits_restart=is_awaited)
        reasons = self.reasons(node, now)
        if not reasons and not restart.for_model and not comes_back:
            return NO_LONGER
        if not self._terms.repair.automatic or node.cordoned:
            return NOT_AUTOMATIC
        urgencies = [Urgency.AT_ONCE] if restart.for_model else []
        urgencies += [reason.urgency for reason in reasons]
        restart.urgency = max(urgencies, default=restart.urgency)
        return ""

    def report(self, node: Node, now: float) -> None:
        """Report once that a node is due for a restart, where no agent will restart it.

        That is at a moment when nothing runs there.
        """
        if node.name in self._reported or node.leases or node.name in self._swaps:
            return
        if not node.power.is_awake or (self._terms.repair.automatic and can_restart(node)):
            return
        if self._restarts.on(node.name) is not None or is_changing(self._fleet, node, now):
            return
        words = in_words(self.reasons(node, now))
        if words is not None:
            self._reported.add(node.name)
            self._agenda.effects.append(RestartDue(node.name, words))

    # For requests that wait.

    def needed(self, model: str, found: Sequence[Finding], now: float, *, waited: bool) -> bool:
        """Plan the restart that requests for a model wait for, where only a restart can help.

        ``found`` has an obstacle on each node. Where one may pass by itself, a restart helps only
        against memory that is missing, and only requests that have ``waited`` as long as others
        wait for room. Return whether they may wait, or go on to do so.
        """
        passes = may_pass(found)
        if passes and not waited:
            return True
        nodes = [
            finding.replica.node
            for finding in found
            if isinstance(finding, Obstacle)
            and passes is (finding.hindrance is Hindrance.OCCUPIED)
            and self._would_help(finding, now)
        ]
        if not nodes and passes:
            return True
        if not nodes:
            return False
        node = min(nodes, key=lambda each: (each.leases, each.position))
        restart = self._restarts.on(node.name)
        if restart is None:
            kind = self._kind_of(node.replicas[model])
            words = f"requests wait for {model}, which can be loaded only after a restart"
            reasons = [*self.reasons(node, now), Reason(kind, words)]
            self._plan(node, reasons, now, for_model=model)
        else:
            restart.for_model, restart.urgency = model, Urgency.AT_ONCE
        self._fleet.note_awaited(node, awaits_restart=True)
        self._agenda.look_at(node)
        return True

    def _would_help(self, obstacle: Obstacle, now: float) -> bool:
        """Whether a restart of an obstacle's node is possible, and would let it load the model."""
        replica, node = obstacle.replica, obstacle.replica.node
        if not can_restart(node) or self._is_vain(replica):
            return False
        restart = self._restarts.on(node.name)
        may_begin = self._may_plan(node, now) if restart is None else restart.phase is Phase.DUE
        match obstacle.hindrance:
            case Hindrance.STUCK:
                return may_begin
            case Hindrance.FAILED:
                return may_begin and is_fragmented(self._fleet, replica)
            case Hindrance.OCCUPIED:
                return may_begin and self._lacks_missing(replica)
        return False

    def _lacks_missing(self, replica: Replica) -> bool:
        """Whether a replica would fit if memory were not missing that no other program has."""
        node = replica.node
        if node.report is None or node.report.others_mb is None:
            return False
        known = self._fleet.footprints.known_mb(*replica.key)
        if known is None or not can_ever_hold(self._fleet, replica, restarted=True):
            return False
        staying_mb = immovable_mb(self._fleet, node, replica.model) - node.leaked_mb
        return staying_mb + max(node.leaked_mb, node.missing_mb) + known > node.usable_mb

    def _kind_of(self, replica: Replica) -> Kind:
        """Return why only a restart lets a replica be loaded."""
        if replica.state is ReplicaState.LOADING:
            return Kind.STUCK
        return Kind.FRAGMENTED if is_fragmented(self._fleet, replica) else Kind.LEAKED

    # For an operator.

    def order(self, node: Node, wish: RestartWanted, now: float) -> None:
        """Plan a restart that an operator wants, or let the one that is planned be his."""
        restart = self._restarts.on(node.name)
        if restart is None:
            reasons = [Reason(Kind.ORDERED, "the operator requested it"), *self.reasons(node, now)]
            restart = self._plan(node, reasons, now)
        restart.is_ordered, restart.urgency = True, Urgency.AT_ONCE
        restart.cuts, restart.cold = restart.cuts or wish.now, restart.cold or wish.cold

    # The plan.

    def _plan(
        self, node: Node, reasons: Sequence[Reason], now: float, *, for_model: str = ""
    ) -> Restart:
        """Plan a restart, and record why."""
        words = in_words(reasons) or ""
        loaded = [replica.model for replica in node.residents]
        number = self._decisions.record(
            "restart", for_model, node.name, words, now, victims=loaded
        ).number
        kinds = tuple(dict.fromkeys(reason.kind for reason in reasons))
        urgency = Urgency.AT_ONCE if for_model else max(each.urgency for each in reasons)
        restart = Restart(node, number, words, kinds, urgency, now, for_model=for_model)
        self._restarts.add(restart)
        if for_model or has_ended(node):
            self._fleet.note_awaited(node, awaits_restart=True)
        self._agenda.effects.append(RestartPlanned(node.name, number, words, kinds[0]))
        self._agenda.look_at(node)
        return restart
