"""The approximations of a translation, which are reported to the client."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from cortexd.dialects.wire.json_values import JsonObject

MAX_UNKNOWN = 12
"""The maximum number of ignored fields that are named: the words go into one response header."""

OTHERS = "other_fields"
"""Replaces further ignored fields, and names that a header must not contain."""

_FIT_FOR_A_HEADER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Approximations:
    """Collects one word for each approximation, each once, in order of occurrence.

    ``left_out`` are the names of the lines that hygiene has left out.
    """

    def __init__(self) -> None:
        self.left_out: tuple[str, ...] = ()
        self._words: dict[str, None] = {}
        self._unknown = 0

    def note(self, word: str) -> None:
        """Add one word, in snake_case."""
        self._words[word] = None

    def note_unknown(self, fields: JsonObject, known: AbstractSet[str], within: str = "") -> None:
        """Add the names of the fields that are not ``known``; ignore fields that are null.

        ``within`` is a prefix: the type of a block, or the field that contains them.
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
