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
PUT_ABILITIES: Final = "INSERT OR REPLACE INTO abilities VALUES (?, ?, ?, ?)"
DELETE_ABILITIES: Final = "DELETE FROM abilities WHERE node = ? AND model = ?"
PUT_LISTED: Final = "INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?)"
DELETE_LISTED: Final = "DELETE FROM listed WHERE node = ? AND model = ?"
PUT_DEMAND: Final = "INSERT OR REPLACE INTO demands VALUES (?, ?)"
DELETE_DEMAND: Final = "DELETE FROM demands WHERE model = ?"
PUT_ENTRY: Final = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
TRIM_JOURNAL: Final = "DELETE FROM journal WHERE number <= ?"
SELECT_ENTRIES: Final = "SELECT * FROM journal WHERE number > ? ORDER BY number LIMIT ?"
SELECT_ENTRIES_OF_MODEL: Final = (
    "SELECT * FROM journal WHERE model = ? AND number > ? ORDER BY number LIMIT ?"
)

Changes = dict[tuple[str, ...], Statement]
"""Changes that wait, by what they change: a later one replaces an earlier one of the same key."""


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
