"""The end of a JSON object whose text arrives in parts, such as a tool call's arguments."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

BLANKS: Final = " \t\r\n"
"""The white space of JSON."""


class Extent(Enum):
    """How much of a call's arguments has arrived; they should be one JSON object."""

    BLANK = "blank"
    INSIDE = "inside"
    WHOLE = "whole"
    SPOILED = "spoiled"
    """More text follows the object."""

    NO_OBJECT = "no_object"
    """The text is not an object, and cannot become one."""


# Each part of the arguments needs these; Python 3.11 takes 70 ns to look up a member by name.
_BLANK, _INSIDE, _WHOLE, _NO_OBJECT = Extent.BLANK, Extent.INSIDE, Extent.WHOLE, Extent.NO_OBJECT
NOT_AS_IT_IS = (_BLANK, _NO_OBJECT)
"""The extents in which complete arguments are not an object."""


class ObjectExtent:
    """Finds the end of a JSON object whose text arrives in parts, without storing them.

    It checks only brackets and strings, not whether the object is valid.
    """

    _MARK = re.compile(r'\\(?:.|\Z)|["{}\[\]]', re.DOTALL)

    def __init__(self) -> None:
        self.extent = _BLANK
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def take(self, text: str) -> None:
        """Process the next part of the text."""
        start = 0
        if self.extent is _BLANK:
            start = len(text) - len(text.lstrip(BLANKS))
            if start == len(text):
                return
            self.extent = _INSIDE if text[start] == "{" else _NO_OBJECT
        if self.extent is _INSIDE:
            start = self._end_in(text, start)
        if self.extent is _WHOLE and text[start:].strip(BLANKS):
            self.extent = Extent.SPOILED

    def _end_in(self, text: str, start: int) -> int:
        """Scan ``text`` from ``start``; return the index after the object, if it ends."""
        if self._is_escaped and text:
            start += 1
            self._is_escaped = False
        for mark in self._MARK.finditer(text, start):
            character = mark[0][0]
            if character == "\\":
                self._is_escaped = len(mark[0]) == 1
            elif character == '"':
                self._is_in_string = not self._is_in_string
            elif not self._is_in_string:
                self._depth += 1 if character in "{[" else -1
                if self._depth == 0:
                    self.extent = _WHOLE
                    return mark.end()
        return len(text)
