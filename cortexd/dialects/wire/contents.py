"""What the contents of messages have in common in both dialects: parts, each of a type.

A Messages request has content *blocks* where a chat has content *parts*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import quoted, read_dict, read_string, refused
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.errors import BadRequest

IMAGE_TYPE: Final = re.compile(r"image/[A-Za-z0-9.+-]+")
"""The media types of images."""


class Unshowable(BadRequest):
    """Raised for what cannot be put before the model.

    A tool's result, and what came with it, only says so instead: a refusal would end the client's
    whole conversation, of which they are a part from then on. ``medium`` is what it is about, an
    "image" or a "PDF".
    """

    def __init__(self, path: str, reason: str, instead: str, *, medium: str = "image") -> None:
        words = f"{path} cannot be sent: {reason}; {instead}"
        super().__init__(words, param=path, code="unsupported_value")
        self.reason = reason
        self.medium = medium

    def omission(self, kind: str) -> str:
        """Return what a tool's result says of a part of that ``kind``."""
        return f"[{kind} omitted: {self.reason}]"


def unseen(path: str) -> Unshowable:
    """Return the error for an image before a model that cannot see."""
    return Unshowable(path, "model has no vision", "only text is supported")


def reminder(text: str) -> str:
    """Return what the system says as part of what the user says (translation.md 2.1)."""
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
) -> list[tuple[str, JsonObject, str]]:
    """Return type, part and path of each part of a content; a string is one part of text.

    ``noun`` is what the dialect calls a part, and ``place`` names the content in a refusal.
    ``taken`` are the types that it may have, ``known`` the fields of each; others are noted.
    Raises BadRequest.
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
        if kind not in taken:
            raise refused(
                f"{part_path}.type",
                f"is {quoted(kind)}, which is not supported in {place}; "
                f"supported are {', '.join(taken)}",
            )
        approximations.note_unknown(part, known[kind], kind)
        found.append((kind, part, part_path))
    return found
