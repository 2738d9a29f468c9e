"""The limits of a link, and the rule by which a side that floods the other is held back: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from cortexd.text import one_line

GREETING_SECONDS: Final = 10.0
"""How long TLS and greeting may take together, for either side."""

MAX_BOX_BYTES: Final = 72 * 1024
"""The most bytes of one box: one value as long as AMP allows, and short ones beside it."""

MAX_GREETING_BYTES: Final = 4096
"""The same for the boxes of a peer that is not admitted yet."""

CLOSE_SECONDS: Final = 2.0
"""How long the other side may take to close its end; then the connection is cut."""

BOXES_PER_SECOND: Final = 100.0
"""How many boxes a side may send in the long run. Then it is not read for a while."""

BURST: Final = 200.0
"""How many boxes a side may send at once."""

HOLD_BOXES: Final = 25.0
"""How many further boxes the side has earned when it is read again."""

MAX_WORDS: Final = 300
"""The most characters of a reason or a note that goes over the link, or comes from it."""


class Allowance:
    """Counts the boxes of one side; ``now`` is any clock in seconds, and begins at ``since``."""

    def __init__(self, since: float) -> None:
        self._left = BURST
        self._at = since

    def take(self, now: float) -> float:
        """Count a box; return for how many seconds its sender should not be read, mostly 0."""
        self._left = min(BURST, self._left + (now - self._at) * BOXES_PER_SECOND) - 1.0
        self._at = now
        return 0.0 if self._left >= 0 else (HOLD_BOXES - self._left) / BOXES_PER_SECOND


MAX_LINE: Final = 4096
"""The most characters of one line of a log."""

MAX_LINES_BYTES: Final = 60_000
"""The most bytes of the lines that go into one box, as JSON."""


def words_of(text: str) -> str:
    """Return the words of the other side as one line that is not too long."""
    return one_line(text[:MAX_WORDS])[:MAX_WORDS]


def line_of(text: str) -> str:
    """Return a line of a log as one line that is not too long; a tab stays one."""
    return "\t".join(map(one_line, text[:MAX_LINE].split("\t")))[:MAX_LINE]


def batches(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield lines of a log in lists that fit into one box each; a line that is too long is cut."""
    batch: list[str] = []
    taken = 0
    for line in lines:
        cut, size = _fitting(line)
        if batch and taken + size > MAX_LINES_BYTES:
            yield batch
            batch, taken = [], 0
        batch.append(cut)
        taken += size
    if batch:
        yield batch


def last_lines(lines: Sequence[str], limit: int = MAX_LINES_BYTES) -> list[str]:
    """Return the last of the lines of a log: as many as take ``limit`` bytes at most, as JSON.

    A line that is too long is cut. By default they fit into one box.
    """
    found: list[str] = []
    taken = 0
    for line in reversed(lines):
        cut, size = _fitting(line)
        taken += size
        if taken > limit:
            break
        found.append(cut)
    return found[::-1]


def _fitting(line: str) -> tuple[str, int]:
    """Return a line, cut if it is too long, and its bytes in a list of JSON."""
    cut = line[:MAX_LINE].encode("utf-8", "replace").decode()
    return cut, len(msgspec.json.encode(cut)) + 1
