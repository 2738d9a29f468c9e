"""Separates the thinking that a model writes into its text, between tags, from the answer.

Some upstreams pass on the model's whole output: ``<think>...</think>``. The thinking comes before
any other text except white space. A later tag is ordinary text; otherwise an answer that quotes a
tag would lose everything after it. The text arrives in parts, split anywhere, and the result does
not depend on the split.
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
    """Splits one text, which arrives in parts, at its tags; the tags are left out."""

    def __init__(self) -> None:
        self._is_thinking = False
        self._has_spoken = False
        self._held = ""

    def feed(self, piece: str) -> list[Passage]:
        """Return the non-empty passages of a part; a possible beginning of a tag is held back."""
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
        """Process the end of the text, or a pause; return the text that was held back."""
        held, self._held = self._held, ""
        self._has_spoken = self._has_spoken or bool(held and not self._is_thinking)
        return [Passage(self._is_thinking, held)] if held else []


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of ``text`` may begin ``tag``."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(tag[:length])), 0)
