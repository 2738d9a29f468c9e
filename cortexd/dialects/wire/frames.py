"""The short way for a chunk that differs from the previous one only in its text.

Nearly every chunk of a stream is one token in the same frame. Parsing and rewriting take a third of
the gateway's time for a chunk. So we learn the frame from one chunk that was parsed, and cut the
texts of the next ones out of the node's frame and into ours. A chunk that differs in any other
byte, or whose text contains an escape, is parsed. The frame includes that of the event, so that a
read with exactly one event need not be decoded either.

This is sound because a text without quotation mark and backslash between two quotation marks is one
JSON string: the bytes around it have the same meaning as in the chunk that was parsed.
"""

from __future__ import annotations

from collections.abc import Callable

from cortexd import sse
from cortexd.dialects.wire.json_values import JsonObject, decode

_MARK = b"4fd1c9b2-text"
"""Replaces the text while a frame is learned; a frame that contains it already is not learned."""


class Mould:
    """A node's frame around a text, and ours: the bytes before and after the text."""

    __slots__ = ("_after", "_before", "_frame_bytes", "_our_after", "_our_before", "has_fitted")

    def __init__(self, before: bytes, after: bytes, our_before: bytes, our_after: bytes) -> None:
        self._before = before
        self._after = after
        self._frame_bytes = len(before) + len(after)
        self._our_before = our_before
        self._our_after = our_after
        self.has_fitted = False

    def cast(self, data: bytes) -> bytes | None:
        """Return the node's event in our frame, or ``None`` if it must be parsed."""
        if not (data.startswith(self._before) and data.endswith(self._after)):
            return None
        text = data[len(self._before) : -len(self._after)]
        if not text or b'"' in text or b"\\" in text or len(text) + self._frame_bytes != len(data):
            return None
        try:
            # A JSON string must not contain control characters.
            if not text.decode().isprintable():
                return None
        except UnicodeDecodeError:
            return None
        self.has_fitted = True
        return self._our_before + text + self._our_after

    def numbered(self, numbers: Numbers, texts: list[str]) -> NumberedMould:
        """Return this mould as a NumberedMould."""
        return NumberedMould(
            self._before, self._after, self._our_before, self._our_after, numbers, texts
        )


class Numbers:
    """The numbers of a stream's events: ``next`` is that of the next event."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0

    def take(self) -> int:
        """Return the number of the next event."""
        number = self.next
        self.next = number + 1
        return number


class NumberedMould(Mould):
    """A mould for a dialect that numbers its events, and that repeats the whole text at the end.

    ``our_after`` must end with the number 0, which each cast replaces by the next of ``numbers``.
    Each cast also adds its text to ``texts``.
    """

    __slots__ = ("_numbers", "_texts")

    _END = b"0}\n\n"

    def __init__(
        self,
        before: bytes,
        after: bytes,
        our_before: bytes,
        our_after: bytes,
        numbers: Numbers,
        texts: list[str],
    ) -> None:
        super().__init__(before, after, our_before, our_after.removesuffix(self._END))
        self._numbers = numbers
        self._texts = texts

    def cast(self, data: bytes) -> bytes | None:
        """Return the node's event in our frame, or ``None`` if it must be parsed."""
        frame = super().cast(data)
        if frame is None:
            return None
        self._texts.append(data[len(self._before) : -len(self._after)].decode())
        numbers = self._numbers
        number = numbers.next
        numbers.next = number + 1
        return b"%b%d}\n\n" % (frame, number)


def learn(
    data: bytes, key: bytes, text: str, render: Callable[[JsonObject], bytes]
) -> Mould | None:
    """Return the mould of a chunk whose only text is ``text``; ``None`` if it has no mould.

    ``data`` is the data of the event, and ``key`` the JSON of the text's key with colon and opening
    quotation mark. ``render`` makes the downstream bytes of a parsed chunk.
    """
    written = text.encode()
    before, found, after = data.partition(key + written + b'"')
    if not written or not found or not text.isprintable() or _MARK in data:
        return None
    if b'"' in written or b"\\" in written or found in after:
        return None
    before, after = before + key, b'"' + after
    ours = render(decode(before + _MARK + after))
    our_before, found, our_after = ours.partition(_MARK)
    if not found:
        return None
    frame_before, _, frame_after = sse.encode(before + _MARK + after).partition(_MARK)
    return Mould(frame_before, frame_after, our_before, our_after)
