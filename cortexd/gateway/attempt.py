"""The course of one request at one node: it is sent, its answer is relayed, and it is let go of.

Until the first event of a stream, or ``hold_seconds``, no status goes out, so that an error can
still have its own. After that a silent stream gets the dialect's keep-alives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.bulk.frames import Parcel
from cortexd.dialects.nodes.answers import is_light
from cortexd.dialects.nodes.errors import is_page, is_text, read_error, read_other_kind
from cortexd.dialects.wire.exchange import EVENT_STREAM, Exchange, Responder, Translation
from cortexd.dialects.wire.headers.waits import eta_headers
from cortexd.downstream.response import Downstream
from cortexd.errors import BadGateway, CortexError, NodeTimeout
from cortexd.fleet.affinity import Kept, StateKind
from cortexd.fleet.learning.prefills import Reading
from cortexd.fleet.nodes import Lease
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.large_answers import LargeAnswers
from cortexd.gateway.patience import Patience, Verdict, Wait, due, has_heard, verdict
from cortexd.gateway.retries import Reach
from cortexd.gateway.upstream_body import UpstreamBody, as_error
from cortexd.headers import header_text
from cortexd.sse import ServerSentEvent
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.client import (
    NodeClient,
    Response,
    collect,
    describe,
    is_cut,
    is_unread,
    own_failure,
)

MAX_ERROR_BYTES = 1024 * 1024
"""How much of a node's error is read; a partial answer may hang on it (nodes.md 4.4.2)."""

LARGE_BODY_BYTES = 64 * 1024
"""The size above which a request's body is freed as soon as it is needed no more."""

_SANE_ID = re.compile(r"[!-~]{1,128}")
"""The ids of nodes that may stand in a header: any that real servers give."""


class Attempt:
    """One request at one node.

    ``spoke`` says that something of the answer has gone out: from then on no other node can be
    asked. ``on_content`` is called with the lease once the answer's first content has come from the
    node, if that streams.
    """

    def __init__(
        self,
        client: NodeClient,
        kept: KeptState,
        clock: IReactorTime,
        patience: Patience,
        exchange: Exchange,
        translation: Translation,
        downstream: Downstream,
        record: RequestRecord,
        lease: Lease,
        large: LargeAnswers,
    ) -> None:
        self.responder: Responder = translation.make_responder()
        self.spoke = False
        self.awaits_id = translation.is_kept
        self.on_content: Callable[[Lease], None] | None = None
        self.client = client
        self._kept_by_event = client.engine.kept_by_event
        self._kept = kept
        self._large = large
        self._clock = clock
        self._exchange = exchange
        self._translation = translation
        self._downstream = downstream
        self._record = record
        self.lease = self._lease = lease
        self._asked_at = clock.seconds()
        self._wait = Wait(
            patience,
            record.started_at,
            self.responder.streams,
            # While only keep-alives were sent, another attempt may have sent the last.
            record.signed_at,
            self._asked_at,
        )
        self._body: UpstreamBody | None = None
        self._reach = Reach.UNSENT
        self._failure: CortexError | None = None
        self._waiting_for: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        wait, lease = self._wait, self._lease
        seconds = self._clock.seconds() - wait.began_at
        return f"<Attempt {lease.model} on {lease.node}: {self._state()}, {seconds:.1f} s>"

    def _state(self) -> str:
        if self._failure is not None:
            return "failed"
        if self._wait.paused_at is not None:
            return "paused"
        if self._wait.finished_at is not None:
            return "finished"
        return "asked" if self._body is None else "streaming"

    # The course.

    async def run(self) -> None:
        """Ask the node and relay its answer. Raises CortexError."""
        translation, exchange = self._translation, self._exchange
        self._rearm()
        if exchange.follows:
            record = self._record
            checking = self._kept.check(
                exchange.follows, self._lease.node, record.request_id, record.caller.name
            )
            await self._await(Deferred.fromCoroutine(checking))
        self._reach = Reach.UNANSWERED
        response = await self._await(
            self.client.open(
                translation.path,
                translation.body,
                {**dict(translation.headers), "X-Request-ID": self._record.request_id},
                translation.method,
            )
        )
        self._wait.heard_at = self._clock.seconds()
        if response.code != 200:
            self._reach = Reach.ANSWERED
            said = await self._await(collect(response, MAX_ERROR_BYTES))
            raise read_error(response.code, said, header_text(response.headers, "retry-after"))
        if translation.streams:
            await self._relay_stream(response)
        else:
            await self._relay_whole(response)

    async def _await(self, waiting_for: Deferred[Any]) -> Any:
        """Await something of the node's. A failure on the way to the node is a BadGateway."""
        self._waiting_for = waiting_for
        try:
            return await waiting_for
        except CortexError:
            raise
        except Exception as error:
            # A wait that was cancelled may fail with any error, not with CancelledError alone.
            if self._failure is not None:
                raise self._failure from None
            if self._downstream.gone or isinstance(error, CancelledError):
                raise CancelledError from None
            if is_unread(error):
                self._reach = Reach.UNSENT
            words = f"node {self._lease.node}: {describe(error)}"
            ours = own_failure(error)
            if ours is not None:
                raise ours from error
            gone = BadGateway(words, elsewhere=True)
            gone.is_cut = self._reach is Reach.UNANSWERED and is_cut(error)
            gone.ends_engine = gone.is_cut
            raise gone from error
        finally:
            self._waiting_for = None

    async def _relay_stream(self, response: Response) -> None:
        content_type = header_text(response.headers, "content-type")
        if content_type is None or not content_type.startswith(EVENT_STREAM):
            body = await self._await(collect(response, MAX_ERROR_BYTES))
            raise read_other_kind(content_type, body, "an event stream")
        self._body = UpstreamBody(
            self, self._downstream, self._record, self._lease.node, self._clock, self._wait
        )
        response.deliverBody(self._body)
        await self._await(self._body.over)

    async def _relay_whole(self, response: Response) -> None:
        body = await self._await(collect(response))
        self._record.note_content(self._clock.seconds())
        given = header_text(response.headers, "content-type")
        wanted = self.responder.content_type
        if is_page(given) or (self._translation.keeps_content_type and is_text(given)):
            raise read_other_kind(given, body, wanted)
        if self._translation.keeps_content_type:
            self.responder.content_type = given or wanted
        kept: Sequence[Kept] = ()
        if self._translation.keeps_content_type:
            answer = self.responder.take_body(body)  # sound, which nobody decodes
        elif is_light(body):
            answer = self.responder.take_body(body)
            kept = self.client.engine.kept_by_body(body)
        else:
            parcel = Parcel(body)
            del body
            answer, kept = await self._take_large(parcel)
        self.note_id()
        self._remember((*self._exchange.keeps, *kept))
        self.respond(answer)

    async def _take_large(self, body: Parcel) -> tuple[bytes, Sequence[Kept]]:
        """Have a whole answer read elsewhere; the node has nothing more to send meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        taking = self._large.take(
            self.responder,
            self._translation.make_responder,
            self._exchange.outcome,
            self.client.engine.kept_by_body,
            body,
            self._record.request_id,
        )
        taken: tuple[bytes, Sequence[Kept]] = await self._await(Deferred.fromCoroutine(taking))
        return taken

    def has_heard(self, since: float) -> bool:
        """Whether the node has sent a byte of the answer after ``since``."""
        return has_heard(self._wait, since, self._asked_at)

    def reach(self, error: CortexError) -> Reach:
        """Return how far the attempt got that failed with this error."""
        # Inside a stream a node states its errors; a stream that only ends says nothing.
        if self._reach is Reach.UNANSWERED and not isinstance(error, (BadGateway, NodeTimeout)):
            return Reach.ANSWERED
        return self._reach

    def fail(self, error: CortexError) -> None:
        """End the attempt with this error, wherever it is; an answer that has finished is whole."""
        body = self._body
        if body is not None and self.responder.finished and not body.over.called:
            body.end()
            return
        self._failure = error
        if self._waiting_for is not None:
            self._waiting_for.cancel()

    def release_pace(self) -> None:
        """Stop letting the client pace the node, which must precede the end of its answer."""
        if self._body is not None:
            self._body.release_pace()

    def close(self) -> None:
        """Let go of everything: the timer, the client's pacing, the upstream connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._record.usage = self.responder.usage
        self._record.reading = self._reading()
        self._record.upstream_id = self.responder.upstream_id
        if self._body is not None:
            self._body.close()
            self._body = None  # else the two would hold each other until the garbage collector runs

    def _reading(self) -> Reading | None:
        """Return what the end shows of the prompt, ``None`` if the node has not read it."""
        if self._reach is Reach.UNSENT:
            return None
        record, prompt = self._record, self._exchange.prompt
        first_at, is_whole = record.first_content_at, not self._translation.streams
        if first_at is None:
            is_left = self._downstream.gone or isinstance(self._failure, NodeTimeout)
            if not is_left:
                return None
            tokens = 0 if prompt is None else prompt.tokens
            return Reading(tokens, is_left=True, is_whole=is_whole)
        usage = record.usage
        tokens, cached = (0, None) if usage is None else (usage.prompt_tokens, usage.cached_tokens)
        now = self._clock.seconds()
        return Reading(tokens, cached, first_at - self._asked_at, now - first_at, is_whole=is_whole)

    # The client's answer, and the things that the node keeps.

    def begin(self) -> None:
        """Begin the client's answer in pieces, unless it has begun."""
        self.spoke = True
        if len(self._translation.body) > LARGE_BODY_BYTES:
            self._forget_body()
        self._begin()

    def _forget_body(self) -> None:
        """Let go of the request: no other attempt follows, and the stream may take minutes."""
        self._translation = replace(self._translation, body=b"", whole=None)
        self._exchange.translations.forget()
        self._downstream.forget_body()

    def _begin(self) -> None:
        if not self._downstream.started:
            self._downstream.begin(self.responder.content_type, self._headers())

    def respond(self, body: bytes) -> None:
        """Send the client's answer whole, or end its stream with it."""
        if self.responder.streams:
            self.begin()
            self._downstream.finish(body)
            return
        self.spoke = True
        self._downstream.respond(self.responder.content_type, self._headers(), body)

    def _headers(self) -> dict[str, str]:
        record = self._record
        return {
            **translation_headers(self._translation),
            "X-Cortex-Node": self._lease.node,
            "X-Cortex-Model": self._exchange.model,
            "X-Cortex-Decision": record.decision,
            "X-Cortex-Queue-Ms": str(round(record.queued_seconds * 1000)),
            "X-Cortex-Load-Ms": str(round(record.load_seconds * 1000)),
            **({"X-Cortex-Affinity": record.affinity} if record.affinity else {}),
            **eta_headers(record.expected_seconds),
            **upstream_id_headers(self.responder.upstream_id),
        }

    def note_id(self) -> None:
        """Note that the node keeps the answer, once it has an id by which it may be asked for."""
        if self.awaits_id and self.responder.upstream_id:
            self.awaits_id = False
            self._remember([Kept(StateKind.RESPONSE, self.responder.upstream_id)])

    def note_content(self) -> None:
        """Tell that content has come, the first time."""
        tell, self.on_content = self.on_content, None
        if tell is not None:
            tell(self._lease)

    def note_event(self, event: ServerSentEvent) -> None:
        """Note the things that the node keeps for the client, as an event of its stream states."""
        kept = self._kept_by_event(event)
        if kept:
            self._remember(kept)

    def _remember(self, kept: Sequence[Kept]) -> None:
        """Remember where these things are: the client may ask for them at once."""
        model = self._lease.model if self._exchange.goes_with_model else None
        owner = self._record.caller.name
        self._kept.remember(kept, self._lease.node, model, self.client, owner)

    # Patience.

    def hasten(self) -> None:
        """Arm the timer anew: something may be due before it fires."""
        if self._timer is not None:
            self._timer.cancel()
            self._rearm()

    def _rearm(self) -> None:
        delay = due(self._wait) - self._clock.seconds()
        self._timer = self._clock.callLater(max(0.0, delay), self._look)

    def _look(self) -> None:
        """Act on what the wait has come to; most often nothing, since bytes only move its times."""
        self._timer = None
        now = self._clock.seconds()
        match verdict(self._wait, now):
            case Verdict.READER_GONE:
                self._downstream.drop()
                return
            case Verdict.ANSWER_OVER if self._body is not None:
                self._body.end()
                return
            case Verdict.NODE_SILENT:
                self.fail(self._silence())
                return
            case Verdict.SIGN_DUE:
                try:
                    sign = self.responder.waiting(now - self._wait.began_at)
                except Exception as failure:
                    self.fail(as_error(failure, self._lease.node, self._record.request_id))
                    return
                self._begin()
                self._wait.wrote_at = self._record.signed_at = now
                self._downstream.write(sign)
        self._rearm()

    def _silence(self) -> NodeTimeout:
        return NodeTimeout(
            f"node {self._lease.node} sent nothing for {self._wait.patience.upstream:g} s "
            "(gateway.upstream_timeout)"
        )


def upstream_id_headers(upstream_id: str | None) -> dict[str, str]:
    """Return the header with the id that the node gave its answer, if it gave a plain one."""
    if upstream_id is None or not _SANE_ID.fullmatch(upstream_id):
        return {}
    return {"X-Cortex-Upstream-Id": upstream_id}


def translation_headers(translation: Translation) -> dict[str, str]:
    """Return the headers that name the approximations of a translation, and what it left out."""
    headers = {}
    if translation.approximations:
        headers["X-Cortex-Translation"] = "approx=" + ",".join(translation.approximations)
    if translation.left_out:
        headers["X-Cortex-Hygiene"] = ",".join(translation.left_out)
    return headers
