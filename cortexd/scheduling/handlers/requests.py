"""What follows from requests that come, leave the queue, and end."""

from __future__ import annotations

from collections.abc import Sequence

from cortexd.access.requesters import Priority
from cortexd.errors import CortexError
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica, counted
from cortexd.fleet.shares import Shares
from cortexd.fleet.states import Change, NodeHealth, ReplicaEjected, ReplicaReturned
from cortexd.scheduling import refusals
from cortexd.scheduling.affinity.events import AnswerBegan
from cortexd.scheduling.affinity.ghosts import Ghosts
from cortexd.scheduling.affinity.leaning import Affinity
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.allocator import Allocator
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.estimating.estimator import Estimator
from cortexd.scheduling.estimating.expectation import Expectation
from cortexd.scheduling.events import (
    Cancel,
    Grant,
    LeaseAdopted,
    LeaseEnded,
    ProbeWanted,
    Reject,
    SharesAdopted,
    Submit,
    TrialAnswers,
)
from cortexd.scheduling.granting import Granter
from cortexd.scheduling.handlers.table import Handlers
from cortexd.scheduling.hints import NO_HINTS
from cortexd.scheduling.repairs.repairer import Repairer
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.scheduling.turns import Standings, crowded_out
from cortexd.scheduling.waiting import Waiter, Waiting


class Requests:
    """Handles the events of requests and of their leases."""

    def __init__(
        self,
        fleet: Fleet,
        terms: SchedulingTerms,
        waiting: Waiting,
        swaps: Swaps,
        shares: Shares,
        standings: Standings,
        allocator: Allocator,
        granter: Granter,
        repairer: Repairer,
        decisions: Decisions,
        estimator: Estimator,
        agenda: Agenda,
        affinity: Affinity,
        ghosts: Ghosts,
    ) -> None:
        self.impatient: list[Waiter] = []
        self._fleet = fleet
        self._terms = terms
        self._waiting = waiting
        self._swaps = swaps
        self._shares = shares
        self._standings = standings
        self._allocator = allocator
        self._granter = granter
        self._repairer = repairer
        self._decisions = decisions
        self._estimator = estimator
        self._agenda = agenda
        self._affinity = affinity
        self._ghosts = ghosts

    @property
    def handlers(self) -> Handlers:
        """The handlers of its events."""
        return {
            Submit: self.submit,
            Cancel: self.cancel,
            LeaseAdopted: self.lease_adopted,
            SharesAdopted: self.shares_adopted,
            LeaseEnded: self.lease_ended,
            TrialAnswers: self.trial_answers,
            AnswerBegan: self.answer_began,
            ProbeWanted: self.probe_wanted,
        }

    def take_terms(self, terms: SchedulingTerms) -> None:
        """Decide by other terms from now on."""
        self._terms = terms

    def submit(self, event: Submit, now: float) -> None:
        """Grant a request a lease at once, let it wait, or reject it."""
        model = event.model
        if not event.tried:
            name = event.requester.name
            self._fleet.note_request(model, now, event.hints.session or name, name)
        if model not in self._waiting:
            replicas, hints = self._fleet.answering(model), event.hints
            replica = choose_replica(replicas, now, event.tried, event.only)
            if replica is not None:
                if hints is not NO_HINTS:
                    replica = self._affinity.lean(
                        replica, replicas, hints, now, event.tried, event.only
                    )
                self._granter.grant(replica, event.request_id, now, event.requester, hints)
                return
        error = self._no_wait_reason(event, now)
        if error is not None:
            self._granter.reject(event.request_id, model, error, now, now)
            return
        head = self._waiting.line_head(model, event.only)
        requester, since = event.requester, now - event.waited
        if requester.name and not self._waiting.has(model, requester):
            self._standings.come(model, requester, now)
        waiter = Waiter(event.request_id, model, since, event.only, requester, hints=event.hints)
        wait = event.hints.wait
        if wait is not None and wait < self._terms.queue_timeout:
            waiter.until = since + wait
            self.impatient.append(waiter)
        self._waiting.add(waiter)
        self._shares.see(requester.priority)
        if self._is_delayed_by_class(model, requester.priority):
            self._waiting.note_passed(waiter)
        if head is None or head.held_back or requester.priority < head.requester.priority:
            self._agenda.look_for(model)

    def judge(self, now: float) -> None:
        """Reject the impatient requests that have come just now and would wait for too long.

        Where nothing was measured yet, a request waits for as long as its client will.
        """
        judged, self.impatient = self.impatient, []
        for waiter in judged:
            if self._waiting.find(waiter.request_id) is waiter:
                expected = self._estimator.expect(waiter.model, waiter.request_id, now)
                is_late = expected.is_measured and expected.ends_at > waiter.until
                if is_late or waiter.until <= now:
                    self._give_up(waiter, expected, now)

    def give_up_ended(self, now: float) -> None:
        """Reject the requests whose clients wait no longer."""
        for waiter in self._waiting.ended(now):
            expected = self._estimator.expect(waiter.model, waiter.request_id, now)
            self._give_up(waiter, expected, now)

    def _give_up(self, waiter: Waiter, expected: Expectation, now: float) -> None:
        """Reject a request that waits no longer; what it has begun for its model goes on."""
        self._waiting.remove(waiter.request_id)
        error = refusals.model_loading(waiter.model, expected, now)
        self._granter.reject(waiter.request_id, waiter.model, error, waiter.since, now)
        replicas = self._fleet.replicas(waiter.model)
        if not any(
            each.answers and (waiter.only is None or each.node.name in waiter.only)
            for each in replicas
        ):
            self._waiting.stand_in_for(waiter)
        self._agenda.look_for(waiter.model)

    def _is_delayed_by_class(self, model: str, priority: Priority) -> bool:
        """Whether a request of a lower class runs in a replica of a model."""
        if not self._shares.has_others(priority):
            return False
        return any(
            self._shares.runs_below((each.node.name, each.base or model), priority)
            for each in self._fleet.replicas(model)
        )

    def _no_wait_reason(self, event: Submit, now: float) -> CortexError | None:
        """Say why a request may not wait: a node has had it before, or the queue is full.

        A full queue may reject another request instead, so that this one may wait.
        """
        model, footprints = event.model, self._fleet.footprints
        if event.tried:
            found = self._allocator.survey(model, now, tried=event.tried, only=event.only)
            return refusals.no_free_slot(model, found, footprints=footprints)
        count = self._waiting.count(model)
        if count < self._terms.max_queue:
            return None
        found = self._allocator.survey(model, now)
        error = refusals.queue_full(model, count, found, footprints=footprints)
        last = crowded_out(self._waiting.by_requester(model), event.requester)
        if last is None:
            return error
        self.cancel(Cancel(last.request_id), now)
        self._granter.reject(last.request_id, model, error, last.since, now)
        return None

    def cancel(self, event: Cancel, now: float) -> None:
        """Let a request leave the queue."""
        waiter = self._waiting.remove(event.request_id)
        if waiter is not None and self._waiting.line_head(waiter.model, waiter.only) is None:
            self._agenda.look_for(waiter.model)

    def lease_adopted(self, event: LeaseAdopted, now: float) -> None:
        """Take over a lease of an earlier process."""
        lease = self._fleet.adopt(
            event.node, event.model, event.base, event.request_id, now, event.requester
        )
        self._shares.begin(lease, now, event.gpu_seconds)
        self._agenda.effects.append(Grant(lease, 0.0, 0.0, "adopted"))

    def shares_adopted(self, event: SharesAdopted, now: float) -> None:
        """Take over what requesters have used in an earlier process."""
        self._shares.take(event.used, now)

    def lease_ended(self, event: LeaseEnded, now: float) -> None:
        """Take a lease back, and learn from how its answer ended."""
        lease = event.lease
        self._granter.charge_lease(lease, now)
        if not lease.is_probe:
            self._fleet.lessons.leases.note(lease.model, now - lease.granted_at)
        released, outcome = self._fleet.release(lease, now), event.outcome
        self._affinity.ended(lease, released, outcome.reading)
        if released is not None and outcome.reading is not None and outcome.reading.is_left:
            self._ghosts.begin(lease, released, outcome.reading, self._affinity.paces, now)
        if released is not None and (outcome.fault or released.breaker is not None):
            siblings = self._fleet.answering(lease.model)
            self._take_ejections(
                self._fleet.ejections.take_end(released, siblings, lease, outcome, now), now
            )
        node = self._fleet.nodes.get(lease.node)
        if node is None:
            return  # It has left the configuration.
        if outcome.answered and self._fleet.ejections.replicas:
            self._fleet.note_answered(node, now)
        for model in (lease.model, lease.base):
            replica = node.replicas.get(model) if model is not None else None
            if replica is not None:
                if replica.model in self._waiting:
                    self._agenda.look_for(replica.model)
                if not replica.leases:
                    self._agenda.look_at(node)

    def trial_answers(self, event: TrialAnswers, now: float) -> None:
        """Note that the answer of a trial has begun."""
        lease = event.lease
        self._ghosts.answered(lease)
        replica = self._fleet.replica(lease.node, lease.model)
        if replica is not None:
            self._take_ejections(self._fleet.ejections.answers_already(replica, lease, now), now)

    def answer_began(self, event: AnswerBegan, now: float) -> None:
        """Note that an engine has read all prompts that came before that of a request."""
        self._ghosts.answered(event.lease)

    def _take_ejections(self, changes: Sequence[Change], now: float) -> None:
        """Follow ejections and returns, which may change what the queue can get."""
        for change in changes:
            self._agenda.effects.append(change)
            match change:
                case ReplicaEjected(node, model, reason, faults, seconds):
                    words = (
                        f"{counted(faults, 'request')} in a row failed, so it gets none for "
                        f"{seconds:g} s: {reason}"
                    )
                    self._decisions.record("eject", model, node, words, now)
                    self._repairer.consider(self._fleet.nodes[node], now)
                case ReplicaReturned(node, model, reason):
                    self._decisions.record("return", model, node, reason, now)
                case _:
                    continue
            if model in self._waiting:
                self._agenda.look_for(model)

    def look_for_trials(self, now: float) -> None:
        """Let a request that waits be the trial of an ejected replica, once that is due."""
        ejected = dict.fromkeys(model for _, model in self._fleet.ejections.replicas)
        for model in self._waiting.among(ejected):
            replicas = self._fleet.answering(model)
            if any(
                choose_replica(replicas, now, only=head.only) is not None
                for head in self._waiting.lines(model)
            ):
                self._agenda.look_for(model)

    def is_idle(self, replica: Replica) -> bool:
        """Return whether a replica is loaded on a node that has nothing to do, now or soon."""
        node = replica.node
        is_busy = node.leases or node.unsettled or node.name in self._swaps
        if self._ghosts and any(each.ghosts for each in node.replicas.values()):
            return False
        return (
            replica.answers
            and not replica.is_ejected
            and node.health is NodeHealth.UP
            and not (is_busy or self._waiting.on(node))
        )

    def probe_wanted(self, event: ProbeWanted, now: float) -> None:
        """Lend a question of our own a replica, if that is idle."""
        replica = self._fleet.replica(event.node, event.model)
        if replica is not None and self.is_idle(replica):
            self._granter.lend(replica, event.request_id, now)
        else:
            error = refusals.not_idle(event.model, event.node)
            self._agenda.effects.append(Reject(event.request_id, error))
