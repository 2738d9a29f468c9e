"""The keys of what a prompt begins with: equal keys, equal beginnings.

A node finds the prefix of a prompt only where it has read it before (nodes.md 7.10), so a request
should go where its conversation went before. The beginnings are those of the request as the node
gets it. Chat templates show tools and the system prompt first, then turn after turn.

The keys are the same in every process: a large request is translated in another one, and a
successor takes over requests that wait. They are short hashes that nobody can aim at, so that
``keys_for`` may mix in the requester by a sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from cortexd.dialects.wire.json_values import JsonObject, encode

FIRST_KEPT: Final = 3
LAST_KEPT: Final = 5
"""How many of the beginnings have keys: the shortest, which conversations share, and the longest,
by which a conversation finds itself. A turn adds some two messages, or four with a tool."""

LEAST_BYTES: Final = 512
"""The size of the shortest beginning that has a key. A node finds whole blocks of 16 or 32 tokens,
and a prompt of a few of them is read in no time, so nothing need stay together for it."""

MOST_BYTES: Final = 1024 * 1024
"""How much of a prompt is read for keys. Beginnings that are longer have none."""

_LEADING: Final = ("system", "developer")
_FIRST_CHARACTERS: Final = 2_048
_ALL: Final = (1 << 64) - 1


def chat_keys(upstream: JsonObject) -> tuple[int, ...]:
    """Return the keys of a chat completion's beginnings, the shortest first."""
    messages = upstream.get("messages")
    if not isinstance(messages, list):
        return text_keys(messages)
    leading = 0
    for message in messages:
        if message.get("role") not in _LEADING:
            break
        leading += 1
    return _keys(_pieces([upstream.get("tools"), *messages[:leading]], messages[leading:]))


def messages_keys(upstream: JsonObject) -> tuple[int, ...]:
    """Return the keys of the beginnings of a Messages request, the shortest first.

    Clients move the marks of the vendor's cache to the newest turn, so the marks do not count.
    """
    head = [_unmarked(upstream.get("tools")), _unmarked(upstream.get("system"))]
    turns = [
        {**turn, "content": _unmarked(turn.get("content"))} if isinstance(turn, dict) else turn
        for turn in upstream["messages"]
    ]
    return _keys(_pieces(head, turns))


def response_keys(upstream: JsonObject) -> tuple[int, ...]:
    """Return the keys of the beginnings of a request for a response, the shortest first."""
    given = upstream.get("input")
    head = [upstream.get("tools"), upstream.get("instructions")]
    return _keys(_pieces(head, given if isinstance(given, list) else [given]))


def text_keys(prompt: object) -> tuple[int, ...]:
    """Return the keys of a plain prompt: of beginnings that double in length, and of the whole."""
    if not isinstance(prompt, str):
        return ()
    return _keys(_doubling(prompt))


def keys_for(requester: str, model: str, keys: Sequence[int]) -> tuple[int, ...]:
    """Return the keys of a requester's prompt for a model, which no other requester's equal."""
    if not keys:
        return ()
    salt = _salt(requester, model)
    return tuple([(key + salt) & _ALL for key in keys])


@lru_cache(maxsize=4_096)
def _salt(requester: str, model: str) -> int:
    digest = hashlib.sha256(encode([requester, model])).digest()
    return int.from_bytes(digest[:8])


def _pieces(head: list[Any], turns: list[Any]) -> list[Any]:
    """Return what belongs together, in the order of the prompt; nothing for an empty head."""
    return [head, *turns] if any(head) else turns


def _doubling(prompt: str) -> list[str]:
    pieces, start, end = [], 0, _FIRST_CHARACTERS
    while start < len(prompt):
        pieces.append(prompt[start:end])
        start, end = end, 2 * end
    return pieces


def _keys(pieces: Sequence[Any]) -> tuple[int, ...]:
    digest, left = hashlib.sha256(), MOST_BYTES
    update, last = digest.update, len(pieces) - LAST_KEPT
    keys: list[int] = []
    for number, piece in enumerate(pieces):
        text = encode(piece)
        left -= len(text)
        if left < 0:
            break
        update(text)
        if left > MOST_BYTES - LEAST_BYTES:
            continue
        if len(keys) < FIRST_KEPT or number >= last:
            keys.append(int.from_bytes(digest.digest()[:8]))
    return tuple(keys)


def _unmarked(blocks: Any) -> Any:
    if not isinstance(blocks, list):
        return blocks
    return [
        {name: value for name, value in block.items() if name != "cache_control"}
        if isinstance(block, dict) and "cache_control" in block
        else block
        for block in blocks
    ]
