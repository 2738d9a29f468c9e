"""The wire shapes of a node that speaks Anthropic's dialect alone: its listing, and what it wants.

Facts are from Anthropic's API reference. Such a node says nothing of what it has loaded: what it
lists, it answers for.
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.nodes.answers import BadAnswer, answer_object
from cortexd.dialects.nodes.mistralrs import PSEUDO_MODEL
from cortexd.fleet.states import Observation, ReplicaState

MODELS_PATH: Final = "/v1/models?limit=1000"
"""The most that one page may have."""

MESSAGES_PATH: Final = "/v1/messages"

COUNT_PATH: Final = "/v1/messages/count_tokens"

HEADERS: Final = (("anthropic-version", "2023-06-01"),)
"""Without it the dialect's own servers refuse everything."""

SYSTEM_TURNS: Final = (("anthropic-beta", "mid-conversation-system-2026-04-07"),)
"""Without it they refuse a system turn in the middle of a conversation (translation.md 1.2.6)."""


def read_count(body: bytes) -> int:
    """Return how many tokens the node counted. Raises BadAnswer."""
    count = answer_object(body).get("input_tokens")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise BadAnswer("the count has no 'input_tokens'")
    return count


def read_listing(body: bytes) -> Observation:
    """Return what ``GET /v1/models`` says: each model it has is loaded. Raises BadAnswer.

    A mistral.rs server, which can be told of as one of these, has a pseudo-model among them.
    """
    entries = answer_object(body).get("data")
    if not isinstance(entries, list):
        raise BadAnswer("the model list has no 'data' array")
    models = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(model, str) and model for model in models):
        raise BadAnswer("the model list has an entry without an id")
    listed = {str(model): ReplicaState.LOADED for model in models if model != PSEUDO_MODEL}
    return Observation(None, listed, {})
