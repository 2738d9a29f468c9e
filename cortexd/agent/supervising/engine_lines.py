"""The output of an engine as lines: cut, bounded, and fit for a log, a terminal and the link.

All of it is pure. Lines stay bytes until they are shown, because most never are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from cortexd.text import one_line, without_keys

LONGEST_BYTES: Final = 4096
"""The longest line; the rest of a longer one is left out, and counted."""

KEPT_LINES: Final = 2000
KEPT_BYTES: Final = 512 * 1024
"""How much of the latest output stays in memory."""

_MARK_BYTES: Final = 40
"""Room for the words about what was left out."""

_COLOURS = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SEVERITY = re.compile(r"<([0-7])>")
_LEVEL = re.compile(r"(?:\d\S*\s+)?\[?(ERROR|WARN|WARNING|INFO|DEBUG|TRACE|FATAL|CRITICAL)\b")
_LEVELS: Final = {
    "ERROR": "error",
    "FATAL": "error",
    "CRITICAL": "error",
    "WARN": "warning",
    "WARNING": "warning",
    "DEBUG": "debug",
    "TRACE": "debug",
}


class LineCutter:
    """Cuts output that comes in pieces into lines, in memory of at most one line."""

    def __init__(self) -> None:
        self._begun = b""
        self._left_out = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that this piece completes, each of at most LONGEST_BYTES."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._keep(first)
            return []
        lines = [self._completed(first)]
        lines += [line if len(line) <= LONGEST_BYTES else _cut(line) for line in rest[:-1]]
        self._keep(rest[-1])
        return lines

    def end(self) -> list[bytes]:
        """Return the line that has no end yet, if there is one."""
        return [self._completed(b"")] if self._begun else []

    def _keep(self, piece: bytes) -> None:
        room = LONGEST_BYTES - len(self._begun)
        self._begun += piece[:room]
        self._left_out += max(0, len(piece) - room)

    def _completed(self, piece: bytes) -> bytes:
        self._keep(piece)
        line, left_out = self._begun, self._left_out
        self._begun, self._left_out = b"", 0
        return _cut(line, left_out) if left_out else line


def _cut(line: bytes, left_out: int = 0) -> bytes:
    kept = line[: LONGEST_BYTES - _MARK_BYTES]
    return b"%s... [%d bytes more]" % (kept, left_out + len(line) - len(kept))


def shown(line: bytes) -> str:
    """Return a line as text of at most LONGEST_BYTES: printable, without colours and without keys.

    Of a line that a program has written over, as progress bars do, the last text is left.
    """
    if b"\x1b" in line:
        line = _COLOURS.sub(b"", line)
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    text = without_keys(text)
    if not text.isprintable():
        text = one_line(text.expandtabs())
    if len(text) * 4 > LONGEST_BYTES and len(encoded := text.encode()) > LONGEST_BYTES:
        kept = LONGEST_BYTES - _MARK_BYTES
        text = f"{encoded[:kept].decode(errors='ignore')}... [{len(encoded) - kept} bytes more]"
    return text


def level_of(text: str) -> tuple[str, str]:
    """Return the level of a shown line, a name of ``logs.LEVELS``, and the line without its mark.

    A line may begin with its severity in the form of sd-daemon(3), or with its level, after a time
    as in the logs of Rust programs. Any other line has the level "info".
    """
    found = _SEVERITY.match(text)
    if found is not None:
        number = int(found[1])
        level = "error" if number <= 3 else "warning" if number == 4 else "info"
        return "debug" if number == 7 else level, text[3:]
    found = _LEVEL.match(text)
    return _LEVELS.get(found[1], "info") if found is not None else "info", text


class Ring:
    """The latest lines, of at most KEPT_LINES and KEPT_BYTES together."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Add lines; the oldest ones go."""
        for line in lines[-KEPT_LINES:]:
            self._lines.append(line)
            self._bytes += len(line)
        while len(self._lines) > KEPT_LINES or self._bytes > KEPT_BYTES:
            self._bytes -= len(self._lines.popleft())

    def last(self, number: int) -> list[str]:
        """Return the last lines, shown."""
        start = max(0, len(self._lines) - number)
        return [shown(line) for at, line in enumerate(self._lines) if at >= start]
