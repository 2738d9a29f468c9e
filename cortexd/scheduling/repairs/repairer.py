"""How planned restarts go on and end.

``restarts`` has the phases. A restart takes its next step whenever its node is looked at: the step
is decided anew each time, by the fleet as it is then. Nothing stays closed for ever: each phase in
which a node is closed has an end that time alone brings, other than the wait for the leases of a
restart that an operator has ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Final

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, counted
from cortexd.fleet.states import Change, NodeRestarted, ReplicaState
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.eviction import NO_VICTIMS
from cortexd.scheduling.placement import Finding, fits, is_changing, make_option
from cortexd.scheduling.repairs.events import (
    RestartDone,
    RestartEnded,
    RestartFailed,
    RestartWanted,
    StartRestart,
)
from cortexd.scheduling.repairs.planner import Planner
from cortexd.scheduling.repairs.plans import check_restart
from cortexd.scheduling.repairs.reasons import Reason, can_restart, has_ended, is_dead
from cortexd.scheduling.repairs.restarts import Phase, Restart, Restarts
from cortexd.scheduling.repairs.trimming import Trimmer, can_obey
from cortexd.scheduling.repairs.windows import hindrance
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.waiting import Waiting

DRAIN_SECONDS: Final = 600.0
"""How long a node is closed for an automatic restart before its last lease ends."""

ANSWER_SECONDS: Final = 60.0
"""How long after its limit the end of a restart may be reported, how long after that report the
node may take to answer a poll, and how long trimming may stand still."""

LOADING_SECONDS: Final = 60.0
"""How long a restart waits for a moment in which it can load what is missing."""

LOADED_BEFORE: Final = "it was loaded before the restart"
AGENT_LEFT: Final = "its agent is not connected any more"
NO_ANSWER: Final = "the node does not answer after the restart"


class Repairer:
    """Carries out the ``restarts`` that are due, and trims nodes."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        swapper: Swapper,
        decisions: Decisions,
        agenda: Agenda,
    ) -> None:
        self.restarts = restarts = Restarts()
        self._planner = Planner(fleet, terms, waiting, swaps, restarts, decisions, agenda)
        self._trimmer = Trimmer(fleet, terms.eviction, waiting, swapper, agenda)
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._swapper = swapper
        self._decisions = decisions
        self._agenda = agenda

    @property
    def handlers(self) -> Mapping[type[Any], Callable[[Any, float], None]]:
        """The handlers of its events."""
        return {
            RestartWanted: self.wanted,
            RestartDone: self.done,
            RestartFailed: self.failed,
        }

    def reconfigured(
        self, terms: SchedulingTerms, left: Iterable[str], polled: Iterable[str], now: float
    ) -> None:
        """Decide by other terms from now on.

        The nodes that ``left`` are not repaired any more; others have just been ``polled``.
        """
        self._terms = terms
        self._planner.take_terms(terms)
        self._trimmer.take_terms(terms.eviction)
        for name in left:
            restart = self.restarts.on(name)
            if restart is not None:
                self._end(restart, "the node has left the configuration", now)
            self.restarts.forget(name)
            self._planner.forget(name)
            self._trimmer.forget(name)
        for name in polled:
            self._trimmer.close_overfull(self._fleet.nodes[name], now)
        for node in self._fleet.nodes.values():
            self.consider(node, now)

    def reasons(self, node: Node, now: float) -> list[Reason]:
        """Return all reasons for a restart of a node's engine."""
        return self._planner.reasons(node, now)

    # What polls and time bring.

    def polled(self, node: Node, changes: Sequence[Change], asked_at: float, now: float) -> None:
        """Follow a poll that a node has answered, before its queues are served."""
        restarted = any(isinstance(change, NodeRestarted) for change in changes)
        if restarted:
            self._planner.note_restarted(node)
            self._trimmer.note_booted(node)
        restart = self.restarts.on(node.name)
        if restart is not None:
            self._follow_poll(restart, restarted, asked_at, now)
        elif changes:
            self._trimmer.close_overfull(node, now)

    def _follow_poll(self, restart: Restart, restarted: bool, asked_at: float, now: float) -> None:
        """Let a restart follow a poll of its node, whose engine has ``restarted`` or not."""
        match restart.phase:
            case Phase.DUE if restarted:
                self._end(restart, "", now)  # The engine has restarted by itself.
                self._trimmer.close_overfull(restart.node, now)
            case Phase.DRAINING if restarted:
                self._keep_wanted(restart)
                self._begin_trim(restart, now)
            case Phase.RESTARTING if restarted:
                self._begin_trim(restart, now)
            case Phase.RESTARTING if asked_at >= restart.done_at:
                if restart.node.created is None:
                    self._begin_trim(restart, now)  # It does not tell when its process started.
                else:
                    self._end(restart, "the same process as before answers after it", now)
            case Phase.LOADING if restarted:
                self._begin_trim(restart, now)

    def sweep(self, node: Node, now: float) -> None:
        """Look at a node for what only time brings."""
        if self.restarts.on(node.name) is None:
            self._trimmer.close_overfull(node, now)
        self.consider(node, now)
        self._planner.report(node, now)

    def consider(self, node: Node, now: float) -> None:
        """Plan a restart of a node that needs one, or give up one that it no longer needs."""
        self._planner.note_ended(node, now)
        restart = self.restarts.on(node.name)
        if restart is None:
            self._planner.consider(node, now)
        elif restart.phase is Phase.DUE and not restart.is_ordered:
            words = self._planner.unneeded(restart, now)
            if words:
                self._end(restart, words, now)
            else:
                self._agenda.look_at(node)

    def needed(self, model: str, found: Sequence[Finding], now: float, *, waited: bool) -> bool:
        """Plan the restart that requests for a model wait for; see Planner.needed."""
        return self._planner.needed(model, found, now, waited=waited)

    # The operator, and the agent.

    def wanted(self, event: RestartWanted, now: float) -> None:
        """Restart an engine because an operator wants it. Raises OperationRefused."""
        node = check_restart(self._fleet, self.restarts, event.node, cuts=event.now)
        self._planner.order(node, event, now)
        swap = self._swaps.on(node.name) if event.now else None
        if swap is not None and swap.moving is None:
            self._swapper.end(swap, now)
        elif swap is not None:
            self._swapper.disturb(swap, is_lost=True)
        self._agenda.look_at(node)

    def done(self, event: RestartDone, now: float) -> None:
        """Note that an agent has restarted an engine; a poll shows what is loaded."""
        restart = self._ordered(event.node, event.number)
        if restart is not None:
            restart.done_at = now

    def failed(self, event: RestartFailed, now: float) -> None:
        """End a restart that has failed."""
        restart = self._ordered(event.node, event.number)
        if restart is not None:
            self._end(restart, event.reason, now)

    def _ordered(self, node: str, number: int) -> Restart | None:
        """Return the restart of this number, if its end is waited for."""
        restart = self.restarts.on(node)
        if restart is None or restart.number != number or restart.phase is not Phase.RESTARTING:
            return None
        return restart

    # The next step.

    def step(self, node: Node, now: float) -> bool:
        """Take the next step on a node without a swap; return whether it is in repair."""
        restart = self.restarts.on(node.name)
        if restart is not None and restart.phase is Phase.DUE:
            self._await_window(restart, now)
            restart = self.restarts.on(node.name)
        if restart is None or restart.phase is Phase.DUE:
            if node.closed and not self._trimmer.unload_next(node, None, now):
                self._open(node)
            elif restart is None and node.agent is not None and has_ended(node):
                self.consider(node, now)
            return bool(node.closed)
        match restart.phase:
            case Phase.DRAINING:
                self._drain(restart, now)
            case Phase.RESTARTING:
                self._await_agent(restart, now)
            case Phase.TRIMMING:
                self._trim(restart, now)
            case Phase.LOADING:
                return self._load_missing(restart, now)
        return bool(node.closed)

    def _open(self, node: Node) -> None:
        self._fleet.close(node, "")
        self._agenda.reconsider(node)

    def _await_window(self, restart: Restart, now: float) -> None:
        """Close the node of a restart that is due, once its window opens."""
        node = restart.node
        if not can_restart(node):
            self._end(restart, AGENT_LEFT, now)
            return
        self._planner.note_ended(node, now)
        words = "" if restart.is_ordered else self._planner.unneeded(restart, now)
        if words:
            self._end(restart, words, now)
            return
        begun = self.restarts.begun(node.name, now)
        repair = self._terms.repair
        restart.waits_for = hindrance(
            restart, self.restarts, self._fleet, self._waiting, repair, begun, now
        )
        if self._planner.may_come_back(node, now) and not restart.is_ordered:
            restart.waits_for = "its agent may start the engine by itself"
        if restart.waits_for:
            return
        restart.enter(Phase.DRAINING, now)
        restart.closed_at = now
        self._fleet.note_awaited(node, awaits_restart=False)
        self._fleet.close(node, f"its engine is to be restarted: {restart.reason}")
        # What waits for its models may be served elsewhere.
        self._agenda.reconsider(node)

    def _drain(self, restart: Restart, now: float) -> None:
        """Order the restart, once nothing runs on the node."""
        node = restart.node
        if not can_restart(node):
            self._end(restart, AGENT_LEFT, now)
            return
        runs = node.leases or is_changing(self._fleet, node, now)
        if runs and not (restart.cuts or is_dead(node)):
            if not restart.is_ordered and now - restart.since >= DRAIN_SECONDS:
                self._end(restart, f"{counted(node.leases, 'request')} did not end", now)
            return
        self._keep_wanted(restart)
        restart.enter(Phase.RESTARTING, now)
        restart.ordered_at = now
        self.restarts.note_begun(node.name, now)
        self._planner.note_begun(restart, now)
        self._fleet.close(node, f"its engine is being restarted: {restart.reason}")
        self._agenda.effects.append(StartRestart(node.name, restart.number, restart.reason))

    def _keep_wanted(self, restart: Restart) -> None:
        """Remember what should be loaded after a restart: what is loaded now, or only the pins."""
        loaded = () if restart.cold else (replica.model for replica in restart.node.residents)
        restart.wanted = frozenset((*loaded, *restart.node.pins))
        restart.spares = restart.node.leaked_mb > 0 and not restart.cold

    def _await_agent(self, restart: Restart, now: float) -> None:
        """Give up a restart of which nothing is heard any more."""
        limit = self._terms.repair.restart_timeout + ANSWER_SECONDS
        if now - restart.done_at >= ANSWER_SECONDS:
            self._end(restart, NO_ANSWER, now)
        elif now - restart.ordered_at >= limit:
            self._end(restart, "its agent did not report the end of the restart", now)

    def _begin_trim(self, restart: Restart, now: float) -> None:
        if restart.phase is Phase.RESTARTING:
            self._fleet.lessons.restarts.learn(restart.node.name, now - restart.ordered_at)
        restart.enter(Phase.TRIMMING, now)
        restart.trimmed_at = now
        self._fleet.close(restart.node, f"its engine was restarted: {restart.reason}")
        self._agenda.look_at(restart.node)

    def _trim(self, restart: Restart, now: float) -> None:
        """Unload the next model that is not wanted after the restart, or open the node."""
        node = restart.node
        if self._trimmer.unload_next(node, restart.wanted, now, spares=restart.spares):
            restart.trimmed_at = now
        elif can_obey(node) or not node.is_managed:
            restart.enter(Phase.LOADING, now)
            self._open(node)
        elif now - restart.trimmed_at >= ANSWER_SECONDS:
            self._end(restart, NO_ANSWER, now)

    def _load_missing(self, restart: Restart, now: float) -> bool:
        """Load the next model that was loaded before, into free memory, or end the restart.

        Requests that wait come first. Return whether a load has begun.
        """
        node = restart.node
        missing = [
            replica
            for model in sorted(restart.wanted - restart.tried)
            if (replica := node.replicas.get(model)) is not None
            and replica.state is ReplicaState.UNLOADED
            and replica.base is None
            and now >= replica.retry_at
            and fits(self._fleet, replica)
        ]
        if not missing or not can_obey(node):
            self._end(restart, "", now)
            return False
        is_busy = self._waiting.on(node) or is_changing(self._fleet, node, now)
        if is_busy or not node.takes_work:
            if now - restart.since >= LOADING_SECONDS:
                self._end(restart, "", now)
            return False
        replica = missing[0]
        restart.tried.add(replica.model)
        restart.enter(Phase.LOADING, now)
        option = make_option(self._fleet, replica, NO_VICTIMS)
        self._swapper.begin(option, LOADED_BEFORE, now, (), is_ordered=True)
        return True

    def _end(self, restart: Restart, failure: str, now: float) -> None:
        """End a restart, done or not, and open its node."""
        node, name = restart.node, restart.node.name
        self.restarts.remove(restart)
        if restart.phase is not Phase.DUE:
            self.restarts.note_end(restart, now, failed=bool(failure))
        if restart.is_closed:
            self._fleet.close(node, "")
        self._fleet.note_awaited(node, awaits_restart=False)
        if failure:
            self._decisions.record("restart_ended", restart.for_model, name, failure, now)
        loaded = tuple(
            replica.model for replica in node.residents if replica.state is ReplicaState.LOADED
        )
        seconds = 0.0 if restart.closed_at == inf else now - restart.closed_at
        begun = restart.phase is not Phase.DUE
        ended = RestartEnded(name, restart.number, failure, seconds, loaded, begun)
        self._agenda.effects.append(ended)
        if self._fleet.nodes.get(name) is not node:
            return
        self._agenda.reconsider(node)
        for other in self.restarts:
            if other.phase is Phase.DUE:
                self._agenda.look_at(other.node)
