"""Evaluates figures: percentiles, medians over the rounds, a target's overhead, and the bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import median

Figures = dict[str, float]

OWN_COSTS = (".cpu_us_per_chunk", ".cpu_us_per_request", ".idle_mib", ".per_1000_streams_mib")
"""The figures in which a state of cortexd is held against an earlier one, by their endings."""
Results = Mapping[str, Figures]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed;
    infinite for no values.
    """
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)) - 1, 0)] if ordered else inf


def compared(target: Figures, direct: Figures, nginx: Figures) -> Figures:
    """Compare a target with its peers of the same round, as far as they were measured.

    Each time to the first token, in ms, gives the overhead over a direct connection; each CPU time
    per chunk, in us, gives the ratio to nginx's.
    """
    added = {
        f"{name}_added": value - direct[name]
        for name, value in target.items()
        if ".ttft_" in name and name in direct
    }
    times_nginx = {
        f"{name}_over_nginx": value / nginx[name]
        for name, value in target.items()
        if name.endswith(".cpu_us_per_chunk") and nginx.get(name)
    }
    return added | times_nginx


def over_before(target: Figures, before: Figures) -> Figures:
    """Return how many times those of an earlier state a target's costs are.

    The costs are CPU times per chunk and per request, and resident memory.
    """
    return {
        f"{name}_over_before": value / before[name]
        for name, value in target.items()
        if name.endswith(OWN_COSTS) and before.get(name)
    }


def medians(rounds: Sequence[Figures]) -> Figures:
    """Take the median of each figure over the rounds that have it."""
    names = dict.fromkeys(name for each in rounds for name in each)
    return {name: median(each[name] for each in rounds if name in each) for name in names}


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on figures of cortexd: the greatest of them must not exceed it."""

    label: str
    figures: tuple[str, ...]
    limit: float
    unit: str

    def measured(self, results: Results) -> float | None:
        """Return the value to compare with the limit, None where a figure is missing."""
        cortexd = results.get("cortexd", {})
        if not all(name in cortexd for name in self.figures):
            return None
        return max(cortexd[name] for name in self.figures)

    def verdict(self, results: Results) -> str:
        """Return "pass", "miss", or "not measured"."""
        measured = self.measured(results)
        if measured is None:
            return "not measured"
        return "pass" if measured <= self.limit else "miss"


BARS = (
    Bar(
        "CPU per chunk at 50 streams, over nginx's",
        ("streams_50.cpu_us_per_chunk_over_nginx",),
        3.5,
        "x",
    ),
    Bar("added TTFT p50 at 50 streams", ("streams_50.ttft_p50_ms_added",), 2.5, "ms"),
    Bar(
        "client gone to upstream closed, slowest of any phase",
        ("gone.before_headers_max_ms", "gone.before_first_token_max_ms", "gone.mid_stream_max_ms"),
        10,
        "ms",
    ),
    Bar("RSS growth with a stopped reader", ("stalled.grown_mib",), 1, "MB"),
    Bar("RSS per 1000 open streams", ("memory.per_1000_streams_mib",), 30, "MB"),
    Bar("RSS idle", ("memory.idle_mib",), 80, "MB"),
)

MOST_OVER_BEFORE = 1.03
"""How much dearer than before a change may be: less cannot be told from noise."""

BARS_OVER_BEFORE = tuple(
    Bar(f"{label}, over before", (f"{figure}_over_before",), MOST_OVER_BEFORE, "x")
    for label, figure in (
        ("CPU per chunk at 50 streams", "streams_50.cpu_us_per_chunk"),
        ("CPU per chunk at 200 streams", "streams_200.cpu_us_per_chunk"),
        ("CPU per chunk without gaps", "saturated.cpu_us_per_chunk"),
        ("CPU per JSON request", "json.cpu_us_per_request"),
        ("RSS idle", "memory.idle_mib"),
        ("RSS per 1000 open streams", "memory.per_1000_streams_mib"),
    )
)
"""The bars for a run with ``--before``, beside those of every run."""


def bars(results: Results) -> tuple[Bar, ...]:
    """Return the bars that hold for a run with these targets."""
    return BARS + BARS_OVER_BEFORE if "before" in results else BARS
