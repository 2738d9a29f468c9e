"""The one door between the world and the scheduler: events go in, effects come out.

Requests acquire their leases here. Listeners carry out the other effects or report them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from cortexd.access.requesters import ANYONE, Requester
from cortexd.errors import CortexError
from cortexd.fleet.breaker import SAYS_NOTHING, Outcome
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Lease
from cortexd.logs import get_logger
from cortexd.scheduling.affinity.events import AnswerBegan
from cortexd.scheduling.estimating.expectation import Expectation
from cortexd.scheduling.events import (
    Cancel,
    Effect,
    Event,
    Grant,
    LeaseAdopted,
    LeaseEnded,
    ProbeWanted,
    Reject,
    Submit,
    Tick,
    TrialAnswers,
    Unsettled,
)
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.scheduling.scheduler import Scheduler
from cortexd.telemetry.metrics import Metrics

MOST_NAMED: Final = 20
"""How many nodes and models a line of the log names."""

log = get_logger("cortexd.dispatcher")


class Acquiring(Deferred[Grant]):
    """A lease that a request will get; the scheduler knows the request by ``name``."""

    def __init__(self, leave: Callable[[str], None], name: str) -> None:
        super().__init__(lambda _: leave(name))
        self.name = name


@dataclass(slots=True)
class _Request:
    """A request that the scheduler has not answered yet, and its timers.

    It waits since ``since``. ``elsewhere`` is the answer of our successor, once it has the request.
    """

    answer: Deferred[Grant]
    wanted: Submit | None = None
    since: float = 0.0
    timers: list[IDelayedCall] = field(default_factory=list)
    elsewhere: Deferred[Grant] | None = None

    def stop(self) -> None:
        for timer in self.timers:
            if timer.active():
                timer.cancel()


class Grantor(Protocol):
    """The successor of this process: it grants leases, and takes them back."""

    def acquire(
        self,
        model: str,
        request_id: str,
        tried: Collection[str],
        only: Collection[str] | None,
        waited: float,
        requester: Requester,
        hints: Hints = NO_HINTS,
    ) -> Deferred[Grant]:
        """Return a lease, as ``Dispatcher.acquire`` does."""

    def release(self, lease: Lease, outcome: Outcome = SAYS_NOTHING) -> None:
        """End a lease; ``outcome`` is what that says about the replica."""


class Dispatcher:
    """Hands events to ``scheduler``, each with the clock's time, and its effects to all listeners.

    Listeners get the effects one by one in the order of the decisions, even where one of them
    leads to the next event.
    """

    def __init__(self, scheduler: Scheduler, clock: IReactorTime, metrics: Metrics) -> None:
        self.scheduler = scheduler
        self._clock = clock
        # As in the accountant, the cache avoids Prometheus's lookup by labels.
        self._in_flight = cache(metrics.in_flight.labels)
        self._queue_wait = cache(metrics.queue_wait.labels)
        self._affinity = cache(metrics.affinity.labels)
        self._unsettled = metrics.unsettled
        self._listeners: list[Callable[[Effect], None]] = []
        self._requests: dict[str, _Request] = {}
        self._effects: deque[Effect] = deque()
        self._hands_out = False
        self._successor: Grantor | None = None

    @property
    def fleet(self) -> Fleet:
        """The fleet, for reading."""
        return self.scheduler.fleet

    def listen(self, listener: Callable[[Effect], None]) -> None:
        """Call ``listener`` with every effect from now on, in order."""
        self._listeners.append(listener)

    def dispatch(self, event: Event) -> None:
        """Pass an event to the scheduler. Only an operator's wish can raise OperationRefused.

        After ``hand_over`` nothing happens: another process decides.
        """
        if self._successor is not None:
            return
        self._effects.extend(self.scheduler.handle(event, self._clock.seconds()))
        if self._hands_out:
            return
        self._hands_out = True
        try:
            while self._effects:
                self._hand_out(self._effects.popleft())
        finally:
            self._hands_out = False

    def _hand_out(self, effect: Effect) -> None:
        try:
            match effect:
                case Grant():
                    self._grant(effect)
                case Reject(request_id, error):
                    self._reject(request_id, error)
                case Unsettled(steps, left):
                    self._unsettled.inc()
                    log.error("settling_cut_short", steps=steps, left=list(left[:MOST_NAMED]))
        except Exception:
            log.exception("answer_crashed", effect=type(effect).__name__)
        for listener in self._listeners:
            try:
                listener(effect)
            except Exception:
                log.exception("effect_crashed", effect=type(effect).__name__)

    def forget_metrics(self) -> None:
        """Look the metrics up anew: those of a node were removed."""
        self._in_flight.cache_clear()
        self._queue_wait.cache_clear()
        self._affinity.cache_clear()

    # Requests.

    def acquire(
        self,
        model: str,
        request_id: str,
        tried: Collection[str] = (),
        only: frozenset[str] | None = None,
        waited: float = 0.0,
        requester: Requester = ANYONE,
        hints: Hints = NO_HINTS,
    ) -> Acquiring:
        """Return a lease on the replica that should answer, never on a node in ``tried``.

        With ``only`` the replica is on one of those nodes. The request has ``waited`` so many
        seconds in the queue of an earlier process, and is sent for ``requester``; ``hints`` are
        what else is known of it. The Deferred fires with the Grant, and cancelling it leaves the
        queue. If the scheduler rejects the request, it fails with a CortexError of
        ``cortexd.scheduling.refusals`` that states the reason.
        """
        name = self._name(request_id)
        wanted = Submit(name, model, tuple(tried), only, waited, requester, hints)
        since = self._clock.seconds() - waited
        answer = Acquiring(self._leave, name)
        request = _Request(answer, wanted, since)
        self._requests[name] = request
        if self._successor is not None:
            self._ask_successor(name, wanted, self._successor)
            return answer
        try:
            self.dispatch(wanted)
        except Exception:
            self._requests.pop(name, None)
            raise
        if name in self._requests:
            terms = self.scheduler.terms
            delays = [terms.max_wait, terms.queue_timeout]
            if hints.wait is not None:
                delays.append(hints.wait)
            request.timers = [
                self._clock.callLater(max(0.0, delay - waited), self.dispatch, Tick())
                for delay in delays
            ]
        return answer

    def expect(self, model: str, name: str | None = None) -> Expectation | None:
        """Return what the request of a name may expect that waits for a model.

        Without a name it is one that would come now. ``None`` once a successor decides.
        """
        if self._successor is not None:
            return None
        return self.scheduler.expect(model, name, self._clock.seconds())

    def borrow(self, model: str, node: str, request_id: str) -> Deferred[Grant]:
        """Return a lease on an idle replica, for a question of our own.

        The Deferred fires in the same turn unless effects are being handed out, and fails with
        Overloaded if the node has anything else to do. It never waits in a queue.
        """
        name = self._name(request_id)
        request = self._requests[name] = _Request(Deferred(lambda _: self._leave(name)))
        try:
            self.dispatch(ProbeWanted(name, model, node))
        except Exception:
            self._requests.pop(name, None)
            raise
        return request.answer

    def _name(self, request_id: str) -> str:
        """Return a unique name for a queued request, because clients choose their own ids.

        The name also avoids ids with a Grant or Reject that is still queued here; their requesters
        may have left.
        """
        answered = {_answered(effect) for effect in self._effects}
        name, number = request_id, 1
        while name in self._requests or name in answered:
            number += 1
            name = f"{request_id}#{number}"
        return name

    def _leave(self, name: str) -> None:
        request = self._requests.pop(name, None)
        if request is not None:
            request.stop()
            if request.elsewhere is not None:
                request.elsewhere.cancel()
            else:
                self.dispatch(Cancel(name))

    def _grant(self, grant: Grant) -> None:
        lease = grant.lease
        if not lease.is_probe:
            self._in_flight(lease.model, lease.node).inc()
            self._queue_wait(lease.model, lease.node).observe(grant.queued_seconds)
            if grant.affinity:
                self._affinity(lease.model, lease.node, grant.affinity).inc()
        request = self._requests.pop(lease.request_id, None)
        if request is None:
            # The requester left while this grant was queued.
            self.release(lease)
            return
        request.stop()
        request.answer.callback(grant)

    def _reject(self, request_id: str, error: CortexError) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            request.stop()
            request.answer.errback(error)

    def note_trial_answers(self, lease: Lease) -> None:
        """Note that the trial of an ejected replica has brought the first content of an answer."""
        self.dispatch(TrialAnswers(lease))

    def note_answer_began(self, lease: Lease) -> None:
        """Note that the first content of an answer has come, which may lay ghosts."""
        if self.scheduler.ghosts.on(lease):
            self.dispatch(AnswerBegan(lease))

    def release(self, lease: Lease, outcome: Outcome = SAYS_NOTHING) -> None:
        """End a lease. Call this exactly once for each lease.

        ``outcome`` is what its end says about the replica.
        """
        if self._successor is not None:
            self._successor.release(lease, outcome)
            return
        if not lease.is_probe:
            self._in_flight(lease.model, lease.node).dec()
        self.dispatch(LeaseEnded(lease, outcome))

    # The change from one process to the next.

    def adopt(
        self,
        node: str,
        model: str,
        base: str | None,
        request_id: str,
        requester: Requester = ANYONE,
        gpu_seconds: float = 0.0,
    ) -> Lease | None:
        """Return a lease that a request of our predecessor holds, or ``None`` without the node.

        The request has used ``gpu_seconds`` there before.
        """
        if node not in self.fleet.nodes:
            return None
        adopted: list[Grant] = []
        name = self._name(request_id)
        self._requests[name] = _Request(Deferred())
        self._requests[name].answer.addCallback(adopted.append)
        self.dispatch(LeaseAdopted(name, node, model, base, requester, gpu_seconds))
        return adopted[0].lease

    def hand_over(self, successor: Grantor) -> None:
        """Let ``successor`` decide from now on, also about the requests in the queue."""
        self._successor = successor
        for name, request in list(self._requests.items()):
            request.stop()
            if request.wanted is None:
                del self._requests[name]
                request.answer.cancel()
            else:
                self._ask_successor(name, request.wanted, successor)

    def _ask_successor(self, name: str, wanted: Submit, successor: Grantor) -> None:
        waited = self._clock.seconds() - self._requests[name].since
        asked = successor.acquire(
            wanted.model,
            name,
            wanted.tried,
            wanted.only,
            waited,
            wanted.requester,
            wanted.hints,
        )
        self._requests[name].elsewhere = asked

        def granted(grant: Grant) -> None:
            request = self._requests.pop(name, None)
            if request is None:
                successor.release(grant.lease)
            else:
                request.answer.callback(grant)

        def failed(failure: Failure) -> None:
            request = self._requests.pop(name, None)
            if request is not None:
                request.answer.errback(failure)

        asked.addCallbacks(granted, failed)


def _answered(effect: Effect) -> str | None:
    """Return the id of the request that an effect answers, ``None`` for any other effect."""
    match effect:
        case Grant(lease=lease):
            return lease.request_id
        case Reject(request_id=request_id):
            return request_id
        case _:
            return None
