"""The repeated measures: each takes a target and returns figures by the names in `bench.report`.

Figures of one measure are comparable only between targets of the same round, because client, target
and upstream share the machine, and other programs may keep it busy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf

from bench.figures import Figures, percentile
from bench.harness import NEVER_SECONDS, Harness
from bench.load import Client, Tally
from bench.processes import machine_nanoseconds
from bench.targets import Target
from bench.wire import Knobs, chat_request

GAP_MS = 10
CHUNKS = 100
JSON_CONNECTIONS = 32
SATURATED_STREAMS = 4
ENDLESS_CHUNKS = 10_000_000
CLIENT_GONE_PHASES = {
    "before_headers": Knobs(chunks=2, before_headers_ms=8000),
    "before_first_token": Knobs(chunks=2, first_ms=8000),
    "mid_stream": Knobs(chunks=1000, gap_ms=GAP_MS),
}
# When the first client leaves: by then a request has long reached the upstream, through any of the
# targets.
CLIENT_GONE_LEAD_SECONDS = 0.15
# No multiple of the 10 ms gap, so that clients leave at every point of it.
CLIENT_GONE_STEP_SECONDS = 0.007
CLIENT_GONE_SECONDS = 5.0
SETTLE_SECONDS = 0.3


def paced_streams(harness: Harness, target: Target, streams: int, seconds: float) -> Figures:
    """Keep `streams` streams of 100 chunks open, a chunk every 10 ms, replacing each that ends.

    `cpu_us_per_chunk` holds the set-up of a request once every 100 chunks. Times to the first token
    run from the sending of the request.
    """
    # The starts are spread over the second that a stream takes, and, by one gap more than that,
    # over the 10 ms of a gap: without it all streams would send in step.
    spread = (CHUNKS + 1) * GAP_MS / 1000
    window = _window(
        harness,
        target,
        chat_request(Knobs(chunks=CHUNKS, gap_ms=GAP_MS), stream=True),
        clients=streams,
        streaming=True,
        spread=spread,
        seconds=seconds,
    )
    figures = {
        "chunks_per_second": window.tokens / window.seconds,
        "ttft_p50_ms": percentile(window.first_token_seconds, 0.5) * 1e3,
        "ttft_p99_ms": percentile(window.first_token_seconds, 0.99) * 1e3,
        **window.busy(),
    }
    if target.pids:
        figures["cpu_us_per_chunk"] = window.cpu_us / max(window.tokens, 1)
    return {f"streams_{streams}.{name}": value for name, value in figures.items()}


def json_requests(harness: Harness, target: Target) -> Figures:
    """Keep 32 connections busy with small non-streaming requests."""
    window = _window(
        harness,
        target,
        chat_request(Knobs(chunks=2), stream=False),
        clients=JSON_CONNECTIONS,
        streaming=False,
        spread=0.1,
        seconds=harness.plan.json_seconds,
    )
    figures = {
        "json.requests_per_second": window.answers / window.seconds,
        "json.latency_p50_ms": percentile(window.first_token_seconds, 0.5) * 1e3,
    }
    if target.pids:
        figures["json.cpu_us_per_request"] = window.cpu_us / max(window.answers, 1)
    return figures


def saturated(harness: Harness, target: Target) -> Figures:
    """Let 4 streams run as fast as they can."""
    window = _window(
        harness,
        target,
        chat_request(Knobs(chunks=ENDLESS_CHUNKS), stream=True),
        clients=SATURATED_STREAMS,
        streaming=True,
        spread=0.1,
        seconds=harness.plan.saturated_seconds,
    )
    figures = {"saturated.chunks_per_second": window.tokens / window.seconds}
    if target.pids:
        figures["saturated.cpu_us_per_chunk"] = window.cpu_us / max(window.tokens, 1)
    return figures


def client_gone(harness: Harness, target: Target) -> Figures:
    """Close clients in three phases, and measure how many ms later the upstream saw each close."""
    figures: Figures = {}
    for phase, knobs in CLIENT_GONE_PHASES.items():
        delays = _client_gone_delays(harness, target, knobs)
        figures[f"gone.{phase}_p50_ms"] = percentile(delays, 0.5) * 1e3
        figures[f"gone.{phase}_max_ms"] = percentile(delays, 1) * 1e3
    return figures


@dataclass(frozen=True, slots=True)
class _Usage:
    """CPU time used until a moment, in ns: by target, upstream, this process, and all there is."""

    at: float
    target: int
    upstream: int
    load: int
    machine: int

    @classmethod
    def now(cls, target: Target, upstream: Target) -> _Usage:
        return cls(
            time.monotonic(),
            target.cpu_nanoseconds(),
            upstream.cpu_nanoseconds(),
            time.process_time_ns(),
            machine_nanoseconds(),
        )


@dataclass(frozen=True, slots=True)
class _Window:
    """What was used and seen between two moments."""

    begin: _Usage
    end: _Usage
    tokens: int
    answers: int
    first_token_seconds: list[float]

    @property
    def seconds(self) -> float:
        return self.end.at - self.begin.at

    @property
    def cpu_us(self) -> float:
        return (self.end.target - self.begin.target) / 1e3

    def busy(self) -> Figures:
        """Percent of one core that each of the three took, and all other programs together."""
        used = {
            "target": self.end.target - self.begin.target,
            "upstream": self.end.upstream - self.begin.upstream,
            "load": self.end.load - self.begin.load,
        }
        machine = self.end.machine - self.begin.machine
        # Counted in ticks of 10 ms, unlike the others, so it can come out a little below nothing.
        used["others"] = max(machine - sum(used.values()), 0)
        return {f"{name}_busy_percent": ns / 1e7 / self.seconds for name, ns in used.items()}


def _window(
    harness: Harness,
    target: Target,
    request: bytes,
    *,
    clients: int,
    streaming: bool,
    spread: float,
    seconds: float,
) -> _Window:
    """Start clients one after the other within `spread` seconds, let them settle, then measure."""
    tally = Tally()
    crowd = [
        Client(harness.loop, target.address, request, tally, streaming=streaming, repeat=True)
        for _ in range(clients)
    ]
    with harness.closing(crowd):
        start = time.monotonic()
        for number, client in enumerate(crowd):
            harness.loop.call_at(start + spread * number / clients, client.open)
        harness.loop.run(start + spread + SETTLE_SECONDS)
        begin = _Usage.now(target, harness.upstream)
        tally.restart(begin.at)
        harness.loop.run(begin.at + seconds)
        end = _Usage.now(target, harness.upstream)
    harness.note(target, tally.failures)
    if not tally.tokens:
        harness.note(target, ["no token came within the window"])
    harness.wait_until_idle()
    return _Window(begin, end, tally.tokens, tally.answers, tally.first_token_seconds)


def _client_gone_delays(harness: Harness, target: Target, knobs: Knobs) -> list[float]:
    """List the seconds from each client's close to the upstream's; infinite without one."""
    tally = Tally()
    left: dict[str, float] = {}
    crowd: list[Client] = []
    with harness.closing(crowd):
        start = time.monotonic()
        for number in range(harness.plan.client_gone_samples):
            request_id = harness.new_id()
            request = chat_request(replace(knobs, id=request_id), stream=True)
            client = Client(harness.loop, target.address, request, tally, streaming=True)
            crowd.append(client)
            client.open()

            def leave(client: Client = client, request_id: str = request_id) -> None:
                left[request_id] = client.close()

            leave_at = start + CLIENT_GONE_LEAD_SECONDS + number * CLIENT_GONE_STEP_SECONDS
            harness.loop.call_at(leave_at, leave)
        harness.loop.run(start + CLIENT_GONE_SECONDS, lambda: len(left) == len(crowd))
    harness.note(target, tally.failures)
    deadline = time.monotonic() + NEVER_SECONDS
    while True:
        closed = harness.closed()
        if left.keys() <= closed.keys() or time.monotonic() > deadline:
            return [closed.get(each, inf) - left_at for each, left_at in left.items()]
        time.sleep(0.02)
