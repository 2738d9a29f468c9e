"""Traces of requests to a fleet: generated from a seed, or read from a file.

Requests of an open-loop trace arrive by the clock, however long answers take; a closed-loop client
sends its next request some time after its last answer.
"""

from __future__ import annotations

import csv
import itertools
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from bench.simulator.fleets import LISTED_ON, FleetSpec, make_fleet, numbered_models, seeded
from bench.simulator.world import Call, Trace

COLUMNS = ("time", "client", "model", "tokens")
DAY_SECONDS = 86_400.0
# Answers of 2 to 8 s, at 0.5 s for the prompt and 50 tokens a second.
TOKENS = (75, 375)


class TraceError(Exception):
    """The file is not a trace; the message states the location and the expected format."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """Calls that arrive by the clock, earliest first."""

    calls: tuple[Call, ...]

    def opening(self) -> Iterator[Call]:
        """Give all calls."""
        return iter(self.calls)

    def next_call(self, _call: Call, _now: float) -> None:
        """Return no call: open-loop calls do not depend on answers."""


@dataclass(frozen=True, slots=True)
class Habits:
    """The habits of agents, in seconds: pauses between answer and next call, and bursts of work."""

    think_seconds: tuple[float, float]
    burst_seconds: float = 600.0
    pause_seconds: float = 300.0

    def next_time(self, after: float, think: float) -> float:
        """Return when an agent calls again: after it has thought, and not within a pause."""
        period = self.burst_seconds + self.pause_seconds
        when = after + think
        into_period = when % period
        return when if into_period < self.burst_seconds else when - into_period + period + think


class Agents:
    """Closed-loop clients that alternate between two models until `seconds` have passed.

    An agent's next model and its thinking time depend on its number of calls, not on the time.
    """

    def __init__(
        self, agents: int, models: Sequence[str], habits: Habits, seconds: float, seed: object
    ) -> None:
        self._models = models
        self._habits = habits
        self._seconds = seconds
        names = [f"agent-{number}" for number in range(agents)]
        self._chances = {name: seeded("agent", seed, name) for name in names}
        self._turns = {name: number for number, name in enumerate(names)}

    def opening(self) -> Iterator[Call]:
        """Give the first call of every agent."""
        calls = [self._call(client, 0.0) for client in self._turns]
        yield from sorted(calls, key=lambda call: call.at)

    def next_call(self, call: Call, now: float) -> Call | None:
        """Give the agent's next call, `None` once it would come after the end."""
        following = self._call(call.client, now)
        return following if following.at <= self._seconds else None

    def _call(self, client: str, after: float) -> Call:
        chance = self._chances[client]
        at = self._habits.next_time(after, chance.uniform(*self._habits.think_seconds))
        model = self._models[self._turns[client] % len(self._models)]
        self._turns[client] += 1
        return Call(at, client, model, chance.randint(*TOKENS))


# How popular models are.


def zipf_shares(models: int, exponent: float) -> list[float]:
    """Return the cumulated shares of models of which the n-th is asked 1/n**exponent as often as
    the first.
    """
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, models + 1)))
    return [weight / weights[-1] for weight in weights]


def is_night(at: float) -> bool:
    """Whether a time falls into the second half of a day of the trace."""
    return at % DAY_SECONDS >= DAY_SECONDS / 2


def _poisson_calls(
    rate: Callable[[float], float],
    most: float,
    seconds: float,
    choose_model: Callable[[float, float], str],
    seed: object,
) -> tuple[Call, ...]:
    """Make calls at `rate(at)` per second, never above `most`, of `choose_model(at, chance)`."""
    chance = seeded("calls", seed)
    calls = []
    at = chance.expovariate(most)
    while at <= seconds:
        if chance.random() * most < rate(at):
            client = f"client-{chance.randrange(20)}"
            model = choose_model(at, chance.random())
            calls.append(Call(at, client, model, chance.randint(*TOKENS)))
        at += chance.expovariate(most)
    return tuple(calls)


# The traces, each of any size.


@dataclass(frozen=True, slots=True)
class Size:
    """How large a trace is; `nodes`, `models` and `hours` replace what the trace has by itself."""

    nodes: int | None = None
    models: int | None = None
    hours: float | None = None
    seed: int = 1
    listed_on: int = LISTED_ON

    def or_else(self, nodes: int, models: int, hours: float) -> tuple[int, int, float]:
        """Return nodes, models, and seconds."""
        return self.nodes or nodes, self.models or models, (self.hours or hours) * 3600

    def fleet(
        self, nodes: int, models: int | Sequence[str], *, slots: int, mixed_sizes: bool = False
    ) -> FleetSpec:
        """Make a fleet of so many nodes, of so many models or those with these ids."""
        return make_fleet(
            nodes,
            numbered_models(models) if isinstance(models, int) else models,
            slots=slots,
            listed_on=self.listed_on,
            mixed_sizes=mixed_sizes,
            seed=self.seed,
        )


def _popularity(
    name: str, fleet: FleetSpec, rate: float, exponent: float, seconds: float, seed: int
) -> Trace:
    shares = zipf_shares(len(fleet.models), exponent)
    ids = list(fleet.models)
    seeded("ranks", seed).shuffle(ids)
    calls = _poisson_calls(
        lambda _: rate, rate, seconds, lambda _, chance: ids[bisect(shares, chance)], seed
    )
    return Trace(name, fleet, seconds, lambda: Timetable(calls))


def zipf(size: Size) -> Trace:
    """Make Poisson arrivals, models by Zipf's law, a third of which fit."""
    nodes, models, seconds = size.or_else(3, 36, 4)
    slots = max(1, models // nodes // 3)
    fleet = size.fleet(nodes, models, slots=slots)
    return _popularity("zipf", fleet, 0.06 * nodes, 1.2, seconds, size.seed)


def mixed_sizes(size: Size) -> Trace:
    """Do as `zipf`, with models of 4 to 40 GiB."""
    nodes, models, seconds = size.or_else(3, 36, 4)
    slots = max(3, models // nodes // 3)
    fleet = size.fleet(nodes, models, slots=slots, mixed_sizes=True)
    return _popularity("mixed-sizes", fleet, 0.06 * nodes, 1.2, seconds, size.seed)


def large(size: Size) -> Trace:
    """Do as `zipf`, with a thousand nodes and ten thousand models."""
    nodes, models, seconds = size.or_else(1000, 10_000, 0.1)
    fleet = size.fleet(nodes, models, slots=4)
    return _popularity("large", fleet, 0.06 * nodes, 1.0, seconds, size.seed)


def rare(size: Size) -> Trace:
    """Fill the memory with hot models, and give 1 % of the calls to one more."""
    nodes, models, seconds = size.or_else(3, 7, 4)
    slots = max(1, math.ceil((models - 1) / nodes))
    fleet = size.fleet(nodes, slots * nodes + 1, slots=slots)
    *ids, rare_id = fleet.models
    calls = _poisson_calls(
        lambda _: 0.5,
        0.5,
        seconds,
        lambda _, chance: rare_id if chance < 0.01 else ids[int((chance - 0.01) / 0.99 * len(ids))],
        size.seed,
    )
    return Trace("rare", fleet, seconds, lambda: Timetable(calls))


def day_and_night(size: Size) -> Trace:
    """Swing the rate over the day, ninefold, and change the favourites at night."""
    nodes, models, seconds = size.or_else(3, 36, 24)
    fleet = size.fleet(nodes, models, slots=max(1, models // nodes // 3))
    shares = zipf_shares(models, 1.2)
    by_day = list(fleet.models)
    by_night = by_day[::-1]
    mean = 0.04 * nodes

    def rate(at: float) -> float:
        return mean * (1 + 0.8 * math.sin(2 * math.pi * at / DAY_SECONDS))

    def choose_model(at: float, chance: float) -> str:
        return (by_night if is_night(at) else by_day)[bisect(shares, chance)]

    calls = _poisson_calls(rate, mean * 1.8, seconds, choose_model, size.seed)
    return Trace("day-and-night", fleet, seconds, lambda: Timetable(calls))


def agents(number: int, think_seconds: tuple[float, float], name: str) -> Callable[[Size], Trace]:
    """Give the trace of so many agents that ask models, mostly two, in turn; all but one fit."""

    def make(size: Size) -> Trace:
        nodes, models, seconds = size.or_else(1, 2, 1)
        slots = max(1, (models - 1) // nodes)
        fleet = size.fleet(nodes, models, slots=slots)
        habits = Habits(think_seconds)
        ids = list(fleet.models)
        return Trace(name, fleet, seconds, lambda: Agents(number, ids, habits, seconds, size.seed))

    return make


TRACES: dict[str, Callable[[Size], Trace]] = {
    "agents-8": agents(8, (0.5, 3), "agents-8"),
    "agents-16": agents(16, (0.5, 3), "agents-16"),
    "agents-8-slow": agents(8, (10, 30), "agents-8-slow"),
    "agents-16-slow": agents(16, (10, 30), "agents-16-slow"),
    "zipf": zipf,
    "mixed-sizes": mixed_sizes,
    "rare": rare,
    "day-and-night": day_and_night,
    "large": large,
}


# Files.


def write_calls(calls: Sequence[Call], path: Path) -> None:
    """Write calls as CSV: time in seconds, client, model, tokens."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((repr(call.at), call.client, call.model, call.tokens) for call in calls)


def read_calls(path: Path) -> tuple[Call, ...]:
    """Read calls from CSV as `write_calls` writes them, and put them in the order of time.

    Raises TraceError for a file that cannot be read or holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="")
            missing = set(COLUMNS).difference(reader.fieldnames or ())
            if missing:
                wanted = ",".join(COLUMNS)
                raise TraceError(f"{path}: line 1: no column {min(missing)!r}, expected {wanted}")
            calls = [_call_of_row(row, f"{path}: line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read ({error}), expected a CSV file") from None
    if not calls:
        raise TraceError(f"{path}: no line after the first, expected one call at least")
    return tuple(sorted(calls, key=lambda call: call.at))


def _call_of_row(row: dict[str, str], place: str) -> Call:
    try:
        at, tokens = float(row["time"]), int(row["tokens"])
    except (TypeError, ValueError):
        raise TraceError(
            f"{place}: found time {row['time']!r} and tokens {row['tokens']!r}, expected a number "
            "of seconds and a whole number"
        ) from None
    if not 0 <= at < inf or tokens < 0 or not row["model"]:
        raise TraceError(f"{place}: time and tokens must not be below 0, and a model be named")
    return Call(at, row["client"], row["model"], tokens)


def trace_of(calls: Sequence[Call], name: str, size: Size) -> Trace:
    """Make a trace of calls, for three nodes, or as many as `size` has, that hold a third of the
    models that are asked.
    """
    nodes = size.nodes or 3
    ids = list(dict.fromkeys(call.model for call in calls))
    fleet = size.fleet(nodes, ids, slots=max(1, len(ids) // nodes // 3))
    timetable = Timetable(tuple(calls))
    return Trace(name, fleet, calls[-1].at, lambda: timetable)


def calls_of_file(path: Path, size: Size) -> tuple[Call, ...]:
    """Read the calls of a CSV file; the hours of `size` cut it. Raises TraceError as `read_calls`
    does, and where no call is left.
    """
    most_seconds = size.hours * 3600 if size.hours else inf
    calls = tuple(call for call in read_calls(path) if call.at <= most_seconds)
    if not calls:
        raise TraceError(f"{path}: no call within {most_seconds:g} seconds: give more hours")
    return calls


def from_file(path: Path, size: Size) -> Trace:
    """Make a trace of the calls in a CSV file, as `calls_of_file` and `trace_of` say."""
    return trace_of(calls_of_file(path, size), path.stem, size)
