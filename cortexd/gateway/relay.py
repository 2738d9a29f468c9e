"""A request and its attempts: each at the best node that is left, until one answers.

A request first waits in the queue for a replica (``cortexd.gateway.queueing``). Then it may take
several attempts, each at another node, but only while no byte of an answer has gone out; a sign of
life is not part of the answer. An attempt ends in one of these ways:

===========================  ==========================  ==========================
event                        before the first byte*      after it
===========================  ==========================  ==========================
the answer is complete       sent whole                  stream ends in good order
the node fails               another node+, else error   error event, then closed
the node goes down           another node+, if one may   as the node's stream ends
the node rejects it          error                       error event, then closed
the node is silent too long  error                       error event, then closed
the client leaves            upstream connection closed  upstream connection closed
the client stops reading     --                          both connections closed
===========================  ==========================  ==========================

``*`` of the answer. After a keep-alive the error is an event in the stream. ``+`` as often as
``cortexd.gateway.retries`` allows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.wire.exchange import Exchange, Responder
from cortexd.dialects.wire.headers.waits import eta_headers
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.response import Downstream
from cortexd.errors import (
    BadGateway,
    CannotForceCall,
    CannotSee,
    ContextOverflow,
    CortexError,
    NodeLost,
)
from cortexd.fleet.breaker import SAYS_NOTHING, Outcome, may_be_of_request, outcome_of
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.nodes import Lease
from cortexd.fleet.states import HealthChanged, NodeHealth
from cortexd.gateway.attempt import Attempt, translation_headers
from cortexd.gateway.fatal import DEATHS
from cortexd.gateway.fatalities import Fatalities
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.large_answers import LargeAnswers
from cortexd.gateway.patience import Patience
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.queueing import Queued
from cortexd.gateway.retries import Reach, Retries, hint
from cortexd.gateway.waits.hinting import hints_of
from cortexd.gateway.waits.waits import Waits
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect, Grant
from cortexd.telemetry.accounting import Accountant, RequestRecord
from cortexd.upstream.client import NodeClient

log = get_logger("cortexd.relay")


class _Route(NamedTuple):
    """Where a request may go: to the nodes in ``only``, by default all, but not those in ``tried``.

    A request without a route may go to no further node.
    """

    only: frozenset[str] | None
    tried: tuple[str, ...]


class _Fault(NamedTuple):
    """A failed attempt of which nothing has gone to the client.

    ``deaths`` counts the engines that may have died of the request so far.
    """

    error: CortexError
    reach: Reach
    may_repeat: bool
    deaths: int = 0


class Relay:
    """Carries requests to nodes and answers back; ``kept`` knows which node keeps what."""

    def __init__(
        self,
        clients: Mapping[str, NodeClient],
        dispatcher: Dispatcher,
        accountant: Accountant,
        clock: IReactorTime,
        patience: Patience,
        profiles: Profiles,
        kept: KeptState,
        fatalities: Fatalities,
        large: LargeAnswers,
        catalogue: Catalogue,
        waits: Waits,
    ) -> None:
        self._clients = clients
        self._dispatcher = dispatcher
        self._accountant = accountant
        self._clock = clock
        self._patience = patience
        self._profiles = profiles
        self._kept = kept
        self._fatalities = fatalities
        self._large = large
        self._catalogue = catalogue
        self._waits = waits
        self._running: dict[Attempt | Queued, _Route | None] = {}
        dispatcher.listen(self._follow)

    def reconfigure(self, patience: Patience) -> None:
        """Let other limits hold for the requests that come from now on."""
        self._patience = patience

    async def serve(
        self, exchange: Exchange, downstream: Downstream, record: RequestRecord
    ) -> None:
        """Answer one request from the best node, else from the next best.

        Raises CortexError where the request fails before any byte has gone out; a later failure
        goes into the stream. Cancelling closes the upstream connection, or leaves the queue.
        Afterwards the exchange has no translations any more.
        """
        try:
            await self._serve(exchange, downstream, record)
        except CortexError as error:
            self._catalogue.conceal(error, record.caller)
            raise
        finally:
            record.bytes_out = downstream.bytes_out
            exchange.translations.forget()

    async def _serve(
        self, exchange: Exchange, downstream: Downstream, record: RequestRecord
    ) -> None:
        tried: list[str] = []
        failed: CortexError | None = None
        retries = Retries()
        prints = self._fatalities.check(exchange)
        only = self._nodes_for(exchange, record)
        while True:
            try:
                grant = await self._acquire(exchange, downstream, record, tried, only)
            except CortexError as error:
                if only is not None and only != (now_only := self._nodes_for(exchange, record)):
                    only = now_only  # A reload has changed the nodes while the request waited.
                    continue
                # The first node's failure helps the client more than the lack of another node.
                self._refuse(exchange, downstream, record, failed or error)
                return
            record.note_grant(
                grant.queued_seconds, grant.load_seconds, grant.decision, grant.affinity
            )
            record.reading = None
            outcome = SAYS_NOTHING  # of a client that leaves
            route = _Route(only, tuple(tried)) if retries.are_left else None
            try:
                takers = self._takers(exchange, grant.lease, only)
                if takers:
                    only = takers
                    continue
                client = self._clients[grant.lease.node]
                fault = await self._attempt(exchange, downstream, record, grant, route, client)
                if exchange.is_inference:
                    cause = record.error if fault is None else fault.error
                    outcome = outcome_of(
                        cause,
                        is_known_fatal=fault is not None and fault.deaths >= DEATHS,
                        request=self._print(exchange) if may_be_of_request(cause) else "",
                        reading=record.reading,
                    )
            finally:
                if outcome is SAYS_NOTHING and record.reading is not None:
                    outcome = Outcome(reading=record.reading)
                self._dispatcher.release(grant.lease, outcome)
            if fault is None:
                if prints and record.error is None:
                    self._fatalities.note_answered(prints)
                return
            if fault.deaths and not prints:
                prints = self._fatalities.prints(exchange)
            failed, node = failed or fault.error, grant.lease.node
            is_allowed = retries.allow(fault.error, fault.reach, may_repeat=fault.may_repeat)
            if is_allowed and fault.deaths < DEATHS:
                if isinstance(fault.error, NodeLost):
                    # Unlike a request that a node has failed, it may wait for one of the others.
                    only = self._others(only, [node])
                else:
                    tried.append(node)
                continue
            tried.append(node)
            if fault.error.elsewhere and not self._dispatcher.fleet.nodes.keys() <= set(tried):
                failed.message += hint(
                    max(retries.deliveries, fault.deaths), may_repeat=fault.may_repeat
                )
            self._refuse(
                exchange, downstream, record, failed if fault.error.elsewhere else fault.error
            )
            return

    def _print(self, exchange: Exchange) -> str:
        """Return the fingerprint of a request, empty if its body is gone."""
        return next(iter(self._fatalities.prints(exchange)), "")

    def _others(self, only: frozenset[str] | None, tried: Collection[str]) -> frozenset[str]:
        """Return the nodes in ``only``, by default all, without those in ``tried``."""
        return (only if only is not None else frozenset(self._dispatcher.fleet.nodes)).difference(
            tried
        )

    def _follow(self, effect: Effect) -> None:
        """Move the requests on a node that went down to other nodes, if those may take them."""
        match effect:
            case HealthChanged(node=node, after=NodeHealth.DOWN, reason=reason):
                # The requests that end make room for others of the list, hence the copy.
                for running in list(self._running):
                    if isinstance(running, Attempt) and self._is_on(running, node):
                        self._move(running, f"node {node} went down: {reason}")

    def _move(self, attempt: Attempt, words: str) -> None:
        """Move a request to another node while nothing of its answer has gone out."""
        route = self._running.get(attempt)
        if route is None or attempt.spoke:
            return
        lease = attempt.lease
        others = self._others(route.only, [*route.tried, lease.node])
        if self._dispatcher.scheduler.may_serve(lease.model, others, self._clock.seconds()):
            attempt.fail(NodeLost(words, elsewhere=True))

    def has_heard(self, node: str, since: float) -> bool:
        """Whether a node has sent a byte of an answer to any request after ``since``."""
        return any(
            isinstance(running, Attempt) and self._is_on(running, node) and running.has_heard(since)
            for running in self._running
        )

    def _is_on(self, attempt: Attempt, node: str) -> bool:
        """Whether an attempt runs on a node, and not on one that had its name before a reload."""
        return attempt.lease.node == node and attempt.client is self._clients.get(node)

    def _nodes_for(self, exchange: Exchange, record: RequestRecord) -> frozenset[str] | None:
        """Return the nodes that the request may go to, ``None`` for all that list its model.

        The set includes nodes that do not list the model yet, since they may do so later. Raises
        as ``bound_node`` does.
        """
        bound = self._kept.node_for(exchange.follows, exchange.model, record.caller.name)
        if bound is not None:
            return frozenset({bound})
        refused = exchange.translations.refused
        if not refused:
            return None
        return frozenset(
            node
            for node in self._dispatcher.fleet.nodes
            if self._profiles.of(node, exchange.model) not in refused
        )

    def _takers(
        self, exchange: Exchange, lease: Lease, only: frozenset[str] | None
    ) -> frozenset[str]:
        """Return the nodes that can take a request, if the one of its lease cannot.

        While the request waited, a reload may have brought a kind of node that there was not when
        it was translated. The set is empty where the lease's node can take it, or no node can.
        """
        translations, model = exchange.translations, exchange.model
        profile = self._profiles.of(lease.node, model)
        if profile in translations.refused or translations.onto(profile) is not None:
            return frozenset()
        return frozenset(
            node
            for node in self._dispatcher.fleet.nodes
            if (only is None or node in only)
            and translations.onto(self._profiles.of(node, model)) is not None
        )

    async def _acquire(
        self,
        exchange: Exchange,
        downstream: Downstream,
        record: RequestRecord,
        tried: Sequence[str],
        only: frozenset[str] | None,
    ) -> Grant:
        model = exchange.model
        fleet = self._dispatcher.fleet
        base = None if model in fleet else fleet.base_of(model)
        if base is not None:
            # The base of the adapter is loaded where that brings the adapter.
            model, bringing = base, frozenset(node.name for node in fleet.bringing(model))
            only = bringing if only is None else only & bringing
        acquiring = self._dispatcher.acquire(
            model,
            record.request_id,
            tried,
            only,
            requester=record.caller.requester,
            hints=hints_of(exchange, record),
        )
        if acquiring.called:
            return await acquiring
        wait = self._waits.begin(acquiring.name, model, record)
        queued = Queued(
            acquiring,
            exchange.first.make_responder(),
            downstream,
            record,
            self._patience,
            self._clock,
            {
                **translation_headers(exchange.first),
                "X-Cortex-Model": exchange.model,
                **eta_headers(record.expected_seconds),
            },
            partial(self._waits.words, wait),
        )
        self._running[queued] = None
        grant: Grant | None = None
        try:
            grant = await queued.granted()
            return grant
        finally:
            del self._running[queued]
            self._waits.end(wait, has_lease=grant is not None)

    async def _attempt(
        self,
        exchange: Exchange,
        downstream: Downstream,
        record: RequestRecord,
        grant: Grant,
        route: _Route | None,
        client: NodeClient,
    ) -> _Fault | None:
        """Make one attempt. Return its failure if nothing of an answer has gone out.

        ``client`` is that of the lease's node, which may leave the configuration meanwhile.
        """
        lease = grant.lease
        profile = self._profiles.of(lease.node, exchange.model)
        translation = exchange.translations.onto(profile)
        if translation is None:
            words = (
                f"node {lease.node}, which has just loaded model {lease.model!r}, cannot take this "
                "request; try again"
            )
            refused: CortexError | None = exchange.translations.refused.get(profile)
            if refused is None:
                refused = BadGateway(words, elsewhere=True)
                refused.is_node_fault = False
            return _Fault(refused, Reach.UNSENT, may_repeat=True)
        asked = translation
        if translation.whole is not None and self._profiles.is_asked_whole(exchange.model):
            translation = translation.whole
        attempt = Attempt(
            client,
            self._kept,
            self._clock,
            self._patience,
            exchange,
            translation,
            downstream,
            record,
            lease,
            self._large,
        )
        record.left_out = translation.left_out
        has_whole, may_repeat = translation.whole is not None, translation.may_repeat
        del translation  # the attempt lets go of it once its answer has begun
        attempt.on_content = (
            self._dispatcher.note_trial_answers
            if grant.is_trial
            else self._dispatcher.note_answer_began
        )
        self._accountant.note_attempt(record, lease.model, lease.node)
        self._running[attempt] = route if may_repeat else None
        is_asked_again = False
        deaths, began_at = 0, self._clock.seconds()
        try:
            await attempt.run()
        except CortexError as error:
            error.message = client.without_key(error.message)
            self._accountant.note_failed_attempt(record, error)
            if not attempt.responder.content_chunks:  # else the engine had read the prompt
                deaths = self._fatalities.note_failure(exchange, asked, lease.node, error, began_at)
            if isinstance(error, CannotSee) and self._profiles.note_blind(lease.model):
                log.warning("model_cannot_see", model=lease.model, node=lease.node)
            if isinstance(error, CannotForceCall) and has_whole:
                if self._profiles.note_asked_whole(exchange.model):
                    log.info("forced_calls_asked_whole", model=lease.model, node=lease.node)
                is_asked_again = not attempt.spoke
            if isinstance(error, ContextOverflow):
                estimate = exchange.prompt.tokens if exchange.prompt is not None else None
                error.complete(estimate, profile.context_window)
            if attempt.spoke:
                attempt.release_pace()
                self._break_off(attempt.responder, downstream, record, error)
            elif not is_asked_again:
                reach = attempt.reach(error)
                return _Fault(error, reach, may_repeat=may_repeat, deaths=deaths)
        finally:
            del self._running[attempt]
            attempt.close()
        if is_asked_again:
            return await self._attempt(exchange, downstream, record, grant, route, client)
        return None

    def _refuse(
        self,
        exchange: Exchange,
        downstream: Downstream,
        record: RequestRecord,
        error: CortexError,
    ) -> None:
        """Send an error: by raising it for its status, or as an event once the stream has begun."""
        if not downstream.started:
            raise error
        self._break_off(exchange.first.make_responder(), downstream, record, error)

    def _break_off(
        self,
        responder: Responder,
        downstream: Downstream,
        record: RequestRecord,
        error: CortexError,
    ) -> None:
        record.error, record.broken = error, True
        self._catalogue.conceal(error, record.caller)
        downstream.write(responder.fail(error))
        if responder.fails_in_order:
            downstream.finish()
        else:
            downstream.break_off()

    def stop(self, error: CortexError) -> None:
        """Fail every request in the queue or under way."""
        # Requests in the queue come first: they would be granted the slots that the others free.
        for running in sorted(self._running, key=lambda each: isinstance(each, Attempt)):
            running.fail(error)
