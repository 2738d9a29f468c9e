"""What keys cost: cortexd with many keys on file beside cortexd without any, in one run.

Both get the same requests, and each client sends a key of its own. Single windows on a shared
machine differ by more than a key can cost, so there are many short ones, in pairs: in the order
A B B A, so that a machine that becomes slower or faster during a round troubles both alike. Each
round gives one ratio. The figure is the median of all rounds, with the interval that has the true
median with a probability of 95 %, whatever the distribution is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import comb, inf
from pathlib import Path
from statistics import median
from typing import Final

from bench.harness import Harness, Plan
from bench.load import Client, Tally
from bench.loop import Loop
from bench.targets import Target, start_upstream, start_with_keys
from bench.wire import Knobs, chat_request
from cortexd.access.secret import hashed, id_of, new_key

MOST_RATIO: Final = 1.02
"""How many times the cost without keys that with keys may be."""

CHEAP: Final = 4
"""The cost of the hashes: the first request with a key pays it, and no other one."""

ROUNDS: Final = 20
CERTAINTY: Final = 0.95
SETTLE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: so many clients, each of which repeats a request; the unit of its cost."""

    name: str
    unit: str
    knobs: Knobs
    clients: int
    streaming: bool
    seconds: float


LOADS: Final = (
    Load("JSON, 32 connections", "request", Knobs(chunks=2), 32, False, 2.0),
    Load("50 streams, 10 ms gaps", "chunk", Knobs(chunks=100, gap_ms=10), 50, True, 2.5),
    Load("4 streams, no gaps", "chunk", Knobs(chunks=10_000_000), 4, True, 1.0),
)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the interval that has the median of all possible ratios, with ``CERTAINTY``.

    Its ends are two of the given ratios; too few of them allow no interval but the infinite one.
    """
    count, ordered = len(ratios), sorted(ratios)
    outside, left = (1 - CERTAINTY) / 2, 0
    below = 0.0
    while left < count // 2 and below + comb(count, left) / 2**count <= outside:
        below += comb(count, left) / 2**count
        left += 1
    return (ordered[left - 1], ordered[count - left]) if left else (0.0, inf)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The costs of one load, in µs of CPU each, round by round: with keys, and without."""

    load: Load
    keyed: tuple[float, ...]
    open: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times the cost without keys that with keys was in each round."""
        return [keyed / bare for keyed, bare in zip(self.keyed, self.open, strict=True)]

    @property
    def verdict(self) -> str:
        """Whether the cost is within the limit, as far as the rounds can tell."""
        low, high = interval(self.ratios)
        if high <= MOST_RATIO:
            return "pass"
        return "miss" if low > MOST_RATIO else "cannot tell: more rounds, or a quieter machine"

    def __str__(self) -> str:
        low, high = interval(self.ratios)
        return (
            f"{self.load.name}: {median(self.open):.1f} µs/{self.load.unit} without keys, "
            f"{median(self.keyed):.1f} with; ratio {median(self.ratios):.4f} "
            f"({low:.4f} to {high:.4f}): {self.verdict}"
        )


def keys_file(count: int) -> tuple[str, list[str]]:
    """Return the text of a keys file, and the keys that it lets in."""
    keys = [new_key() for _ in range(count)]
    tables = (
        f'[[keys]]\nname = "client-{number}"\nid = "{id_of(key)}"\nhash = "{hashed(key, CHEAP)}"\n'
        for number, key in enumerate(keys)
    )
    return "\n".join(tables), keys


def measure(count: int, rounds: int, directory: Path) -> tuple[list[Comparison], list[str]]:
    """Return the comparison of each load with ``count`` keys on file, and what went wrong."""
    text, keys = keys_file(count)
    with ExitStack() as stack:
        upstream = start_upstream(directory)
        stack.callback(upstream.stop)
        loop = Loop()
        stack.callback(loop.close)
        harness = Harness(loop, upstream, Plan())
        keyed = start_with_keys(directory / "keyed", upstream.address, text)
        stack.callback(keyed.stop)
        bare = start_with_keys(directory / "open", upstream.address, None)
        stack.callback(bare.stop)
        for target in (keyed, bare):
            for load in LOADS:
                _cost(harness, target, load, keys)
        found = []
        for load in LOADS:
            costs = list(_rounds(harness, (keyed, bare), load, keys, rounds))
            found.append(Comparison(load, *map(tuple, zip(*costs, strict=True))))
        return found, harness.failures


def _rounds(
    harness: Harness, pair: tuple[Target, Target], load: Load, keys: Sequence[str], rounds: int
) -> Iterator[tuple[float, float]]:
    """Yield the costs of a pair in each round; the other one is first in every second round."""
    for number in range(rounds):
        print(f"{load.name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        order = (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1)
        costs: tuple[list[float], list[float]] = ([], [])
        for which in order:
            costs[which].append(_cost(harness, pair[which], load, keys))
        yield sum(costs[0]) / 2, sum(costs[1]) / 2


def _cost(harness: Harness, target: Target, load: Load, keys: Sequence[str]) -> float:
    """Return the CPU time of a target, in µs, for one request or one chunk of a load."""
    tally = Tally()
    crowd = [
        Client(
            harness.loop,
            target.address,
            chat_request(load.knobs, stream=load.streaming, key=keys[number % len(keys)]),
            tally,
            streaming=load.streaming,
            repeat=True,
        )
        for number in range(load.clients)
    ]
    with harness.closing(crowd):
        start = time.monotonic()
        spread = 1.01 if load.knobs.gap_ms else 0.1
        for number, client in enumerate(crowd):
            harness.loop.call_at(start + spread * number / load.clients, client.open)
        harness.loop.run(start + spread + SETTLE_SECONDS)
        before = target.cpu_nanoseconds()
        tally.restart(time.monotonic())
        harness.loop.run(tally.since + load.seconds)
        used = target.cpu_nanoseconds() - before
        units = tally.tokens if load.streaming else tally.answers
    harness.note(target, tally.failures)
    if not units:
        harness.note(target, ["nothing came within the window"])
    harness.wait_until_idle()
    return used / 1e3 / max(units, 1)
