"""An estimate of the tokens of a response's request, if no node can count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.wire.exchange import PromptSize
from cortexd.dialects.wire.json_values import JsonObject, encode

_DATA_FIELDS: Final = ("image_url", "file_data", "data", "result", "encrypted_content")
"""The fields of items and parts whose text is no text for the model."""

_NAMES: Final = ("id", "status")
"""The fields of items that no model reads; most of the ids are ours, and as long as a sentence."""


class _Medium(NamedTuple):
    characters: int
    is_shown: bool


def measure_response(
    fields: JsonObject, items: Sequence[JsonObject], sizes: TokenSizes
) -> PromptSize:
    """Return the size of a request for a model with these sizes, at least one token.

    Instructions, items and tools count by their bytes as JSON, without the ids of items, and a
    picture or a file by a constant, whatever its size. The values may have any format.
    """
    said = [{name: item[name] for name in item if name not in _NAMES} for item in items]
    rendered = len(encode(said)) + sum(
        len(encode(fields[name])) for name in ("instructions", "tools") if fields.get(name)
    )
    media = list(_media(items))
    text_bytes = rendered - sum(medium.characters for medium in media)
    shown = sum(medium.is_shown for medium in media)
    tokens = round(text_bytes / sizes.bytes_per_token) + sizes.image_tokens * shown
    return PromptSize(max(1, tokens), text_bytes, has_media=bool(shown))


def _media(items: Sequence[JsonObject]) -> Iterator[_Medium]:
    waiting: list[object] = [items]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in _DATA_FIELDS and isinstance(inner, str):
                    yield _Medium(len(inner), is_shown=name != "encrypted_content")
                elif isinstance(inner, (list, dict)):
                    waiting.append(inner)
