"""The conversations that a probe asks about, and the request around each of them.

The texts are short, except for the *marker*: so many words that their loss can be counted, whatever
the tokenizer, and outweighs the few tokens that a template puts around a turn.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject, encode

PATH: Final = "/v1/chat/completions"
SHORT: Final = "Say yes."
_WORDS: Final = ("apple", "river", "stone", "cloud", "chair", "green", "paper", "light")
MARKER: Final = " ".join(_WORDS * 16)
MARKED: Final = f"{SHORT} {MARKER}"
MARKER_WORDS: Final = len(_WORDS) * 16
PLAIN_IDS: Final = ("call_0123456789abcdef01234567", "call_89abcdef0123456789abcdef")
NINE_IDS: Final = ("a1B2c3D4e", "f5G6h7J8k")
_NAME: Final = "lookup"
_SIDE: Final = 448
"""The pixels of the picture's side: every model that sees makes dozens of tokens of it."""

TOOLS: Final[list[JsonObject]] = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": MARKER,
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string"}},
                "required": ["text"],
            },
        },
    }
]


def request(model: str, messages: list[JsonObject], **fields: object) -> bytes:
    """Return the body of a chat request for one token of an answer."""
    body: JsonObject = {
        "model": model,
        "messages": messages,
        "max_tokens": 1,
        "temperature": 0.0,
        "stream": False,
    }
    return encode({**body, **fields})


def turn(role: str, text: str = SHORT) -> JsonObject:
    """Return a message with a text."""
    return {"role": role, "content": text}


def calls(ids: tuple[str, ...], texts: tuple[str, ...], beside: str = "") -> list[JsonObject]:
    """Return a turn with one call for each id and text, and the results with the same texts."""
    pairs = list(zip(ids, texts, strict=True))
    called: JsonObject = {
        "role": "assistant",
        "content": beside,
        "tool_calls": [
            {
                "id": each,
                "type": "function",
                "function": {"name": _NAME, "arguments": encode({"text": text}).decode()},
            }
            for each, text in pairs
        ],
    }
    results: list[JsonObject] = [
        {"role": "tool", "tool_call_id": each, "name": _NAME, "content": text}
        for each, text in pairs
    ]
    return [called, *results]


def text_part(text: str) -> JsonObject:
    """Return a text as a part of a content."""
    return {"type": "text", "text": text}


def picture() -> JsonObject:
    """Return a picture of one colour as a part of a content, some 300 bytes long."""
    rows = zlib.compress((b"\0" + b"\x80" * _SIDE) * _SIDE, 9)
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check
