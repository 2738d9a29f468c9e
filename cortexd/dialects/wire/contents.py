"""The content of messages in both dialects: a list of parts, each with a type.

A Messages request calls them content *blocks*, a chat content *parts*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import quoted, read_dict, read_string, refused
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.errors import BadRequest

IMAGE_TYPE: Final = re.compile(r"image/[A-Za-z0-9.+-]+")
"""The media types of images."""


class Unshowable(BadRequest):
    """Raised for a part that the model cannot get.

    In a tool's result, and beside one, a text replaces the part instead: these parts stay in the
    conversation, so an error would end the whole conversation. ``medium`` is an "image" or a "PDF".
    """

    def __init__(self, path: str, reason: str, instead: str, *, medium: str = "image") -> None:
        words = f"{path} cannot be sent: {reason}; {instead}"
        super().__init__(words, param=path, code="unsupported_value")
        self.reason = reason
        self.medium = medium

    def omission(self, kind: str) -> str:
        """Return the text that replaces a part of this ``kind`` in a tool's result."""
        return f"[{kind} omitted: {self.reason}]"


def unseen(path: str) -> Unshowable:
    """Return the error for an image to a model without vision."""
    return Unshowable(path, "model has no vision", "only text is supported")


def reminder(text: str) -> str:
    """Return a system message as a part of a user's turn (translation.md 2.1)."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


def typed_parts(
    content: object,
    path: str,
    *,
    noun: str,
    place: str,
    taken: tuple[str, ...],
    known: Mapping[str, AbstractSet[str]],
    approximations: Approximations,
    tell: Callable[[str, JsonObject], str | None] | None = None,
) -> list[tuple[str, JsonObject, str]]:
    """Return type, part and path of each part of a content; a string is one text part.

    ``noun`` is the dialect's word for a part, and ``place`` names the content in an error.
    ``taken`` are the types allowed, and ``known`` the fields of each type; other fields are noted
    as ignored. In a history, ``tell`` returns the words for a part of another type, which then is a
    text, or ``None`` to leave it out; both are noted. Raises BadRequest.
    """
    if isinstance(content, str):
        return [("text", {"type": "text", "text": content}, path)]
    if not isinstance(content, list):
        raise refused(path, f"must be a string or an array of content {noun}s")
    found = []
    for index, value in enumerate(content):
        part_path = f"{path}[{index}]"
        part = read_dict(value, part_path)
        kind = read_string(part.get("type"), f"{part_path}.type")
        if kind not in taken and tell is not None:
            approximations.note_unknown({kind: True}, frozenset())
            words = tell(kind, part)
            if words is not None:
                found.append(("text", {"type": "text", "text": words}, part_path))
            continue
        if kind not in taken:
            raise refused(
                f"{part_path}.type",
                f"is {quoted(kind)}, which is not supported in {place}; "
                f"supported are {', '.join(taken)}",
            )
        approximations.note_unknown(part, known[kind], kind)
        found.append((kind, part, part_path))
    return found
