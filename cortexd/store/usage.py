"""What each key has used, by the hour and by the day of UTC, in the state's file.

Each write adds to the rows, so that two processes may write one after the other, and a write that
waits while the disk is full counts once when it is made. A key has at most HOURS_KEPT + DAYS_KEPT
rows of some 60 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Final

from cortexd.access.usage import DAY, HOUR, KEPT, Usage
from cortexd.store.file import Statement
from cortexd.store.journal import Store
from cortexd.store.statements import ADD_DAY, ADD_HOUR, TRIM_DAYS, TRIM_HOURS, Changes

HOURS_KEPT: Final = KEPT[HOUR]
DAYS_KEPT: Final = 400

_SELECT_USAGE: Final = """SELECT key, sum(requests), sum(prompt_tokens), sum(completion_tokens),
    sum(uncounted_tokens), sum(gpu_seconds), sum(load_seconds), sum(loads)
    FROM usage_days WHERE day >= ? GROUP BY key"""
_SELECT_TOKENS: Final = {
    span: f"SELECT {name}, key, prompt_tokens + completion_tokens + uncounted_tokens "  # noqa: S608 - likewise
    f"FROM usage_{name}s WHERE {name} >= ?"
    for span, name in ((HOUR, "hour"), (DAY, "day"))
}
_ADDS: Final = {HOUR: ADD_HOUR, DAY: ADD_DAY}


def add_usage(store: Store, at: float, used: Mapping[str, Usage]) -> None:
    """Add to what keys have used, by their names; ``at`` in unix seconds."""
    changes: Changes = {}
    for name, usage in used.items():
        *integers, gpu_seconds, load_seconds, loads = astuple(usage)
        counts = (*integers, float(gpu_seconds), float(load_seconds), float(loads))
        for span, statement in _ADDS.items():
            number = int(at // span)
            changes["usage", str(span), str(number), name] = statement, (number, name, *counts)
    store.write(changes)


def trim_usage(store: Store, at: float) -> None:
    """Delete what is too old."""
    store.write(
        {
            ("usage_trim", "hour"): (TRIM_HOURS, (int(at // HOUR) - HOURS_KEPT,)),
            ("usage_trim", "day"): (TRIM_DAYS, (int(at // DAY) - DAYS_KEPT,)),
        }
    )


def usage_since(store: Store, day: int) -> dict[str, Usage]:
    """Return what each key has used since a day, by its name."""
    found = {name: Usage(*counts) for name, *counts in store.rows((_SELECT_USAGE, (day,)))}
    for statement, (number, name, *counts) in _unwritten(store):
        if statement == ADD_DAY and number >= day:
            found[name] = found.get(name, Usage()) + Usage(*counts)
    return found


def tokens_since(store: Store, span: int, number: int) -> dict[str, dict[int, int]]:
    """Return the tokens of keys since an hour or a day, ``span`` as HOUR or DAY."""
    found: dict[str, dict[int, int]] = {}
    for each, name, tokens in store.rows((_SELECT_TOKENS[span], (number,))):
        found.setdefault(name, {})[each] = tokens
    for statement, (each, name, *counts) in _unwritten(store):
        if statement == _ADDS[span] and each >= number:
            tokens_of = found.setdefault(name, {})
            tokens_of[each] = tokens_of.get(each, 0) + Usage(*counts).tokens
    return found


def _unwritten(store: Store) -> list[Statement]:
    return [each for each in store.unwritten if each[0] in _ADDS.values()]
