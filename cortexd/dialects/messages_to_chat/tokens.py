"""An estimate of the tokens of an Anthropic Messages request, if no node can count them.

Clients need a count before they send a request: Claude Code calls the route fourteen times to show
its context. If the route did not exist, it would generate an answer of one token each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cortexd.dialects.wire.exchange import PromptSize
from cortexd.dialects.wire.fields import read_list
from cortexd.dialects.wire.json_values import JsonObject, encode, read_model, read_object
from cortexd.dialects.wire.token_ratios import START
from cortexd.errors import BadRequest

COUNT_ROUTE: Final = "/v1/messages/count_tokens"
COUNT_HEADER: Final = ("X-Cortex-Token-Count", "estimate")
"""Marks the count as an estimate."""

IMAGE_TOKENS: Final = 1_600
"""The tokens of an image: Anthropic's count for the largest image that it does not scale down."""


class TokenSizes(NamedTuple):
    """A model's bytes per token, and the tokens of an image."""

    bytes_per_token: float = START
    image_tokens: int = IMAGE_TOKENS


def start_sizes(model: str) -> TokenSizes:
    """Return the default sizes of a ``model``."""
    return TokenSizes()


def measure_prompt(body: JsonObject, sizes: TokenSizes) -> PromptSize:
    """Return the size of a Messages body for a model with these sizes, at least one token.

    The prompt, the turns and the tools count by their bytes as JSON. A document that is not text
    counts as an image, whatever the size of its file. The body may have any format.
    """
    rendered = sum(
        len(encode(body[field])) for field in ("system", "messages", "tools") if body.get(field)
    )
    media = list(_media(body.get("messages")))
    text_bytes = rendered - sum(media)
    tokens = round(text_bytes / sizes.bytes_per_token) + sizes.image_tokens * len(media)
    return PromptSize(max(1, tokens), text_bytes, has_media=bool(media))


def count_answer(tokens: int) -> bytes:
    """Return the answer to a count."""
    return encode({"input_tokens": tokens})


@dataclass(frozen=True, slots=True)
class CountRequest:
    """A request to count the tokens of a Messages request; ``model`` is the client's name."""

    model: str
    fields: JsonObject

    def estimate(self, token_sizes: Callable[[str], TokenSizes] = start_sizes) -> bytes:
        """Return the answer with our estimate; see ``start_sizes``. Raises BadRequest."""
        try:
            size = measure_prompt(self.fields, token_sizes(self.model))
            return count_answer(size.tokens)
        except RecursionError:
            raise BadRequest("the body is nested too deeply") from None


def read_count(body: bytes) -> CountRequest:
    """Return the request to count in ``body``. Raises BadRequest with the faulty field."""
    fields = read_object(body)
    model = read_model(fields)
    read_list(fields.get("messages"), "messages")
    return CountRequest(model, fields)


def _media(messages: object) -> Iterator[int]:
    """Yield the number of characters of each file's data in the blocks, 0 if it is elsewhere."""
    waiting = [messages]
    while waiting:
        blocks = waiting.pop()
        if not isinstance(blocks, list):
            continue
        for block in blocks:
            if not isinstance(block, dict):
                continue
            waiting.append(block.get("content"))
            source = block.get("source")
            if isinstance(source, dict):
                waiting.append(source.get("content"))
                if source.get("type") in ("base64", "url", "file"):
                    data = source.get("data")
                    yield len(data) if isinstance(data, str) else 0
