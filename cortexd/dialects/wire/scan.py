"""How many values a JSON text has and how deeply it nests, found before it is decoded.

A small text can become values of many times its size, and to decode it would hold the reactor.
Counts of bytes give upper bounds at once. Only if a bound exceeds its limit, the strings are taken
out and the rest is counted exactly, in slices. All of it runs at the speed of C.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from cortexd.errors import BadRequest, BodyTooLarge

MAX_DEPTH: Final = 200
"""The deepest nesting of arrays and objects. Schemas of tools have up to some 30 levels; Python's
own limits differ from version to version, and are above 400 in each."""

MAX_VALUES: Final = 500_000
"""The most values of a body: scalars, arrays and objects. The longest conversations of coding
agents, with thousands of turns, have a tenth of that."""

MAX_ITEMS: Final = 100_000
"""The most messages of a conversation, as in the Messages API, and the most inputs."""

MAX_PARTS: Final = 10_000
"""The most parts of one message."""

MAX_TOOLS: Final = 5_000
"""The most tools: each event of some answers is searched for each of their names."""

_MOST: Final = {"messages": MAX_ITEMS, "input": MAX_ITEMS, "tools": MAX_TOOLS}

LIGHT_BYTES: Final = 256 * 1024
LIGHT_VALUES: Final = 3_000
"""The size of requests that the reactor itself translates. A value takes up to 6 us, and a
megabyte of text some 20 ms."""

_SLICE: Final = 256 * 1024

_LEVELS: Final = bytes(1 if each in b"[{" else 0xFF for each in range(256))
"""Makes 1 of a bracket that opens, and -1 of one that closes, as signed bytes."""

_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")

_FEW_LEVELS: Final = 32

_NO_SIGNS: Final = bytes(each for each in range(256) if each not in b'[]{},"')
_NO_BRACKETS: Final = bytes(each for each in range(256) if each not in b"[]{}")


class Size(NamedTuple):
    """The values of a JSON text, and how deeply its arrays and objects nest."""

    values: int
    depth: int


def bounds(text: bytes) -> Size:
    """Return upper bounds of a text's size: the bytes in its strings count as if outside."""
    containers = text.count(b"[") + text.count(b"{")
    return Size(1 + text.count(b",") + containers, containers)


def measure(text: bytes, *, most_values: int = MAX_VALUES, most_depth: int = MAX_DEPTH) -> Size:
    """Return the exact size of valid JSON, except that an empty array or object counts twice.

    The scan ends early, with the size so far, once one of the limits is exceeded.
    """
    values, depth, level = 1, 0, 0
    start, in_string = 0, False
    while start < len(text) and values <= most_values and depth <= most_depth:
        piece = text[start : start + _SLICE]
        # The slice must not end between a backslash and the byte that it escapes.
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and len(piece) > 1:
            piece = piece[:-1]
        start += len(piece)
        signs = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_SIGNS)
        parts = signs.replace(b'""', b"").split(b'"')
        outside = b"".join(parts[1::2] if in_string else parts[::2])
        in_string ^= len(parts) % 2 == 0
        brackets = outside.translate(None, _NO_BRACKETS)
        values += outside.count(b",") + brackets.count(b"[") + brackets.count(b"{")
        highest, level = _levels(brackets, level)
        depth = max(depth, highest)
    return Size(values, depth)


def _levels(brackets: bytes, level: int) -> tuple[int, int]:
    """Return the highest level that brackets reach from a level, and the last one.

    Most texts nest a few levels. Each step takes their innermost brackets away, which costs a tenth
    of a count of all levels.
    """
    left, steps = brackets.translate(_ONE_KIND), 0
    while left and steps < _FEW_LEVELS:
        fewer = left.replace(b"[]", b"")
        if len(fewer) == len(left):
            break
        left, steps = fewer, steps + 1
    if not left:
        return level + steps, level
    levels = list(accumulate(array("b", brackets.translate(_LEVELS)), initial=level))
    return max(levels), levels[-1]


def is_light(*texts: bytes) -> bool:
    """Return whether a request of these texts can be translated within 20 ms or so.

    Another process translates one that is not. Raises as ``check_size`` does.
    """
    if sum(map(len, texts)) > LIGHT_BYTES:
        return False
    light = 0
    for text in texts:
        values, depth = bounds(text)
        if values > LIGHT_VALUES or depth > MAX_DEPTH:
            values, depth = measure(text)
            _check(values, depth)
        light += values
    return light <= LIGHT_VALUES


def check_size(*texts: bytes) -> None:
    """Raise BadRequest for a text that nests too deeply, BodyTooLarge for too many values."""
    total = 0
    for text in texts:
        values, depth = bounds(text)
        if total + values > MAX_VALUES or depth > MAX_DEPTH:
            values, depth = measure(text)
        total += values
        _check(total, depth)


def _check(values: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadRequest(
            f"the body is nested too deeply: it may have at most {MAX_DEPTH} levels of arrays and "
            "objects"
        )
    if values > MAX_VALUES:
        raise BodyTooLarge(
            f"the body has more than {MAX_VALUES} JSON values, which is the limit; send fewer "
            "messages, parts, inputs or tools"
        )


def check_counts(fields: Mapping[str, Any]) -> None:
    """Raise BodyTooLarge for a request with too many messages, inputs, tools or parts of one."""
    for name, most in _MOST.items():
        found = fields.get(name)
        if not isinstance(found, list):
            continue
        if len(found) > most:
            raise BodyTooLarge(f"{name!r} has {len(found)} elements; at most {most} are allowed")
        if name == "tools":
            continue
        for index, item in enumerate(found):
            content = item.get("content") if isinstance(item, dict) else None
            if isinstance(content, list) and len(content) > MAX_PARTS:
                raise BodyTooLarge(
                    f"'{name}[{index}].content' has {len(content)} parts; "
                    f"at most {MAX_PARTS} are allowed"
                )
