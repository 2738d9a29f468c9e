"""Where a JSON object ends whose text comes in pieces, such as the arguments of a tool call."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

BLANKS: Final = " \t\r\n"
"""What JSON takes for white space."""


class Extent(Enum):
    """How far the JSON object has come that a call's arguments should be."""

    BLANK = "blank"
    INSIDE = "inside"
    WHOLE = "whole"
    SPOILED = "spoiled"
    """Something follows the object."""

    NO_OBJECT = "no_object"
    """It is something else; nothing more can make an object of it."""


# Each piece of arguments asks for these, and Python 3.11 takes 70 ns to find a member by its name.
_BLANK, _INSIDE, _WHOLE, _NO_OBJECT = Extent.BLANK, Extent.INSIDE, Extent.WHOLE, Extent.NO_OBJECT
NOT_AS_IT_IS = (_BLANK, _NO_OBJECT)
"""The extents at whose end a call's arguments are no object."""


class ObjectExtent:
    """Tells where a JSON object ends whose text comes in pieces, without keeping them.

    Only brackets and strings are looked at: that the object is valid is not said.
    """

    _MARK = re.compile(r'\\(?:.|\Z)|["{}\[\]]', re.DOTALL)

    def __init__(self) -> None:
        self.extent = _BLANK
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def take(self, text: str) -> None:
        """Take the next piece of the text."""
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
        """Go through ``text`` from ``start``; return the place after the object, if it ends."""
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
