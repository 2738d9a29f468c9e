"""The measures: each takes a target and answers figures by name, in the units that `bench.report`
prints.

Figures of one measure are comparable between targets of the same round only: client, target and
upstream share the machine, and it may be busy with something else.
"""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from bench.figures import Figures, percentile
from bench.load import CONNECT_SECONDS, RECEIVE_BYTES, Client, Tally
from bench.loop import Loop
from bench.processes import get
from bench.targets import Target
from bench.wire import Knobs, chat_request

MIB = 1 << 20
CLIENT_GONE_PHASES = {
    "before_headers": Knobs(chunks=2, before_headers_ms=8000),
    "before_first_token": Knobs(chunks=2, first_ms=8000),
    "mid_stream": Knobs(chunks=1000, gap_ms=10),
}
# When the first client leaves: by then a request has long reached the upstream, through any of the
# targets.
CLIENT_GONE_LEAD_SECONDS = 0.15
# No multiple of the 10 ms gap, so that clients leave at every point of it.
CLIENT_GONE_STEP_SECONDS = 0.007
# How long a client's leaving may take to reach the upstream before it counts as never.
NEVER_SECONDS = 2.0
# How many streams may be on their way to their first token at once: fewer than any target's listen
# backlog.
OPENING_AT_ONCE = 32
# How long a target has to close what its clients all left at once.
MASS_CLOSE_SECONDS = 1.0
STALLED_CHUNK_BYTES = 4096
STALLED_CHUNKS = 25_600
STALLED_READ_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the measures take: seconds each, counts of streams and samples."""

    rounds: int = 3
    few_streams_seconds: float = 5.0
    many_streams_seconds: float = 3.5
    json_seconds: float = 2.5
    saturated_seconds: float = 1.5
    client_gone_samples: int = 20
    open_streams: int = 1000
    open_streams_seconds: float = 2.5
    stalled_seconds: float = 3.0


QUICK = Plan(
    rounds=1,
    few_streams_seconds=3.0,
    many_streams_seconds=2.0,
    json_seconds=1.5,
    saturated_seconds=1.0,
    open_streams=300,
    open_streams_seconds=1.5,
    stalled_seconds=1.5,
)


@dataclass(frozen=True, slots=True)
class _Usage:
    """CPU time used until a moment, in ns, by the target, the upstream and this process."""

    at: float
    target: int
    upstream: int
    load: int

    @classmethod
    def now(cls, target: Target, upstream: Target) -> _Usage:
        return cls(
            time.monotonic(),
            target.cpu_nanoseconds(),
            upstream.cpu_nanoseconds(),
            time.process_time_ns(),
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
        """Percent of one core that each of the three took."""
        used = {
            "target": self.end.target - self.begin.target,
            "upstream": self.end.upstream - self.begin.upstream,
            "load": self.end.load - self.begin.load,
        }
        return {f"{name}_busy_percent": ns / 1e7 / self.seconds for name, ns in used.items()}


class _StalledReader:
    """A client that reads the beginning of an endless stream, then nothing more."""

    def __init__(self, target: Target, request_id: str) -> None:
        self.target = target
        self.id = request_id
        self.grown_bytes = 0
        self._before = 0
        self._socket = socket.socket()

    def begin(self) -> None:
        """Send the request and read a little of the answer; OSError where it does not come."""
        self._before = self.target.resident_bytes()
        knobs = Knobs(id=self.id, chunks=STALLED_CHUNKS, chunk_bytes=STALLED_CHUNK_BYTES)
        self._socket.settimeout(CONNECT_SECONDS)
        self._socket.connect(self.target.address)
        self._socket.sendall(chat_request(knobs, stream=True))
        left = STALLED_READ_BYTES
        while left > 0:
            data = self._socket.recv(min(left, RECEIVE_BYTES))
            if not data:
                raise ConnectionError(f"{self.target.name} closed a stream that had just begun")
            left -= len(data)

    def sample(self) -> None:
        """Keep the most that the target has grown since before the request."""
        self.grown_bytes = max(self.grown_bytes, self.target.resident_bytes() - self._before)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


class Bench:
    """The measures, over one loop and one upstream."""

    def __init__(self, loop: Loop, upstream: Target, plan: Plan) -> None:
        self._loop = loop
        self._upstream = upstream
        self._plan = plan
        self._ids = (f"bench-{number}" for number in itertools.count())
        self.failures: list[str] = []

    # --- The measures that are repeated in every round.

    def paced_streams(self, target: Target, streams: int, seconds: float) -> Figures:
        """Keep `streams` streams of 100 chunks open, one chunk every 10 ms, each ended one followed
        by the next.

        `cpu_us_per_chunk` holds the set-up of a request once every 100 chunks. Times to the first
        token are in ms.
        """
        request = chat_request(Knobs(chunks=100, gap_ms=10), stream=True)
        # The starts are spread over the second that a stream takes, and, by one gap more than that,
        # over the 10 ms of a gap: without it all streams would send in step.
        window = self._window(
            target, request, streams, streaming=True, ramp=1.3, spread=1.01, seconds=seconds
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

    def json_requests(self, target: Target) -> Figures:
        """Keep 32 connections busy with small non-streaming requests."""
        request = chat_request(Knobs(chunks=2), stream=False)
        window = self._window(
            target,
            request,
            clients=32,
            streaming=False,
            ramp=0.3,
            spread=0.1,
            seconds=self._plan.json_seconds,
        )
        figures = {
            "json.requests_per_second": window.answers / window.seconds,
            "json.latency_p50_ms": percentile(window.first_token_seconds, 0.5) * 1e3,
        }
        if target.pids:
            figures["json.cpu_us_per_request"] = window.cpu_us / max(window.answers, 1)
        return figures

    def saturated(self, target: Target) -> Figures:
        """Let 4 streams run as fast as they can."""
        request = chat_request(Knobs(chunks=10_000_000), stream=True)
        window = self._window(
            target,
            request,
            clients=4,
            streaming=True,
            ramp=0.3,
            spread=0.1,
            seconds=self._plan.saturated_seconds,
        )
        figures = {"saturated.chunks_per_second": window.tokens / window.seconds}
        if target.pids:
            figures["saturated.cpu_us_per_chunk"] = window.cpu_us / max(window.tokens, 1)
        return figures

    def client_gone(self, target: Target) -> Figures:
        """Close clients in each of three phases, and tell how many ms later the upstream saw its
        connection closed.
        """
        figures: Figures = {}
        for phase, knobs in CLIENT_GONE_PHASES.items():
            delays = self._client_gone_delays(target, knobs)
            figures[f"gone.{phase}_p50_ms"] = percentile(delays, 0.5) * 1e3
            figures[f"gone.{phase}_max_ms"] = max(delays) * 1e3
        return figures

    # --- The measures of memory, each on targets started for it: memory once taken is seldom given
    # back.

    def idle_memory(self, target: Target) -> Figures:
        """Resident MiB when started, and after a few requests of every kind."""
        fresh = target.resident_bytes()
        self.warm_up(target)
        return {
            "memory.fresh_mib": fresh / MIB,
            "memory.idle_mib": target.resident_bytes() / MIB,
        }

    def open_streams_memory(self, target: Target) -> Figures:
        """Resident MiB that 1000 open streams add, each with one chunk a second, and how many the
        upstream still sees after.
        """
        before = target.resident_bytes()
        tally = Tally()
        request = chat_request(Knobs(chunks=10_000, gap_ms=1000), stream=True)
        opened: list[Client] = []

        def open_next() -> None:
            if len(opened) < self._plan.open_streams:
                client = Client(
                    self._loop,
                    target.address,
                    request,
                    tally,
                    streaming=True,
                    on_first_token=open_next,
                )
                opened.append(client)
                client.open()

        with self._clients(opened):
            for _ in range(OPENING_AT_ONCE):
                open_next()
            established = self._loop.run(
                time.monotonic() + 30,
                lambda: (
                    len(tally.first_token_seconds) + len(tally.failures) >= self._plan.open_streams
                ),
            )
            if not established or tally.failures:
                self._note(
                    target, [f"{len(tally.first_token_seconds)} streams open", *tally.failures]
                )
            self._loop.run(time.monotonic() + self._plan.open_streams_seconds)
            grown = target.resident_bytes() - before
        time.sleep(MASS_CLOSE_SECONDS)
        return {
            "memory.per_1000_streams_mib": grown / MIB * 1000 / self._plan.open_streams,
            "memory.streams_left": float(len(self._open_answers())),
        }

    def stalled_readers(self, targets: Iterable[Target]) -> dict[str, Figures]:
        """Let one client of each target stop reading a stream of 100 MB: resident MiB grown, MiB
        the upstream sent.
        """
        readers = [_StalledReader(target, next(self._ids)) for target in targets]
        try:
            for reader in readers:
                reader.begin()
            deadline = time.monotonic() + self._plan.stalled_seconds
            while time.monotonic() < deadline:
                time.sleep(0.1)
                for reader in readers:
                    reader.sample()
            sent = {answer["id"]: answer["sent_bytes"] for answer in self._open_answers()}
        finally:
            for reader in readers:
                reader.close()
        everything = STALLED_CHUNKS * STALLED_CHUNK_BYTES
        return {
            reader.target.name: {
                "stalled.grown_mib": reader.grown_bytes / MIB,
                "stalled.sent_mib": sent.get(reader.id, everything) / MIB,
            }
            for reader in readers
        }

    # --- What they share.

    def warm_up(self, target: Target) -> None:
        """Send a few requests of every kind, so that what is done once is done."""
        for streaming in (False, True):
            tally = Tally()
            request = chat_request(Knobs(chunks=20, gap_ms=1), stream=streaming)
            clients = [
                Client(self._loop, target.address, request, tally, streaming=streaming)
                for _ in range(10)
            ]
            with self._clients(clients):
                for client in clients:
                    client.open()
                self._run_until_settled(tally, len(clients), seconds=5)
            self._note(target, tally.failures)

    def wait_until_idle(self) -> None:
        """Give a target that leaves streams running behind its clients a while to end them."""
        deadline = time.monotonic() + NEVER_SECONDS
        while self._open_answers() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _window(
        self,
        target: Target,
        request: bytes,
        clients: int,
        *,
        streaming: bool,
        ramp: float,
        spread: float,
        seconds: float,
    ) -> _Window:
        tally = Tally()
        crowd = [
            Client(self._loop, target.address, request, tally, streaming=streaming, repeat=True)
            for _ in range(clients)
        ]
        with self._clients(crowd):
            start = time.monotonic()
            for number, client in enumerate(crowd):
                self._loop.call_at(start + spread * number / clients, client.open)
            self._loop.run(start + ramp)
            begin = _Usage.now(target, self._upstream)
            tally.restart(begin.at)
            self._loop.run(begin.at + seconds)
            end = _Usage.now(target, self._upstream)
        self._note(target, tally.failures)
        if not tally.tokens:
            self._note(target, ["no token came within the window"])
        self.wait_until_idle()
        return _Window(begin, end, tally.tokens, tally.answers, tally.first_token_seconds)

    def _client_gone_delays(self, target: Target, knobs: Knobs) -> list[float]:
        """Answer the seconds from each client's close to the upstream's; infinite where it saw none
        in time.
        """
        tally = Tally()
        left: dict[str, float] = {}
        crowd: list[Client] = []
        with self._clients(crowd):
            start = time.monotonic()
            for number in range(self._plan.client_gone_samples):
                request_id = next(self._ids)
                request = chat_request(replace(knobs, id=request_id), stream=True)
                client = Client(self._loop, target.address, request, tally, streaming=True)
                crowd.append(client)
                client.open()

                def leave(client: Client = client, request_id: str = request_id) -> None:
                    left[request_id] = client.close()

                leave_at = start + CLIENT_GONE_LEAD_SECONDS + number * CLIENT_GONE_STEP_SECONDS
                self._loop.call_at(leave_at, leave)
            self._loop.run(time.monotonic() + 5, lambda: len(left) == len(crowd))
        self._note(target, tally.failures)
        deadline = time.monotonic() + NEVER_SECONDS
        while True:
            closed = {each["id"]: each["closed_at"] for each in self._ask("/bench/closed")}
            if left.keys() <= closed.keys() or time.monotonic() > deadline:
                return [closed.get(each, inf) - left_at for each, left_at in left.items()]
            time.sleep(0.02)

    def _run_until_settled(self, tally: Tally, requests: int, seconds: float) -> None:
        self._loop.run(time.monotonic() + seconds, lambda: tally.settled >= requests)

    @contextmanager
    def _clients(self, clients: list[Client]) -> Iterator[None]:
        """Close the clients at the end, and drop what they had still to do."""
        try:
            yield
        finally:
            self._loop.clear_timers()
            for client in clients:
                client.close()

    def _ask(self, path: str) -> Any:
        return json.loads(get(self._upstream.address, path)[1])

    def _open_answers(self) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self._ask("/bench/open")
        return answers

    def _note(self, target: Target, failures: list[str]) -> None:
        self.failures.extend(f"{target.name}: {failure}" for failure in failures)
