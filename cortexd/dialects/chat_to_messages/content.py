"""The contents of a chat's messages, converted to the content blocks of a Messages request.

translation.md 3 has the rules and their grades. A text that is empty or has only white space
becomes no block, because the Messages API rejects such blocks.
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import IMAGE_TYPE, Unshowable, typed_parts, unseen
from cortexd.dialects.wire.fields import quoted, read_dict, read_string
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile

_COMMON: Final = frozenset({"type", "cache_control", "prompt_cache_breakpoint"})
_KNOWN: Final = {
    "text": _COMMON | {"text"},
    "image_url": _COMMON | {"image_url"},
    "refusal": _COMMON | {"refusal"},
}
_KNOWN_OF_AN_IMAGE: Final = frozenset({"url", "detail"})

_SYSTEM_PARTS: Final = ("text",)
_USER_PARTS: Final = ("text", "image_url")
_ASSISTANT_PARTS: Final = ("text", "refusal")
_TOOL_PARTS: Final = ("text", "image_url")

_REGISTERED: Final = {"image/jpg": "image/jpeg"}
"""The registered media type for an unregistered one."""

_DATA: Final = "data:"
_FETCHED: Final = ("http://", "https://")
_LONGEST_SCHEME: Final = 8


def text_blocks(text: str) -> list[JsonObject]:
    """Return the block of a text, or no block if the text is blank."""
    return [{"type": "text", "text": text}] if text and not text.isspace() else []


class ContentReader:
    """Reads the contents of one chat, for an upstream with this ``profile``.

    Each method gets the ``content`` of a message and its path, and raises BadRequest with the
    faulty part.
    """

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations

    def system_blocks(self, content: object, path: str) -> list[JsonObject]:
        """Return the blocks of a system message, which may have only text."""
        parts = self._parts(content, path, _SYSTEM_PARTS, "a system message")
        return [block for part in parts for block in self._blocks(*part)]

    def user_blocks(self, content: object, path: str) -> list[JsonObject]:
        """Return the blocks of a user message, in the client's order."""
        parts = self._parts(content, path, _USER_PARTS, "a user message")
        return [block for part in parts for block in self._blocks(*part)]

    def assistant_blocks(self, content: object, path: str) -> list[JsonObject]:
        """Return the blocks of an assistant message; a refusal becomes text."""
        parts = self._parts(content, path, _ASSISTANT_PARTS, "an assistant message")
        return [block for part in parts for block in self._blocks(*part)]

    def result_content(self, content: object, path: str) -> str | list[JsonObject]:
        """Return the content of a tool result, empty if the result is.

        A text replaces an image that cannot be sent: see Unshowable.
        """
        if content is None or isinstance(content, str):
            return content or ""
        blocks: list[JsonObject] = []
        for kind, part, part_path in self._parts(content, path, _TOOL_PARTS, "a tool message"):
            try:
                blocks += self._blocks(kind, part, part_path)
            except Unshowable as error:
                self._approximations.note("tool_result_image")
                blocks += text_blocks(error.omission("image"))
        return blocks

    def _parts(
        self, content: object, path: str, taken: tuple[str, ...], place: str
    ) -> list[tuple[str, JsonObject, str]]:
        """Return type, part and path of each part of a content; a string is one text part."""
        return typed_parts(
            content,
            path,
            noun="part",
            place=f"{place} by this model",
            taken=taken,
            known=_KNOWN,
            approximations=self._approximations,
        )

    def _blocks(self, kind: str, part: JsonObject, path: str) -> list[JsonObject]:
        if kind == "image_url":
            return [self._image(part, path)]
        if kind == "refusal":
            self._approximations.note(kind)
        return text_blocks(read_string(part.get(kind), f"{path}.{kind}"))

    def _image(self, part: JsonObject, path: str) -> JsonObject:
        if not self._profile.vision:
            raise unseen(path)
        image = read_dict(part.get("image_url"), f"{path}.image_url")
        self._approximations.note_unknown(image, _KNOWN_OF_AN_IMAGE, "image_url")
        url_path = f"{path}.image_url.url"
        url = read_string(image.get("url"), url_path)
        return {"type": "image", "source": self._source(url, url_path)}

    def _source(self, url: str, path: str) -> JsonObject:
        scheme = url[:_LONGEST_SCHEME].lower()
        if scheme.startswith(_DATA):
            return _data_source(url, path)
        if not scheme.startswith(_FETCHED):
            reason = "not a data, http or https URL"
            raise Unshowable(path, reason, "send the image as a data URL")
        if not self._profile.fetches_images:
            reason = "images are not fetched here"
            raise Unshowable(path, reason, "send the image as a data URL")
        return {"type": "url", "url": url}


def _data_source(url: str, path: str) -> JsonObject:
    described, _, data = url[len(_DATA) :].partition(",")
    given, *parameters = described.split(";")
    media_type = _REGISTERED.get(given, given)
    if not IMAGE_TYPE.fullmatch(media_type):
        reason = f"its media type is {quoted(media_type)}"
        raise Unshowable(path, reason, "images are supported")
    if not data or not parameters or parameters[-1].lower() != "base64":
        reason = "its data are not in base64"
        raise Unshowable(path, reason, f"begin it with 'data:{media_type};base64,'")
    return {"type": "base64", "media_type": media_type, "data": data}
