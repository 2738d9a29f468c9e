"""What each key has used, by the hour and by the day of UTC, in the state's file.

Each write adds to the rows, so that two processes may write one after the other, and a write that
waits while the disk is full counts once when it is made. A key has at most HOURS_KEPT + DAYS_KEPT
rows of some 60 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple
from typing import Any, Final

from cortexd.access.usage import DAY, HOUR, KEPT, Usage
from cortexd.store.file import Statement
from cortexd.store.journal import Store
from cortexd.store.statements import ADD_DAY, ADD_HOUR, TRIM_DAYS, TRIM_HOURS, Changes

HOURS_KEPT: Final = KEPT[HOUR]
DAYS_KEPT: Final = 400

FEW_KEYS: Final = 20
"""The rows of so many keys are looked up one by one."""

_SELECT_USAGE: Final = """SELECT key, sum(requests), sum(prompt_tokens), sum(completion_tokens),
    sum(uncounted_tokens), sum(gpu_seconds), sum(load_seconds), sum(loads)
    FROM usage_days WHERE day BETWEEN ? AND ? GROUP BY key"""
_SPANS: Final = {HOUR: "hour", DAY: "day"}
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


def usage_between(store: Store, first: int, last: int) -> dict[str, Usage]:
    """Return what each key has used from the first to the last day, by its name."""
    query = _SELECT_USAGE, (first, last)
    found = {name: Usage(*counts) for name, *counts in store.rows(query)}
    for statement, (number, name, *counts) in _unwritten(store):
        if statement == ADD_DAY and first <= number <= last:
            found[name] = found.get(name, Usage()) + Usage(*counts)
    return found


def tokens_of(
    store: Store, names: Collection[str], span: int, first: int, last: int
) -> dict[str, dict[int, int]]:
    """Return the tokens of keys in each hour or day from the first to the last.

    ``span`` is HOUR or DAY. Each row of a few keys is looked up, those of many keys are read all.
    """
    column = _SPANS[span]
    query = (
        f"SELECT {column}, key, prompt_tokens + completion_tokens + uncounted_tokens "  # noqa: S608 - our own names
        f"FROM usage_{column}s WHERE {column} "
    )
    if len(names) <= FEW_KEYS:
        numbers = range(first, last + 1)
        query += f"IN ({_marks(numbers)}) AND key IN ({_marks(names)})"
        values: tuple[Any, ...] = (*numbers, *names)
    else:
        query += "BETWEEN ? AND ?"
        values = first, last
    found: dict[str, dict[int, int]] = {}
    for number, name, tokens in store.rows((query, values)):
        found.setdefault(name, {})[number] = tokens
    for statement, (number, name, *counts) in _unwritten(store):
        if statement == _ADDS[span] and first <= number <= last:
            of_key = found.setdefault(name, {})
            of_key[number] = of_key.get(number, 0) + Usage(*counts).tokens
    return {name: tokens for name, tokens in found.items() if name in names}


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _unwritten(store: Store) -> list[Statement]:
    return [each for each in store.unwritten if each[0] in _ADDS.values()]
