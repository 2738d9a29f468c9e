"""Thinking that a model writes into its text, between tags, told apart from what it says.

Some upstreams pass on what the model wrote, thinking and all: ``<think>...</think>``. It thinks
before it says anything but white space. A tag further on is a word like any other: were it none,
an answer that quotes one would lose all that follows. The text comes in pieces, cut anywhere, and
what is found does not depend on where.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OPENING_TAG: Final = "<think>"
CLOSING_TAG: Final = "</think>"


class Passage(NamedTuple):
    """A part of a text, and whether it is thinking."""

    is_thinking: bool
    text: str


class ThinkingSplitter:
    """Splits one text, which comes in pieces, at its tags; the tags themselves are left out."""

    def __init__(self) -> None:
        self._is_thinking = False
        self._has_spoken = False
        self._held = ""

    def feed(self, piece: str) -> list[Passage]:
        """Return the passages of a piece, none empty; what may begin a tag is held back."""
        passages = []
        text, self._held = self._held + piece, ""
        while text and not self._has_spoken:
            tag = CLOSING_TAG if self._is_thinking else OPENING_TAG
            passage, found, rest = text.partition(tag)
            if not found:
                shown = len(text) - _overlap(text, tag)
                passage, rest = text[:shown], text[shown:]
            if passage.strip() and not self._is_thinking:
                self._has_spoken = True
                break
            if passage:
                passages.append(Passage(self._is_thinking, passage))
            if not found:
                self._held = rest
                return passages
            self._is_thinking = not self._is_thinking
            text = rest
        if text:
            passages.append(Passage(False, text))
        return passages

    def flush(self) -> list[Passage]:
        """Take that the text is at an end, for now at least; return what was held back."""
        held, self._held = self._held, ""
        self._has_spoken = self._has_spoken or bool(held and not self._is_thinking)
        return [Passage(self._is_thinking, held)] if held else []


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of ``text`` may be the beginning of ``tag``."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)
