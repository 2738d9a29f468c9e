"""The conversation that a request belongs to, as its client names it (translation.md 11)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode, encode

SESSION_HEADERS: Final = (
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-session-affinity",
    "x-opencode-session",
    "x-litellm-session-id",
)
"""The headers by which clients name their conversations; the first that is there counts."""

_LEGACY: Final = "_session_"


def session_of_headers(value_of: Callable[[str], str | None]) -> str:
    """Return the name of the conversation in a request's headers, "" if there is none."""
    for name in SESSION_HEADERS:
        value = value_of(name)
        if value and not value.isspace():
            return value.strip()
    return ""


def session_of_chat(fields: JsonObject) -> str:
    """Return the name of the conversation in a chat, "" if there is none."""
    return _text(fields.get("session_id")) or _text(fields.get("prompt_cache_key"))


def session_of_messages(fields: JsonObject) -> str:
    """Return the name of the conversation in a Messages request, "" if there is none.

    Claude Code writes it into the name of the user: JSON, in older versions a text that ends in it.
    """
    metadata = fields.get("metadata")
    user = _text(metadata.get("user_id")) if isinstance(metadata, dict) else ""
    if user.startswith("{"):
        try:
            parts = decode(user)
        except NOT_JSON:
            return ""
        return _text(parts.get("session_id")) if isinstance(parts, dict) else ""
    return user.rpartition(_LEGACY)[2] if _LEGACY in user else ""


def session_of_response(fields: JsonObject) -> str:
    """Return the name of the conversation in a request for a response, "" if there is none."""
    conversation = fields.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return _text(conversation) or session_of_chat(fields)


def session_key(requester: str, session: str) -> str:
    """Return a key for a conversation of a requester, which no other requester's equals.

    It is "" for no conversation. It is a hash: clients may name a conversation as they like.
    """
    if not session:
        return ""
    return hashlib.sha256(encode([requester, session])).hexdigest()[:32]


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
