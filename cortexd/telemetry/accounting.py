"""The account of one request: its metrics and its one line in the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import NOBODY, Caller
from cortexd.dialects.wire.exchange import Usage
from cortexd.errors import CortexError
from cortexd.fleet.learning.prefills import Reading
from cortexd.logs import get_logger
from cortexd.telemetry.batches import Distribution
from cortexd.telemetry.metrics import Metrics
from cortexd.text import scrubbed

GAPS_KEPT = 64
"""How many times between contents a record collects before it counts them."""

CLIENT_GONE = "client_gone"
BROKEN = "broken"

log = get_logger("cortexd.request")


@dataclass(slots=True)
class RequestRecord:
    """Notes on one request while it is served; times in seconds of the clock.

    ``caller`` is who sends the request, and ``wait`` for how many seconds it will wait for a
    replica, ``None`` for as long as the queue lets it. ``expected_seconds`` is how long it was
    expected to wait when it began to, ``None`` if it never did. ``session`` is the conversation
    that its headers name, and ``left_out`` names the lines that the prompt at the node lacks.
    ``signed_at`` is when a keep-alive was last sent, ``None`` before that. ``affinity`` says how
    the replica fits what the request goes on with, and ``reading`` is what the end of the last
    attempt shows of the prompt.
    """

    request_id: str
    route: str
    client: str
    started_at: float
    caller: Caller = NOBODY
    wait: float | None = None
    session: str = ""
    left_out: tuple[str, ...] = ()
    model: str | None = None
    node: str | None = None
    streams: bool = False
    attempts: int = 0
    status: int = 200
    error: CortexError | None = None
    client_gone: bool = False
    broken: bool = False
    signed_at: float | None = None
    first_content_at: float | None = None
    last_content_at: float | None = None
    bytes_out: int = 0
    usage: Usage | None = None
    upstream_id: str | None = None
    decision: str = ""
    affinity: str = ""
    reading: Reading | None = None
    expected_seconds: float | None = None
    queued_seconds: float = 0.0
    load_seconds: float = 0.0
    inter_token: Distribution | None = field(default=None, repr=False)
    gaps: list[float] = field(default_factory=list, repr=False)

    @property
    def outcome(self) -> str:
        """How the request ended for the client, in one word for people and metrics."""
        if self.client_gone:
            return CLIENT_GONE
        return BROKEN if self.broken else str(self.status)

    def note_grant(
        self, queued_seconds: float, load_seconds: float, decision: str, affinity: str = ""
    ) -> None:
        """Note how the request came by its replica; the times of several grants add up."""
        self.queued_seconds += queued_seconds
        self.load_seconds += load_seconds
        self.decision, self.affinity = decision, affinity

    def note_content(self, now: float) -> None:
        """Note that the node has sent content."""
        if self.first_content_at is None:
            self.first_content_at = now
        elif self.last_content_at is not None:
            self.gaps.append(now - self.last_content_at)
            if len(self.gaps) >= GAPS_KEPT:
                self.count_gaps()
        self.last_content_at = now

    def count_gaps(self) -> None:
        """Count the times between contents that the record has collected since the last count.

        They are counted many at once, because one by one, each between two reads of the network,
        they cost many times as much.
        """
        if self.inter_token is not None:
            self.inter_token.observe_all([max(0.0, gap) for gap in self.gaps])
        self.gaps.clear()


class Accountant:
    """Opens a record for each request and closes it into metrics and the log."""

    def __init__(self, metrics: Metrics, clock: IReactorTime) -> None:
        self._metrics = metrics
        self._clock = clock
        # The cache finds the child of some labels in one look into a dictionary. Prometheus's own
        # ``labels`` makes text of each value and takes a lock, and a request needs six children.
        self._requests = cache(metrics.requests.labels)
        self._duration = cache(metrics.duration.labels)
        self._first_token = cache(metrics.first_token.labels)
        self._tokens_per_second = cache(metrics.tokens_per_second.labels)
        self._tokens = cache(metrics.tokens.labels)
        self._cached_tokens = cache(metrics.cached_tokens.labels)

    def forget_metrics(self) -> None:
        """Look the metrics up anew: those of a node were removed."""
        for found in (
            self._requests,
            self._duration,
            self._first_token,
            self._tokens_per_second,
            self._tokens,
            self._cached_tokens,
        ):
            found.cache_clear()

    def open(
        self, request_id: str, route: str, client: str, caller: Caller = NOBODY
    ) -> RequestRecord:
        """Return the record of a request that has just come in whole."""
        return RequestRecord(request_id, route, client, self._clock.seconds(), caller)

    def note_attempt(self, record: RequestRecord, model: str, node: str) -> None:
        """Note that a request goes to the node; forget what an earlier attempt brought."""
        record.count_gaps()
        record.model, record.node = model, node
        record.attempts += 1
        record.first_content_at = record.last_content_at = record.usage = None
        record.upstream_id = record.reading = None
        record.inter_token = self._metrics.inter_token.labels(model, node)

    def note_failed_attempt(self, record: RequestRecord, error: CortexError) -> None:
        """Note that the node failed the request, which may go to another."""
        code = error.code or error.openai_type
        self._metrics.upstream_errors.labels(record.node, code).inc()
        log.warning(
            "attempt_failed",
            request_id=record.request_id,
            node=record.node,
            model=record.model,
            code=code,
            # A node that refuses a request may quote from it, so its words stay out of the log.
            reason=scrubbed(error.message) if error.elsewhere else None,
        )

    def close(self, record: RequestRecord, *, is_probe: bool = False) -> None:
        """Count the request and write its line, for a health probe at level debug."""
        now = self._clock.seconds()
        record.count_gaps()
        duration = max(0.0, now - record.started_at)
        model, node = record.model or "unknown", record.node or "none"
        self._metrics.bear("request", record.route, model, node)
        self._requests(record.route, model, node, record.outcome).inc()
        self._duration(record.route, model, node).observe(duration)
        first_token = None
        if record.first_content_at is not None:
            first_token = max(0.0, record.first_content_at - record.started_at)
            self._first_token(model, node).observe(first_token)
        rate = _tokens_per_second(record)
        if rate is not None:
            self._tokens_per_second(model, node).observe(rate)
        usage = record.usage
        if usage is not None:
            self._tokens(model, node, "prompt").inc(usage.prompt_tokens)
            self._tokens(model, node, "completion").inc(usage.completion_tokens)
            if usage.cached_tokens:
                self._cached_tokens(model, node).inc(usage.cached_tokens)
        write = log.debug if is_probe else log.info
        write(
            "request",
            request_id=record.request_id,
            route=record.route,
            client=record.client,
            key=record.caller.name or None,
            model=model,
            node=node,
            stream=record.streams,
            status=record.status,
            outcome=record.outcome,
            code=record.error.code or record.error.openai_type if record.error else None,
            attempts=record.attempts,
            decision=record.decision or None,
            affinity=record.affinity or None,
            expected=None if record.expected_seconds is None else round(record.expected_seconds, 4),
            queued=round(record.queued_seconds, 4) if record.queued_seconds else None,
            load=round(record.load_seconds, 4) if record.load_seconds else None,
            duration=round(duration, 4),
            ttft=None if first_token is None else round(first_token, 4),
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            tokens_per_second=None if rate is None else round(rate, 2),
            bytes_out=record.bytes_out,
            upstream_id=record.upstream_id,
            hygiene=",".join(record.left_out) or None,
        )


def _tokens_per_second(record: RequestRecord) -> float | None:
    """Return the pace of the answer, or ``None`` where too little of it came to measure one.

    The time to the first token belongs to the prompt, so the pace is of the tokens after it.
    """
    if record.usage is None or record.first_content_at is None or record.last_content_at is None:
        return None
    tokens, seconds = (
        record.usage.completion_tokens - 1,
        (record.last_content_at - record.first_content_at),
    )
    return tokens / seconds if tokens > 0 and seconds > 0 else None
