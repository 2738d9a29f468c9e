"""How few loads there could have been, known only after the fact.

Two bounds. `least_loads` is Belady's: whoever answers requests in this very order, knowing what is
to come, and gives up what is asked again last. It binds one who keeps the order; who answers
several requests for a model together before it goes makes another order, with another bound.
`least_loads_within` binds whoever lets no request wait longer than some time, in whatever order.

Both take the fleet for one memory in which every model may be anywhere, which only makes them
smaller. They start with nothing loaded, as the runs do.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import ceil, inf

from bench.simulator.fleets import FleetSpec

# Longer windows than so many times the longest wait are not tried: they bring next to nothing.
LONGEST_WINDOW_BINS = 60
MOST_BINS = 4000


def _next_uses(order: Sequence[str]) -> list[float]:
    """Return for each place in the order where its model comes next, infinite for never."""
    following: dict[str, int] = {}
    uses: list[float] = [inf] * len(order)
    for place in range(len(order) - 1, -1, -1):
        uses[place] = following.get(order[place], inf)
        following[order[place]] = place
    return uses


def least_loads(order: Sequence[str], slots: int) -> int:
    """Return how many loads answer models in this order at least, of which `slots` fit at a time
    (Belady's MIN: give up what comes next last).
    """
    uses = _next_uses(order)
    next_use: dict[str, float] = {}
    last_first: list[tuple[float, str]] = []
    loads = 0
    for place, model in enumerate(order):
        if model not in next_use:
            loads += 1
            if len(next_use) == slots:
                while True:
                    use, victim = heapq.heappop(last_first)
                    if next_use.get(victim) == -use:
                        break
                del next_use[victim]
        next_use[model] = uses[place]
        heapq.heappush(last_first, (-uses[place], model))
    return loads


def least_loaded_mb(order: Sequence[str], sizes_mb: Mapping[str, int], memory_mb: int) -> int:
    """Return how many MiB answer models in this order at least, even if a model could be given up
    and loaded again by the MiB: Belady's MIN where each MiB is a page of its own.
    """
    uses = _next_uses(order)
    next_use: dict[str, float] = {}
    held_mb: dict[str, int] = {}
    last_first: list[tuple[float, str]] = []
    free_mb = memory_mb
    loaded_mb = 0
    for place, model in enumerate(order):
        missing_mb = sizes_mb[model] - held_mb.get(model, 0)
        loaded_mb += missing_mb
        free_mb -= missing_mb
        held_mb[model] = sizes_mb[model]
        next_use[model] = uses[place]
        while free_mb < 0:
            use, victim = last_first[0]
            if victim == model or next_use[victim] != -use or not held_mb[victim]:
                heapq.heappop(last_first)
                continue
            given_mb = min(held_mb[victim], -free_mb)
            held_mb[victim] -= given_mb
            free_mb += given_mb
        heapq.heappush(last_first, (-uses[place], model))
    return loaded_mb


def least_loads_of_fleet(order: Sequence[str], fleet: FleetSpec) -> tuple[int, str]:
    """Return how many loads answer models in this order at least, and which bound that is.

    Where sizes are equal it is Belady's MIN. Where they differ it is the larger of two smaller
    ones: MIN were all models as small as the smallest, and the fewest MiB divided by the largest.
    """
    loads = least_loads(order, fleet.most_replicas)
    if fleet.has_equal_sizes:
        return loads, "Belady's MIN"
    sizes_mb = fleet.sizes_mb
    by_mb = ceil(least_loaded_mb(order, sizes_mb, fleet.memory_mb) / max(sizes_mb.values()))
    if by_mb > loads:
        return by_mb, "the fewest MiB, by the largest model"
    return loads, "MIN with all models as small as the smallest"


def least_loads_within(
    arrivals: Sequence[tuple[float, str]], slots: int, longest_wait: float
) -> int:
    """Return how many loads it takes at least if no request waits longer than `longest_wait`
    seconds to be begun, in whatever order they are.

    `arrivals` are (second, model), earliest first. What arrives in a window, its last
    `longest_wait` seconds left out, is begun within it; of the models asked there, no more than
    `slots` can have been there at its start, and the others were loaded in it. The bound is the
    largest sum over windows that do not overlap.
    """
    if not arrivals:
        return 0
    end = arrivals[-1][0]
    bin_seconds = max(longest_wait / 2, end / MOST_BINS, 1e-9)
    wait_bins = ceil(longest_wait / bin_seconds)
    bins: list[set[str]] = [set() for _ in range(int(end / bin_seconds) + 1)]
    for at, model in arrivals:
        bins[int(at / bin_seconds)].add(model)
    least = [0] * (len(bins) + wait_bins + 1)
    for start in range(len(bins)):
        least[start + 1] = max(least[start + 1], least[start])
        already_there = slots if start else 0
        asked: set[str] = set()
        stop = min(len(bins), start + LONGEST_WINDOW_BINS) if start else len(bins)
        for last in range(start, stop):
            asked |= bins[last]
            window_end = last + 1 + wait_bins
            loads = least[start] + max(0, len(asked) - already_there)
            least[window_end] = max(least[window_end], loads)
    # A window may end after another that brings more: what counts is the best up to each end.
    return max(least)
