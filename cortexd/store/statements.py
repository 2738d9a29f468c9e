"""The statements that change the state, and the changes that wait until they can be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cortexd.store.file import Statement

UNWRITTEN_ENTRIES: Final = 1_000
"""How many entries of the journal may wait in memory while the file cannot be written."""

PUT_PIN_OVERRIDE: Final = "INSERT OR REPLACE INTO pin_overrides VALUES (?, ?, ?)"
PUT_CORDON: Final = "INSERT OR REPLACE INTO cordons VALUES (?)"
DELETE_CORDON: Final = "DELETE FROM cordons WHERE node = ?"
PUT_LEARNED: Final = "INSERT OR REPLACE INTO learned_loads VALUES (?, ?, ?, ?, ?, ?, ?)"
PUT_LOAD_TIME: Final = "INSERT OR REPLACE INTO load_times VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT_LOAD_TIMES: Final = "SELECT * FROM load_times"
PUT_ABILITIES: Final = "INSERT OR REPLACE INTO abilities VALUES (?, ?, ?, ?)"
DELETE_ABILITIES: Final = "DELETE FROM abilities WHERE node = ? AND model = ?"
PUT_LISTED: Final = "INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?)"
DELETE_LISTED: Final = "DELETE FROM listed WHERE node = ? AND model = ?"
PUT_DEMAND: Final = "INSERT OR REPLACE INTO demands VALUES (?, ?, ?)"
DELETE_DEMAND: Final = "DELETE FROM demands WHERE model = ?"
PUT_ENTRY: Final = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
TRIM_JOURNAL: Final = "DELETE FROM journal WHERE number <= ?"
SELECT_ENTRIES: Final = "SELECT * FROM journal WHERE number > ? ORDER BY number LIMIT ?"
SELECT_ENTRIES_OF_MODEL: Final = (
    "SELECT * FROM journal WHERE model = ? AND number > ? ORDER BY number LIMIT ?"
)

_ADD_USAGE: Final = """INSERT INTO usage_{span}s VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT ({span}, key) DO UPDATE SET
        requests = requests + excluded.requests,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        uncounted_tokens = uncounted_tokens + excluded.uncounted_tokens,
        gpu_seconds = gpu_seconds + excluded.gpu_seconds,
        load_seconds = load_seconds + excluded.load_seconds,
        loads = loads + excluded.loads"""
ADD_HOUR: Final = _ADD_USAGE.format(span="hour")
ADD_DAY: Final = _ADD_USAGE.format(span="day")
TRIM_HOURS: Final = "DELETE FROM usage_hours WHERE hour < ?"
TRIM_DAYS: Final = "DELETE FROM usage_days WHERE day < ?"

ADDING: Final = frozenset((ADD_HOUR, ADD_DAY))
"""The statements that add to a row, which their first two values name."""

Changes = dict[tuple[str, ...], Statement]
"""Changes that wait, by what they change; ``take_in`` adds further ones."""


def take_in(changes: Changes, later: Mapping[tuple[str, ...], Statement]) -> None:
    """Add later changes: each replaces an earlier one of the same key, or adds to it."""
    for key, (statement, values) in later.items():
        earlier = changes.get(key)
        if earlier is not None and statement in ADDING:
            sums = (a + b for a, b in zip(earlier[1][2:], values[2:], strict=True))
            changes[key] = statement, (*values[:2], *sums)
        else:
            changes[key] = statement, values


def forget_oldest_entries(changes: Changes) -> None:
    """Leave at most UNWRITTEN_ENTRIES entries of the journal among the changes."""
    if len(changes) > UNWRITTEN_ENTRIES:
        waiting = [key for key in changes if key[0] == "entry"]
        for key in waiting[:-UNWRITTEN_ENTRIES]:
            del changes[key]


def following(changes: Mapping[tuple[str, ...], Statement], last: int) -> list[Statement]:
    """Return the statements of changes, with the entries of the journal numbered after ``last``.

    The numbers that they have were given without a look at the file.
    """
    statements: list[Statement] = []
    for key, (statement, values) in changes.items():
        if key[0] == "entry":
            last += 1
            statements.append((statement, (last, *values[1:])))
        elif key[0] != "trim":
            statements.append((statement, values))
    return statements
