"""The scheduler: what happened goes in, what is to be done comes out.

Each event has a handler, most of them in ``handlers``. The handler keeps the books of the fleet and
of the queues, and enters in the ``Agenda`` what may follow; the ``Allocator`` then lets everything
follow.

Pure: ``now`` is an argument, and the same events give the same effects. Effects are carried out in
their order; how a load or an unload ended comes back as an event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.learning.load_times import LoadEstimate
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.shares import Shares
from cortexd.scheduling.affinity.ghosts import Ghosts
from cortexd.scheduling.affinity.leaning import Affinity
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.allocator import Allocator
from cortexd.scheduling.copying.copies import Copies
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.estimating.estimator import Estimator
from cortexd.scheduling.estimating.expectation import Expectation
from cortexd.scheduling.events import Effect, Event, Reconfigured, UnloadWanted
from cortexd.scheduling.eviction import Claims
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.handlers.changes import Changes
from cortexd.scheduling.handlers.commands import Commands
from cortexd.scheduling.handlers.endings import Endings
from cortexd.scheduling.handlers.polls import Polls
from cortexd.scheduling.handlers.reconfiguring import Reconfiguring
from cortexd.scheduling.handlers.requests import Requests
from cortexd.scheduling.handlers.sweeps import Sweeps
from cortexd.scheduling.placement import may_pass
from cortexd.scheduling.powering.powers import Powers
from cortexd.scheduling.prefetching.prefetches import Prefetches
from cortexd.scheduling.repairs.plans import RestartPlan, plan_restart
from cortexd.scheduling.repairs.reasons import in_words
from cortexd.scheduling.repairs.repairer import Repairer
from cortexd.scheduling.repairs.reporting import Reporting
from cortexd.scheduling.swapping import Swapper
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.turns import Standings
from cortexd.scheduling.waiting import Waiting
from cortexd.scheduling.wishes import Plan, node_named


class Scheduler:
    """Decides over ``fleet``, which only it changes."""

    def __init__(self, fleet: Fleet, terms: SchedulingTerms) -> None:
        self.fleet = fleet
        self.terms = terms
        self.waiting = waiting = Waiting()
        self.swaps = swaps = Swaps()
        self.shares = shares = Shares()
        self.standings = standings = Standings(shares)
        self.claims = claims = Claims(shares, waiting, terms.max_wait)
        self.decisions = decisions = Decisions()
        self._agenda = agenda = Agenda(waiting)
        self.affinity = affinity = Affinity(is_on=terms.affinity)
        self.ghosts = ghosts = Ghosts()
        self.copies = copies = Copies(fleet, waiting, shares)
        self._granter = granter = Granter(fleet, shares, standings, decisions, agenda, affinity)
        self._swapper = Swapper(fleet, terms.eviction, waiting, swaps, decisions, agenda, claims)
        self._repairer = repairer = Repairer(
            fleet, terms, waiting, swaps, self._swapper, decisions, agenda
        )
        self.restarts = restarts = repairer.restarts
        self._prefetches = prefetches = Prefetches(
            fleet, terms, waiting, swaps, restarts, self._swapper, agenda
        )
        changes = Changes(swaps, self._swapper, agenda)
        self._powers = powers = Powers(
            fleet, waiting, swaps, restarts, decisions, agenda, changes.take
        )
        self._allocator = allocator = Allocator(
            fleet,
            terms,
            waiting,
            swaps,
            agenda,
            granter,
            self._swapper,
            repairer,
            powers,
            shares,
            standings,
            claims,
            affinity,
            copies,
        )
        self._estimator = estimator = Estimator(fleet, terms, waiting, swaps, restarts)
        self._reconfiguring = Reconfiguring(fleet, waiting, swaps, agenda, allocator, self._swapper)
        self._requests = Requests(
            fleet,
            terms,
            waiting,
            swaps,
            shares,
            standings,
            allocator,
            granter,
            repairer,
            decisions,
            estimator,
            agenda,
            affinity,
            ghosts,
        )
        self._sweeps = Sweeps(
            fleet,
            terms,
            waiting,
            swaps,
            shares,
            standings,
            allocator,
            granter,
            self._swapper,
            repairer,
            powers,
            self._reconfiguring,
            self._requests,
            copies,
            prefetches,
            agenda,
        )
        self._commands = Commands(fleet, terms.eviction, swaps, self._swapper, agenda)
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            **self._requests.handlers,
            **Endings(fleet, waiting, self._swapper, granter, decisions, agenda).handlers,
            **Polls(fleet, changes, repairer, powers, prefetches, agenda).handlers,
            **self._sweeps.handlers,
            **self._commands.handlers,
            Reconfigured: self._reconfigured,
            **Reporting(fleet, agenda, changes.take).handlers,
            **repairer.handlers,
            **powers.handlers,
        }

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Take an event and return what is to be done, in this order.

        Raises OperationRefused for an operator's wish that is not carried out.
        """
        effects = self._agenda.effects = []
        if self.ghosts:
            self.ghosts.expire(now)
        self._handlers[type(event)](event, now)
        if self.fleet.ejections.replicas and self.waiting:
            self._requests.look_for_trials(now)
        self._allocator.settle(now)
        if self._requests.impatient:
            self._requests.judge(now)
            self._allocator.settle(now)
        return tuple(effects)

    @property
    def is_sweeping(self) -> bool:
        """Whether a sweep in parts has not looked at all queues yet."""
        return self._sweeps.goes_on

    @property
    def is_ticking(self) -> bool:
        """Whether a tick has not looked at all that is due yet."""
        return self._sweeps.tick_goes_on

    def may_serve(self, model: str, only: Collection[str], now: float) -> bool:
        """Return whether a request for a model would get one of these nodes, now or later."""
        return may_pass(self._allocator.survey(model, now, only=only))

    def expect(self, model: str, request_id: str | None, now: float) -> Expectation:
        """Return when a request that waits will get its lease; with ``None`` one that came now."""
        return self._estimator.expect(model, request_id, now)

    def expect_load(self, replica: Replica, at: float) -> LoadEstimate:
        """Return how long the load of a replica is expected to take that begins at some time."""
        return self._estimator.load(replica, at)

    def restart_reason(self, node: Node, now: float) -> str | None:
        """Say why a node's engine should be restarted, or ``None`` where it need not be."""
        return in_words(self._repairer.reasons(node, now))

    def plan_restart(self, node: str, now: float) -> RestartPlan:
        """Say what a restart of a node would do now. Raises OperationRefused."""
        found = node_named(self.fleet, node)
        parts = self.fleet, self.restarts, self.swaps, self.terms.repair
        return plan_restart(*parts, found, self.restart_reason(found, now) or "", now)

    def plan(self, model: str, node: str | None, now: float) -> Plan:
        """Say what handling ``LoadWanted(model, node)`` would do now. Raises OperationRefused."""
        return self._commands.plan(model, node, now)

    def unloaded_by(self, event: UnloadWanted) -> list[Replica]:
        """Return what handling the event would unload now. Raises OperationRefused."""
        return self._commands.unloaded_by(event)

    def is_idle(self, replica: Replica) -> bool:
        """Return whether a replica is loaded on a node that has nothing to do, now or soon."""
        return self._requests.is_idle(replica)

    def _reconfigured(self, event: Reconfigured, now: float) -> None:
        self.terms = terms = event.scheduling
        for part in (self._requests, self._sweeps, self._estimator):
            part.take_terms(terms)
        self._commands.take_terms(terms.eviction)
        self.affinity.switch(is_on=terms.affinity)
        left = self._reconfiguring.reconfigured(event, now)
        self._powers.reconfigured(now)
        self._prefetches.reconfigured(terms)
        self._repairer.reconfigured(terms, left, event.polled, now)
