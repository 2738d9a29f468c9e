"""Lower bounds of the number of loads, computed with knowledge of the whole run.

There are two bounds, and one measure beside them. `least_loads` is Belady's optimum: it answers
requests in the given order and evicts the model whose next request is the furthest away. It binds
only policies with that order; a policy that batches several requests for a model before its
eviction makes another order, with another bound. `least_loads_within` binds every policy under
which no request waits longer than a given time, in any order. `loads_with_foresight` binds no
policy: it shows how far a policy must see into the future to come near Belady's optimum.

All treat the fleet as one memory in which every model may be anywhere, which only lowers them.
They start with an empty memory, as the runs do.
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
    """Return the least number of loads that serve models in this order, when `slots` models fit
    (Belady's MIN: evict the model whose next request is the furthest away).
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


def loads_with_foresight(arrivals: Sequence[tuple[float, str]], slots: int, seconds: float) -> int:
    """Return the loads of a policy that serves models in the order of arrivals and knows, at each
    time, the requests of the next so many seconds.

    `arrivals` are (second, model), earliest first. Of the models that are not asked within that
    time it evicts the least recently used one; if all are, the one whose next request is the
    furthest away. Without foresight this is LRU in one memory, with endless foresight it is MIN.
    """
    uses = _next_uses([model for _, model in arrivals])
    next_at = [arrivals[int(use)][0] if use < inf else inf for use in uses]
    held: dict[str, float] = {}  # When each is asked next, least recently used first.
    loads = 0
    for place, (now, model) in enumerate(arrivals):
        if held.pop(model, None) is None:
            loads += 1
            if len(held) == slots:
                unforeseen = (name for name, at in held.items() if at - now > seconds)
                victim = next(unforeseen, None) or max(held, key=held.__getitem__)
                del held[victim]
        held[model] = next_at[place]
    return loads


def least_loaded_mb(order: Sequence[str], sizes_mb: Mapping[str, int], memory_mb: int) -> int:
    """Return the least MiB of loads that serve models in this order, even if each MiB of a model
    could be evicted and loaded alone: Belady's MIN with a page size of 1 MiB.
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
    """Return the least number of loads that serve models in this order, and the name of the bound.

    For equal sizes the bound is Belady's MIN. For mixed sizes it is the larger of two weaker
    bounds: MIN as if all models had the smallest size, and the least MiB divided by the largest.
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
    """Return the least number of loads if every request starts within `longest_wait` seconds, in
    any order.

    `arrivals` are (second, model), earliest first. A request that arrives in a window, except in
    its last `longest_wait` seconds, starts within the window. At most `slots` of the requested
    models can have been loaded at the window's start, so the others are loaded within it. The bound
    is the largest sum over windows that do not overlap.
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
