"""The lines that wait until they can be written: pure, bounded, and in order."""

from collections import deque
from collections.abc import Callable


class Backlog:
    """Lines that wait, of at most ``limit`` bytes together, or a single one of any length.

    A line that does not fit is dropped and counted. From then on all lines are dropped until half
    of the room is free, so that the lines before the gap and those after it each stay whole. In the
    gap stands what ``notice`` returns for the number of dropped lines. ``dropped`` counts all that
    were ever dropped.
    """

    def __init__(self, limit: int, notice: Callable[[int], bytes]) -> None:
        self._limit = limit
        self._notice = notice
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._written_of_first = 0
        self._gap = 0
        self.dropped = 0

    def __bool__(self) -> bool:
        """Return whether any line waits."""
        return bool(self._lines)

    def add(self, line: bytes, written: int = 0) -> None:
        """Append a line, or drop it.

        If no line waits, some bytes of this one may have been ``written`` already: then it stays.
        """
        if written:
            self._append(line)
            self._written_of_first = written
            return
        limit = self._limit // 2 if self._gap else self._limit
        if self._lines and self._bytes + len(line) > limit:
            self._gap += 1
            self.dropped += 1
            return
        self._end_gap()
        self._append(line)

    def first(self) -> bytes:
        """Return what is to be written of the first line; IndexError if no line waits."""
        return self._lines[0][self._written_of_first :]

    def note_written(self, count: int) -> None:
        """Note that so many bytes of ``first`` were written."""
        self._written_of_first += count
        if self._written_of_first >= len(self._lines[0]):
            self._bytes -= len(self._lines.popleft())
            self._written_of_first = 0
            if not self._lines:
                self._end_gap()

    def _end_gap(self) -> None:
        if self._gap:
            gap, self._gap = self._gap, 0
            notice = self._notice(gap)
            if notice:
                self._append(notice)

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
