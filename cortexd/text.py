"""Text of others in one line of ours: of a file, a node or a client, in a message or a terminal."""

from __future__ import annotations

from typing import Final

LONGEST_SHOWN: Final = 60
"""Messages cut a longer value, so that they stay one readable line."""


def one_line(text: str) -> str:
    """Escape the characters of a text that break a line or are invisible in a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """Return a text on one line, shortened if it is too long for a message."""
    return one_line(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "...")
