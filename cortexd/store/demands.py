"""The demand for a model as texts of the state's file.

Both texts are arrays of JSON: the times of the last requests in Unix seconds, oldest first, and the
members of ``HeatRecord`` in their order. A store of an earlier version has no heat. Damaged texts
count as missing: the model starts cold, or with the heat that its times make.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Final

from cortexd.fleet.demand import PastDemand
from cortexd.fleet.heat.heat import HeatRecord

MOST_COUNTED: Final = 1e9
"""No count of requests is as high, and a higher one is damage."""

MOST_VISITS: Final = 2**53
"""No count of visits is as high, and beyond it a float would not count on."""


def texts_of(past: PastDemand) -> tuple[str, str | None]:
    """Return a demand as texts, the second one ``None`` if the heat is unknown."""
    heat = past.heat
    return json.dumps(past.times), None if heat is None else json.dumps(heat)


def past_of(times: str, heat: str | None) -> PastDemand:
    """Return the demand in texts of the file, without what is damaged."""
    known = _array(times)
    if not all(_is_number(each) for each in known):
        known = []
    if not known:
        return PastDemand()
    return PastDemand(tuple(known), None if heat is None else _heat(heat))


def _heat(text: str) -> HeatRecord | None:
    values = _array(text)
    if len(values) != len(HeatRecord._fields):
        return None
    asked_at, recent, lasting, few, many, visited_at = values
    counts = recent, lasting, few, many
    is_sound = (
        all(_is_number(each) for each in (asked_at, *counts))
        and all(0 <= each <= MOST_COUNTED for each in counts)
        and type(visited_at) is int
        and 0 <= visited_at <= MOST_VISITS
    )
    return HeatRecord(asked_at, *counts, int(visited_at)) if is_sound else None


def _is_number(value: object) -> bool:
    return isinstance(value, float) and isfinite(value)


def _array(text: str) -> list[float]:
    """Return the members of an array of JSON, none if the text is no such array."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    return values if isinstance(values, list) else []
