"""The shared base of all measures: the loop, the upstream's records, and the closing of clients."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.load import Client, Tally
from bench.loop import Loop
from bench.processes import get
from bench.targets import Target
from bench.wire import Knobs, chat_request

# How long the upstream may take to see that a client has gone before that counts as never.
NEVER_SECONDS = 2.0
WARM_UP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of the measures: seconds of each, counts of streams and samples."""

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


class Harness:
    """One loop and one upstream for all measures; `failures` collects their failures."""

    def __init__(self, loop: Loop, upstream: Target, plan: Plan) -> None:
        self.loop = loop
        self.upstream = upstream
        self.plan = plan
        self.failures: list[str] = []
        self._numbers = itertools.count()

    def new_id(self) -> str:
        """Return a unique request id."""
        return f"bench-{next(self._numbers)}"

    def note(self, target: Target, failures: list[str]) -> None:
        """Record failures for the report."""
        self.failures.extend(f"{target.name}: {failure}" for failure in failures)

    @contextmanager
    def closing(self, clients: list[Client]) -> Iterator[None]:
        """Close the clients at the end, and drop their pending timers."""
        try:
            yield
        finally:
            self.loop.clear_timers()
            for client in clients:
                client.close()

    def run_until_settled(self, tally: Tally, requests: int, seconds: float) -> None:
        """Run until `requests` requests have ended, for at most `seconds`."""
        self.loop.run(time.monotonic() + seconds, lambda: tally.settled >= requests)

    def warm_up(self, target: Target) -> None:
        """Send a few requests of every kind, so that one-time work is done."""
        for streaming in (False, True):
            tally = Tally()
            request = chat_request(Knobs(chunks=20, gap_ms=1), stream=streaming)
            clients = [
                Client(self.loop, target.address, request, tally, streaming=streaming)
                for _ in range(10)
            ]
            with self.closing(clients):
                for client in clients:
                    client.open()
                self.run_until_settled(tally, len(clients), WARM_UP_SECONDS)
            self.note(target, tally.failures)

    def wait_until_idle(self) -> None:
        """Wait for a target that continues streams after their clients left, for a limited time."""
        deadline = time.monotonic() + NEVER_SECONDS
        while self.under_way() and time.monotonic() < deadline:
            time.sleep(0.02)

    def closed(self) -> dict[str, float]:
        """Return the abandoned requests: the time of each close by id, as the upstream saw it."""
        return {each["id"]: each["closed_at"] for each in self._ask("/bench/closed")}

    def under_way(self) -> list[dict[str, Any]]:
        """Return the upstream's answers in progress: `id` and `sent_bytes` of each."""
        answers: list[dict[str, Any]] = self._ask("/bench/open")
        return answers

    def _ask(self, path: str) -> Any:
        return json.loads(get(self.upstream.address, path)[1])
