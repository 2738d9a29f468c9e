"""Blocks of a Messages history that a chat does not have, as words.

The vendor's own tools, its fallbacks and its compaction leave blocks in a conversation, and new
kinds come every month. They stay in the conversation, so that a rejection would end it. The
Anthropic SDK 2.14 has their fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject, encode

COMPACTION: Final = "compaction"

_CALLS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_RESULT: Final = "tool_result"
_MEDIA: Final = ("image", "document")

_SAID_IN: Final = ("title", "url", "text", "stdout", "stderr", "error_code", "tool_name")
"""The fields of a result that say something; others are ids, and text that is encrypted."""

_INNER: Final = ("content", "source", "tool_references")


def told_in_words(kind: str, block: JsonObject) -> str | None:
    """Return what a block of an unknown ``kind`` says, ``None`` if it says nothing to a model."""
    if kind in _CALLS:
        written = encode(block.get("input") or {}).decode()
        return f"[called the tool {block.get('name')} with {written}]"
    if kind in _MEDIA:
        return f"[{kind} omitted]"
    if kind.endswith(_RESULT):
        words = "\n".join(_said(block))
        return f"[result of the tool: {words}]" if words else "[result of the tool: empty]"
    if kind == COMPACTION:
        return summary_of(block)
    text = block.get("text")
    return text if isinstance(text, str) and text else None


def summary_of(block: JsonObject) -> str | None:
    """Return the summary in a block of compaction, ``None`` if the compaction failed."""
    content = block.get("content")
    return content if isinstance(content, str) and content else None


def compacted_at(messages: object) -> tuple[int, int]:
    """Return the place where a conversation begins: at its last summary, or at 0, 0.

    The place is that of a message and of a block in it. All that comes before a summary is in the
    summary, and the vendor's server ignores it, too.
    """
    place = (0, 0)
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict) and block.get("type") == COMPACTION and summary_of(block):
                place = (index, number)
    return place


def _said(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _said(each)
    elif isinstance(value, dict):
        for name in _SAID_IN:
            if isinstance(value.get(name), str) and value[name]:
                yield value[name]
        if value.get("type") == "text" and isinstance(value.get("data"), str):
            yield value["data"]  # a document of plain text
        for name in _INNER:
            yield from _said(value.get(name))
