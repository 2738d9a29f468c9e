"""The content of a response's input items, converted to the content of chat messages.

translation.md 10.2 has the rules. A part of the newest turn that cannot be sent is refused. Any
other becomes words: it stays in the conversation, so that an error would end the conversation.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import IMAGE_TYPE, Unshowable, unseen
from cortexd.dialects.wire.fields import quoted, refused
from cortexd.dialects.wire.json_values import JsonObject, encode, type_name
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadRequest

Piece = str | JsonObject
"""A text, or another part of a chat message's content."""

TEXT_FIELDS: Final = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
"""The kinds of text parts, and the field with the text of each."""

_IMAGES: Final = ("input_image", "image_url", "computer_screenshot")
_FILES: Final = ("input_file", "file")
_PLAIN_TYPES: Final = (
    "text/",
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
)
"""The beginnings of the media types of files whose content is text."""


class PartReader:
    """Reads the parts of one request's items, for an upstream with this ``profile``."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations

    def content(self, content: object, path: str, *, is_newest: bool) -> str | list[JsonObject]:
        """Return a content for a chat message: one string, unless there are other parts than text.

        Raises BadRequest for a part of the newest turn that cannot be sent, and for no other.
        """
        return joined(self.pieces(content, path, is_newest=is_newest))

    def text(self, content: object) -> str:
        """Return the text of a content of an earlier turn, with words for all that is no text."""
        content = joined(self.pieces(content, "", is_newest=False, only_text=True))
        return content if isinstance(content, str) else ""

    def pieces(
        self, content: object, path: str, *, is_newest: bool, only_text: bool = False
    ) -> list[Piece]:
        """Return the pieces of a content; with ``only_text`` words stand for all other parts."""
        if isinstance(content, str):
            return [content] if content else []
        if not isinstance(content, list):
            if is_newest:
                words = f"must be a string or an array of parts; found {type_name(content)}"
                raise refused(path, words)
            return [] if content is None else [_as_json(content)]
        pieces: list[Piece] = []
        for index, part in enumerate(content):
            part_path = f"{path}[{index}]"
            try:
                piece = self._piece(part, part_path)
                if only_text and not isinstance(piece, str):
                    raise Unshowable(part_path, "only text is possible here", "send text")
            except BadRequest as error:
                if is_newest:
                    raise
                piece = self._in_words(part, error)
            if piece:
                pieces.append(piece)
        return pieces

    def _in_words(self, part: object, error: BadRequest) -> str:
        kind = part.get("type") if isinstance(part, dict) else None
        name = kind if isinstance(kind, str) and kind else "part"
        self._approximations.note_unknown({name: True}, frozenset(), "input")
        if isinstance(error, Unshowable):
            return error.omission(error.medium)
        return f"[{name} omitted: it cannot be shown to the model]"

    def _piece(self, part: object, path: str) -> Piece:
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            raise refused(path, f"must be an object; found {type_name(part)}")
        kind = part.get("type")
        if isinstance(kind, str) and kind in TEXT_FIELDS:
            text = part.get(TEXT_FIELDS[kind])
            if not isinstance(text, str):
                field = f"{path}.{TEXT_FIELDS[kind]}"
                raise refused(field, f"must be a string; found {type_name(text)}")
            return text
        if kind in _IMAGES:
            return self._image(part, path)
        if kind in _FILES:
            return self._file(part, path)
        if kind == "input_audio":
            return _audio(part, path)
        found = quoted(kind) if isinstance(kind, str) else type_name(kind)
        raise refused(
            f"{path}.type",
            f"is {found}, which is not supported in 'input'; "
            "supported are input_text, input_image, input_file and input_audio",
        )

    def _image(self, part: JsonObject, path: str) -> JsonObject:
        if not self._profile.vision:
            raise unseen(path)
        url = part.get("image_url")
        if isinstance(url, dict):  # as in a chat
            url = url.get("url")
        if not isinstance(url, str) or not url:
            reason = "images by 'file_id' are not supported"
            raise Unshowable(path, reason, "send the image in 'image_url', as a data: URL")
        self._check_url(url, f"{path}.image_url", "image")
        if url[:5].lower() == "data:" and not IMAGE_TYPE.match(url, 5):
            raise Unshowable(path, "its media type is not an image's", "images are supported")
        return {"type": "image_url", "image_url": {"url": url}}

    def _check_url(self, url: str, path: str, medium: str) -> None:
        scheme = url.partition(":")[0].lower()
        instead = f"send the {medium} as a data: URL"
        if scheme not in ("http", "https", "data"):
            raise Unshowable(path, "not an http or https URL", instead, medium=medium)
        if scheme != "data" and not self._profile.fetches_images:
            raise Unshowable(path, f"{medium}s are not fetched here", instead, medium=medium)

    def _file(self, part: JsonObject, path: str) -> Piece:
        """Return the text of a file; an image that is sent as a file is an image."""
        inner = part.get("file")
        fields = inner if isinstance(inner, dict) else part
        data = fields.get("file_data")
        if not isinstance(data, str) or not data:
            way = "file_url" if fields.get("file_url") else "file_id"
            reason, instead = f"files by '{way}' are not supported", "send its text"
            raise Unshowable(path, reason, instead, medium="file")
        head, comma, encoded = data.partition(",")
        media_type = head[5:].partition(";")[0] if head[:5].lower() == "data:" and comma else ""
        if IMAGE_TYPE.fullmatch(media_type):
            return self._image({"image_url": data}, path)
        text = _decoded(encoded) if media_type.startswith(_PLAIN_TYPES) else None
        if text is None:
            found = quoted(media_type) if media_type else "unknown"
            reason = f"its type is {found}, and only text can be shown to the model"
            raise Unshowable(path, reason, "send its text", medium="file")
        self._approximations.note("input_file")
        name = fields.get("filename")
        return f"File: {name}\n{text}" if isinstance(name, str) and name else text


def joined(pieces: list[Piece]) -> str | list[JsonObject]:
    """Return the content of a message: texts alone are one string, others a list of parts."""
    parts: list[JsonObject] = []
    texts: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
            continue
        if texts:
            parts.append({"type": "text", "text": "\n".join(texts)})
            texts = []
        parts.append(piece)
    if not parts:
        return "\n".join(texts)
    if texts:
        parts.append({"type": "text", "text": "\n".join(texts)})
    return parts


def _audio(part: JsonObject, path: str) -> JsonObject:
    audio = part.get("input_audio")
    data = audio.get("data") if isinstance(audio, dict) else None
    kind = audio.get("format") if isinstance(audio, dict) else None
    if not isinstance(data, str) or not data or kind not in ("mp3", "wav"):
        reason, instead = "it has no data of format 'mp3' or 'wav'", "send one of these"
        raise Unshowable(path, reason, instead, medium="audio")
    media_type = "audio/mpeg" if kind == "mp3" else "audio/wav"
    return {"type": "audio_url", "audio_url": {"url": f"data:{media_type};base64,{data}"}}


def _decoded(encoded: str) -> str | None:
    """Return the text of a file, ``None`` if it is not base64 of UTF-8."""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _as_json(value: object) -> str:
    return encode(value).decode()
