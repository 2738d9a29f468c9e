"""Content blocks of an Anthropic Messages request, converted to the pieces of a chat message.

A *piece* is text or an image: a string, or a part of a chat message's content. translation.md 2.2
has the rules and their grades.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cortexd.dialects.fitting.contents import Content, of_pieces
from cortexd.dialects.messages_to_chat.told import told_in_words
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import IMAGE_TYPE, Unshowable, typed_parts, unseen
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_list,
    read_name,
    read_optional_string,
    read_string,
)
from cortexd.dialects.wire.json_values import JsonObject, read_flag
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadRequest

Piece = str | JsonObject

ReadPieces = Callable[[str, JsonObject, str], list[Piece]]
"""Returns the pieces of a block; its arguments are the type, the block and its path."""

_COMMON = frozenset({"type", "cache_control"})
_KNOWN: Final = {
    "text": _COMMON | {"text", "citations"},
    "image": _COMMON | {"source"},
    "document": _COMMON | {"source", "title", "context", "citations"},
    "search_result": _COMMON | {"source", "title", "content", "citations"},
    "tool_use": _COMMON | {"id", "name", "input", "caller"},
    "tool_result": _COMMON | {"tool_use_id", "content", "is_error"},
    "thinking": _COMMON | {"thinking", "signature"},
    "redacted_thinking": _COMMON | {"data"},
    "tool_reference": _COMMON | {"tool_name"},
}

SYSTEM_BLOCKS: Final = ("text",)
USER_BLOCKS: Final = ("text", "image", "document", "search_result", "tool_result")
ASSISTANT_BLOCKS: Final = ("text", "thinking", "redacted_thinking", "tool_use")
_MADE_TEXT: Final = ("document", "search_result")
_DOCUMENT_BLOCKS: Final = ("text", "image")
_TOOL_RESULT_BLOCKS: Final = ("text", "image", "document", "search_result", "tool_reference")

_TELLS_OF_AN_ERROR = ("Error", "<tool_use_error>")
"""The beginnings of a tool's own error messages, which get no ``Error:`` in front."""


class BlockReader:
    """Reads the blocks of one request, for an upstream with this ``profile``."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations

    def blocks(
        self,
        content: object,
        path: str,
        taken: tuple[str, ...],
        place: str,
        *,
        is_history: bool = False,
    ) -> list[tuple[str, JsonObject, str]]:
        """Return type, block and path of each block of a content; a string is one text block.

        ``taken`` are the types that are allowed here, and ``place`` names the content in an error.
        Blocks of other types are told in words, or left out, if the content is part of a history.
        Raises BadRequest.
        """
        return typed_parts(
            content,
            path,
            noun="block",
            place=place,
            taken=taken,
            known=_KNOWN,
            approximations=self._approximations,
            tell=told_in_words if is_history else None,
        )

    def texts(
        self, content: object, path: str, place: str, *, is_history: bool = False
    ) -> list[str]:
        """Return the texts of a content that may contain only text, without the empty ones."""
        blocks = self.blocks(content, path, SYSTEM_BLOCKS, place, is_history=is_history)
        return [text for _, block, block_path in blocks if (text := text_of(block, block_path))]

    def user_pieces(self, kind: str, block: JsonObject, path: str) -> list[Piece]:
        """Return the pieces of a user's block that is not a tool result."""
        if kind in _MADE_TEXT:
            _check_citations(block, path)
            self._approximations.note(kind)
        return self._pieces(kind, block, path, self._shown)

    def pieces_of_history(self, kind: str, block: JsonObject, path: str) -> list[Piece]:
        """Return the pieces of a block of an earlier turn, or one that came with tool results.

        A text replaces a part that cannot be sent, as in a tool result. Claude Code puts a PDF that
        a tool has read beside the result.
        """
        if kind in _MADE_TEXT:
            self._approximations.note(kind)
        return self._pieces_or_words(kind, block, path, word=kind)

    def _pieces_or_words(
        self, kind: str, block: JsonObject, path: str, *, word: str
    ) -> list[Piece]:
        """Return the pieces of a block, or a text if it cannot be sent; see Unshowable.

        ``word`` is noted for that. If a block shall be cited, its text is sent, but the answer has
        no citations.
        """
        if _is_to_be_cited(block):
            self._approximations.note("citations")
        try:
            return self._pieces(kind, block, path, self._shown_or_told)
        except Unshowable as error:
            self._approximations.note(word)
            return [error.omission(kind)]

    def _pieces(
        self, kind: str, block: JsonObject, path: str, read_inner: ReadPieces
    ) -> list[Piece]:
        """Return the pieces of a block; ``read_inner`` reads the blocks inside a document."""
        if kind == "document":
            return self._document(block, path, read_inner)
        if kind == "search_result":
            return [_search_result(block, path)]
        return self._shown(kind, block, path)

    def _shown(self, kind: str, block: JsonObject, path: str) -> list[Piece]:
        if kind == "image":
            return [self._image(block, path)]
        text = text_of(block, path)
        return [text] if text else []

    def _shown_or_told(self, kind: str, block: JsonObject, path: str) -> list[Piece]:
        try:
            return self._shown(kind, block, path)
        except Unshowable as error:
            return [error.omission(kind)]

    def _image(self, block: JsonObject, path: str) -> JsonObject:
        if not self._profile.vision:
            raise unseen(path)
        source_path = f"{path}.source"
        source = read_dict(block.get("source"), source_path)
        kind = read_string(source.get("type"), f"{source_path}.type")
        if kind == "base64":
            media_type = read_string(source.get("media_type"), f"{source_path}.media_type")
            data = read_name(source.get("data"), f"{source_path}.data")
            if not IMAGE_TYPE.fullmatch(media_type):
                reason = f"its media type is {quoted(media_type)}"
                raise Unshowable(f"{source_path}.media_type", reason, "images are supported")
            url = f"data:{media_type};base64,{data}"
        elif kind == "url":
            url = read_string(source.get("url"), f"{source_path}.url")
            self._check_url(url, f"{source_path}.url")
        else:
            reason = f"images by {quoted(kind)} are not supported"
            raise Unshowable(source_path, reason, "send the image as 'base64' or 'url'")
        return {"type": "image_url", "image_url": {"url": url}}

    def _check_url(self, url: str, path: str) -> None:
        scheme = url.partition(":")[0].lower()
        if scheme not in ("http", "https", "data"):
            raise Unshowable(path, "not an http or https URL", "send the image as 'base64'")
        if scheme != "data" and not self._profile.fetches_images:
            raise Unshowable(path, "images are not fetched here", "send the image as 'base64'")

    def _document(self, block: JsonObject, path: str, read_inner: ReadPieces) -> list[Piece]:
        source_path = f"{path}.source"
        source = read_dict(block.get("source"), source_path)
        kind = read_string(source.get("type"), f"{source_path}.type")
        pieces: list[Piece] = []
        for name in ("title", "context"):
            if words := read_optional_string(block.get(name), f"{path}.{name}"):
                pieces.append(f"{name.capitalize()}: {words}")
        if kind == "text":
            pieces.append(read_string(source.get("data"), f"{source_path}.data"))
        elif kind == "content":
            content_path = f"{source_path}.content"
            for inner in self.blocks(
                source.get("content"), content_path, _DOCUMENT_BLOCKS, "a document"
            ):
                pieces += read_inner(*inner)
        else:
            reason = f"documents by {quoted(kind)} are not supported"
            instead = "send the document as 'text' or 'content'"
            raise Unshowable(source_path, reason, instead, medium="PDF")
        return pieces

    # Tool results.

    def tool_result(self, block: JsonObject, path: str) -> Content:
        """Return a tool result, whose images the fitting moves.

        A text replaces an image or document that cannot be sent: see Unshowable.
        """
        content = block.get("content")
        pieces: list[Piece] = []
        if content is not None:
            place = f"{path}.content"
            for inner in self.blocks(
                content, place, _TOOL_RESULT_BLOCKS, "a tool_result", is_history=True
            ):
                pieces += self._result_pieces(*inner)
        if read_flag(block, "is_error", within=path):
            self._approximations.note("is_error")
            first = pieces[0] if pieces else ""
            if not isinstance(first, str):
                pieces.insert(0, "Error:")
            elif not first.startswith(_TELLS_OF_AN_ERROR):
                pieces[:1] = [f"Error: {first}"]
        return of_pieces(pieces)

    def _result_pieces(self, kind: str, block: JsonObject, path: str) -> list[Piece]:
        if kind == "text":
            return [text_of(block, path)]
        word = f"tool_result_{kind}"
        self._approximations.note(word)
        if kind == "tool_reference":
            return [f"[tool: {read_name(block.get('tool_name'), f'{path}.tool_name')}]"]
        return self._pieces_or_words(kind, block, path, word=word)


def text_of(block: JsonObject, path: str) -> str:
    """Return the text of a text block. Raises BadRequest."""
    text: Any = block.get("text")
    return text if isinstance(text, str) else read_string(text, f"{path}.text")


def _search_result(block: JsonObject, path: str) -> str:
    lines = [
        f"{label}: {read_string(block.get(name), f'{path}.{name}')}"
        for label, name in (("Title", "title"), ("Source", "source"))
    ]
    body = read_list(block.get("content"), f"{path}.content")
    for index, value in enumerate(body):
        inner_path = f"{path}.content[{index}]"
        lines.append(text_of(read_dict(value, inner_path), inner_path))
    return "\n".join(lines)


def _is_to_be_cited(block: JsonObject) -> bool:
    citations = block.get("citations")
    return isinstance(citations, dict) and citations.get("enabled") is True


def _check_citations(block: JsonObject, path: str) -> None:
    citations = block.get("citations")
    if citations is None:
        return
    citations_path = f"{path}.citations"
    if read_flag(read_dict(citations, citations_path), "enabled", within=citations_path):
        path = f"{citations_path}.enabled"
        words = f"{path} cannot be true: citations are not supported; leave 'citations' out"
        raise BadRequest(words, param=path, code="unsupported_value")
