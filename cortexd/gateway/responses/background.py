"""Responses that are made in the background: no client waits, but the work is like a request's.

It waits in its model's queue and holds a lease. A stop of the daemon waits for it as for any
request, and fails it after the grace period.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from twisted.internet.defer import CancelledError, Deferred

from cortexd.access.callers import Caller
from cortexd.access.sight import owns
from cortexd.dialects.routes import kept_responses
from cortexd.dialects.wire.exchange import Exchange
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.downstream.replay import Replay
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import Downstream, NoDownstream
from cortexd.errors import CortexError, internal_error
from cortexd.gateway.answers import Answers
from cortexd.gateway.relay import Relay
from cortexd.gateway.token_counts import TokenCounts
from cortexd.store.response_file import StoredResponse
from cortexd.store.responses import ResponseStore
from cortexd.telemetry.accounting import RequestRecord

ROUTE: Final = "/v1/responses (background)"
"""The label of the work in metrics and in the log; the request that orders it has its own."""


@dataclass(slots=True)
class _Job:
    """The work for one response; ``response`` is its object before the work has ended.

    ``is_accepted`` means that the client has its id. ``is_deleted`` means that no client wants it.
    """

    stored: StoredResponse
    response: JsonObject
    downstream: NoDownstream
    is_accepted: bool = False
    is_deleted: bool = False
    record: RequestRecord | None = None
    refusal: CortexError | None = None
    running: Deferred[None] = field(init=False)

    def state(self) -> bytes:
        """Return the object of the response as it is now."""
        has_begun = self.record is not None and self.record.attempts > 0
        return kept_responses.unfinished(self.response, has_begun=has_begun)


class Background:
    """Does the work of responses in the background, and stores each of them in its end."""

    def __init__(
        self, relay: Relay, answers: Answers, store: ResponseStore, token_counts: TokenCounts
    ) -> None:
        self._relay = relay
        self._answers = answers
        self._store = store
        self._token_counts = token_counts
        self._jobs: dict[str, _Job] = {}

    def start(
        self,
        request: GatewayRequest,
        exchange: Exchange,
        stored: StoredResponse,
        response: JsonObject,
        wait: float | None = None,
    ) -> bytes:
        """Begin the work that a request orders; return the object of the response in the queue.

        ``response`` is its object without output, and ``stored`` has the rest. ``wait`` is for how
        many seconds its client lets it wait for a replica. Raises the error of a request that is
        refused at once, which then leaves no response.
        """
        share = request.hand_share_over()
        downstream = Replay(share) if exchange.streams else NoDownstream(share)
        job = _Job(stored, response, downstream)
        body = job.state()
        job.stored = replace(stored, response=body, is_unfinished=True)
        self._jobs[stored.id] = job
        job.running = Deferred.fromCoroutine(self._run(request, exchange, job, wait))
        if job.refusal is not None:
            raise job.refusal
        job.is_accepted = True
        # From here on no status can say of an error: a stream says it in an event.
        job.downstream.started = exchange.streams
        if stored.id in self._jobs:
            self._store.put(job.stored)
        return body

    async def _run(
        self, request: GatewayRequest, exchange: Exchange, job: _Job, wait: float | None
    ) -> None:
        """Do the work and store its end; never raises."""

        async def work(record: RequestRecord) -> None:
            job.record = record
            record.streams = exchange.streams
            record.wait = wait
            await self._relay.serve(exchange, job.downstream, record)
            self._token_counts.learn(exchange.model, exchange.prompt, record.usage)

        try:
            error = await self._answers.apart(request, ROUTE, work)
        except CancelledError:
            self._end(job, kept_responses.cancelled(job.response))
            return
        finally:
            job.downstream.forget_body()
        outcome = exchange.outcome
        if outcome is not None and outcome.response is not None:
            item_ids = kept_responses.item_ids(outcome.response)
            self._end(job, encode(outcome.response), item_ids)
        elif error is not None and not job.is_accepted:
            del self._jobs[job.stored.id]
            job.refusal = error
        else:
            error = error or internal_error(request.request_id)
            self._end(job, kept_responses.failed(job.response, error))

    def _end(self, job: _Job, response: bytes, item_ids: tuple[str, ...] = ()) -> None:
        """Store the last object of a response, unless it was deleted."""
        del self._jobs[job.stored.id]
        job.downstream.break_off()  # for clients that follow a stream that did not end itself
        if job.is_deleted:
            return
        ended = replace(job.stored, response=response, is_unfinished=False, item_ids=item_ids)
        if not self._store.put(ended):
            too_large = kept_responses.too_large(ended.size)
            response = kept_responses.failed(job.response, too_large)
            self._store.put(replace(ended, response=response))

    def _job(self, name: str, caller: Caller) -> _Job | None:
        job = self._jobs.get(name)
        return job if job is not None and owns(caller, job.stored.owner) else None

    def state(self, name: str, caller: Caller) -> bytes | None:
        """Return the object of a caller's response whose work has not ended, else ``None``."""
        job = self._job(name, caller)
        return None if job is None else job.state()

    def follow(
        self,
        name: str,
        client: Downstream,
        headers: Mapping[str, str],
        after: int,
        caller: Caller,
    ) -> Deferred[None] | None:
        """Send the events of a response after the number ``after`` to a client, until its end.

        ``None`` if its work has ended, or the caller does not own it. Raises BadRequest if it is
        not made as a stream.
        """
        job = self._job(name, caller)
        if job is None:
            return None
        if not isinstance(job.downstream, Replay):
            raise kept_responses.not_streamed(name)
        return job.downstream.follow(
            client, headers, partial(kept_responses.events_after, number=after)
        )

    def cancel(self, name: str, caller: Caller, *, is_deleted: bool = False) -> None:
        """End the work for a caller's response, if it has not ended.

        It leaves the queue or its node.
        """
        job = self._job(name, caller)
        if job is None:
            return
        job.is_deleted = is_deleted
        job.downstream.gone = True
        job.running.cancel()
