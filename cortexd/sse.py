"""Server-sent events: bytes in, events out, and back.

The format is that of the WHATWG HTML standard (section 9.2): lines end in LF, CRLF or CR, a blank
line ends an event, several ``data`` lines are joined by LF, a line that starts with a colon is a
comment, and one space after the colon belongs to the syntax. There are two differences: ``id`` and
``retry`` are ignored, because no client or node uses them, and an event that is unfinished when the
stream ends is discarded.

Decoding works on bytes, so a character may be split between two reads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_EVENT_BYTES = 1536 * 1024
"""The largest event accepted: one chunk may contain a whole tool call, so 1 MiB is not enough."""

LINE_BYTES = 64
"""What each line of an event counts beside its bytes: about the memory that Python takes for it."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """Raised when an unfinished event exceeds the decoder's limit."""


class ServerSentEvent(NamedTuple):
    """One event: its data without the framing, and its name (``b"message"`` if unnamed)."""

    data: bytes
    name: bytes = b"message"


class SseDecoder:
    """Decodes the bytes of an event stream, split anywhere, into events.

    ``max_event_bytes`` limits the stored bytes of an unfinished event. ``is_between_events`` means
    that no unfinished event is stored.
    """

    __slots__ = (
        "_data",
        "_data_bytes",
        "_max_event_bytes",
        "_name",
        "_partial",
        "is_between_events",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self.is_between_events = True

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that ``data`` completes, in order.

        Raises EventTooLarge when an unfinished event exceeds the limit; the decoder must not be
        used after that.
        """
        if (
            # A node writes one unnamed event of one LF-ended line for each token, so most reads
            # contain exactly that. Recognising it here halves the cost.
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.find(b"\n") == len(data) - 2
            and b"\r" not in data
            and self.is_between_events
        ):
            return [ServerSentEvent(data[6:-2])]
        events: list[ServerSentEvent] = []
        if _LINE_END.search(data) or self._partial.endswith(b"\r"):
            # The parts of a line are copied once, when its end has arrived: copying at each read
            # would take time quadratic in the length of the line.
            if self._partial:
                self._partial += data
                data = bytes(self._partial)
                self._partial = bytearray()
            start = 0
            for match in _LINE_END.finditer(data):
                end, after = match.span()
                if match[0] == b"\r" and after == len(data):
                    break  # the LF of this CRLF may still arrive
                self._take_line(data[start:end], events)
                start = after
            data = data[start:]
        if data:
            self._partial += data
        self.is_between_events = not (self._partial or self._data or self._name)
        if len(self._partial) + self._data_bytes > self._max_event_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")
        return events

    def _take_line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerSentEvent(b"\n".join(self._data), self._name or b"message"))
            self._data = []
            self._data_bytes = 0
            self._name = b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            # A line without data takes memory too, and an event may have any number of them.
            self._data_bytes += len(value) + LINE_BYTES
        elif field == b"event":
            self._name = value


def encode(data: bytes, name: bytes | None = None) -> bytes:
    """Return the bytes of one event; ``data`` must contain no CR, which is true of JSON."""
    framed = b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
    return framed if name is None else b"event: " + name + b"\n" + framed


def comment(text: bytes) -> bytes:
    """Return a comment, which clients ignore; ``text`` is one line."""
    return b": " + text + b"\n\n"
