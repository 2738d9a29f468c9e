"""What a translation could not do exactly, to be told to the client."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from cortexd.dialects.wire.json_values import JsonObject

MAX_UNKNOWN = 12
"""Of fields that are ignored, how many are named: the words go into one response header."""

OTHERS = "other_fields"
"""Stands for the fields that are ignored beyond those, and for names unfit for a header."""

_FIT_FOR_A_HEADER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Approximations:
    """Gathers the words for what is not exact, each once, in the order in which they are met."""

    def __init__(self) -> None:
        self._words: dict[str, None] = {}
        self._unknown = 0

    def note(self, word: str) -> None:
        """Take one word of ours, in snake_case."""
        self._words[word] = None

    def note_unknown(self, fields: JsonObject, known: AbstractSet[str], within: str = "") -> None:
        """Take the names of the fields that are not ``known``; one that is null says nothing.

        ``within`` goes before them: the type of a block, or the field that they are in.
        """
        if not fields.keys() - known:
            return
        for name, value in fields.items():
            if name not in known and value is not None:
                self._note_field(f"{within}.{name}" if within else name)

    def _note_field(self, name: str) -> None:
        if name in self._words:
            return
        if self._unknown == MAX_UNKNOWN or not _FIT_FOR_A_HEADER.fullmatch(name):
            name = OTHERS
        else:
            self._unknown += 1
        self._words[name] = None

    def words(self) -> tuple[str, ...]:
        """Return all words."""
        return tuple(self._words)
