"""What a policy would load that knew beforehand how often each model is asked, and nothing else of
the future: near to the best that is possible without foresight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import erfc, log, sqrt
from typing import Final

from bench.simulator.image_platform import LONGEST_REQUEST_GAP, REQUEST_GAP
from bench.simulator.world import Call

HORIZON: Final = 1800.0
"""A model is worth the sessions that begin within so many seconds, and the open ones that go on."""

FIRST_GOES_ON, EACH_MORE, MOST = 0.42, 0.08, 0.85
"""How likely a session of so many requests has another: about as measured on a recorded trace."""


def goes_on(silent: float, requests: int) -> float:
    """Return how likely a session has another request after so many, silent for some seconds."""
    mean, deviation = REQUEST_GAP
    later = erfc((log(max(silent, 1.0)) - mean) / deviation / sqrt(2)) / 2
    before = min(MOST, FIRST_GOES_ON + EACH_MORE * requests)
    return before * later / (1 - before + before * later)


def loads_with_known_rates(calls: Sequence[Call], slots: int) -> int:
    """Return the loads of a policy that serves calls in the order of arrivals, knows each model's
    number of sessions in all the calls, and evicts the model with the fewest sessions to expect.

    A session is all calls of a client for a model, with at most LONGEST_REQUEST_GAP between them.
    """
    seconds = max(calls[-1].at, 1.0)
    rates = {model: count / seconds for model, count in _sessions(calls).items()}
    opened: dict[str, dict[str, tuple[float, int]]] = {model: {} for model in rates}
    held: dict[str, None] = {}  # Least recently used first.
    loads = 0

    def worth(model: str, now: float) -> float:
        sessions = opened[model]
        for client in [c for c, (at, _) in sessions.items() if now - at > LONGEST_REQUEST_GAP]:
            del sessions[client]
        open_ones = sum(goes_on(now - at, requests) for at, requests in sessions.values())
        return rates[model] * HORIZON + open_ones

    for call in calls:
        at, requests = opened[call.model].get(call.client, (call.at, 0))
        if call.at - at > LONGEST_REQUEST_GAP:
            requests = 0
        opened[call.model][call.client] = (call.at, requests + 1)
        if call.model not in held:
            loads += 1
            if len(held) == slots:
                del held[min(held, key=lambda model: worth(model, call.at))]
        else:
            del held[call.model]
        held[call.model] = None
    return loads


def _sessions(calls: Sequence[Call]) -> Counter[str]:
    """Count the sessions of each model."""
    sessions: Counter[str] = Counter()
    last: dict[tuple[str, str], float] = {}
    for call in calls:
        key = call.client, call.model
        if key not in last or call.at - last[key] > LONGEST_REQUEST_GAP:
            sessions[call.model] += 1
        last[key] = call.at
    return sessions
