"""The requests of clients, and the requests that reach nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cortexd.dialects.wire.profile import Speaks

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"

CLIENT_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "mid-conversation-system-2026-04-07",
}
"""What a Messages client says of its dialect; the node that takes its request is told."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that reached a node."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def upstream_path(route: str, speaks: Speaks) -> str:
    """Return the path on a node that ``speaks`` this, for a client's request to ``route``."""
    if speaks is Speaks.MESSAGES and route != COUNT_TOKENS:
        return MESSAGES
    if speaks is Speaks.CHAT and route in (MESSAGES, RESPONSES):
        return CHAT
    return route
