"""Contents of messages: a string, or a list of parts where a user's message has media.

A node shows a list to the template as a list, and most templates know only strings (nodes.md
4.1.4). It rejects a part with a field that is no string and no object of strings (nodes.md 4.1.6).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject

Content = str | list[JsonObject]

BETWEEN_TURNS: Final = "\n\n"
BETWEEN_PARTS: Final = "\n"

MEDIA: Final = {"image_url": "image", "audio_url": "audio", "video_url": "video", "file": "file"}
"""The types of parts that nodes accept beside text, and the word for each."""


def joined(contents: Iterable[Content], separator: str) -> Content:
    """Return contents as one, their texts joined by the separator; empty ones leave no trace.

    Texts in a row become one part, because nodes join the texts of parts by a space.
    """
    given = [content for content in contents if content]
    if len(given) == 1:
        return given[0]
    parts: list[JsonObject] = []
    texts: list[str] = []
    for content in given:
        for part in [content] if isinstance(content, str) else content:
            if isinstance(part, str):
                texts.append(part)
            elif part.get("type") == "text":
                texts.append(part["text"])
            else:
                _close_text(texts, parts, separator)
                parts.append(part)
    if not parts:
        return separator.join(texts)
    _close_text(texts, parts, separator)
    return parts


def of_pieces(pieces: Iterable[str | JsonObject]) -> Content:
    """Return the content of one message from its texts and media."""
    return joined([piece if isinstance(piece, str) else [piece] for piece in pieces], BETWEEN_PARTS)


def _close_text(texts: list[str], parts: list[JsonObject], separator: str) -> None:
    if texts:
        parts.append({"type": "text", "text": separator.join(texts)})
        texts.clear()


def accepted_part(part: JsonObject) -> JsonObject:
    """Return a part of media with the fields that nodes accept, itself if it has no others.

    The address of a medium goes where nodes look for it.
    """
    kind = part["type"]
    address = part.get(kind)
    if isinstance(address, str) and kind in MEDIA and kind != "file":
        part = {**part, kind: {"url": address}}
    if all(map(_is_accepted, part.values())):
        return part
    return {name: kept for name, value in part.items() if (kept := _kept(value)) is not None}


def _is_accepted(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(inner, str) for inner in value.values())
    return isinstance(value, str)


def _kept(value: object) -> str | dict[str, str] | None:
    if isinstance(value, dict):
        return {name: inner for name, inner in value.items() if isinstance(inner, str)}
    return value if isinstance(value, str) else None


def address_of(part: JsonObject) -> str | None:
    """Return the URL of a medium, ``None`` if the part has none."""
    address = part.get(part["type"])
    url = address.get("url") if isinstance(address, dict) else address
    return url if isinstance(url, str) else None
