"""The wire formats of a node that speaks only Anthropic's dialect: its listing and its headers.

The facts are from Anthropic's API reference. Such a node does not report which models are loaded:
it answers for every model that it lists.
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.nodes.answers import BadAnswer, answer_object
from cortexd.dialects.nodes.mistralrs import PSEUDO_MODEL
from cortexd.fleet.states import Observation, ReplicaState

MODELS_PATH: Final = "/v1/models?limit=1000"
"""1000 is the maximum size of a page."""

MESSAGES_PATH: Final = "/v1/messages"

COUNT_PATH: Final = "/v1/messages/count_tokens"

HEADERS: Final = (("anthropic-version", "2023-06-01"),)
"""Without it, Anthropic's own servers reject every request."""

SYSTEM_TURNS: Final = (("anthropic-beta", "mid-conversation-system-2026-04-07"),)
"""Without it, they reject a system turn in the middle of a conversation (translation.md 1.2.6)."""


def read_count(body: bytes) -> int:
    """Return the node's token count. Raises BadAnswer."""
    count = answer_object(body).get("input_tokens")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise BadAnswer("the count has no 'input_tokens'")
    return count


def read_listing(body: bytes) -> Observation:
    """Return the models of ``GET /v1/models``; each of them counts as loaded. Raises BadAnswer.

    A mistral.rs server, which may be configured as such a node, also lists a pseudo-model.
    """
    entries = answer_object(body).get("data")
    if not isinstance(entries, list):
        raise BadAnswer("the model list has no 'data' array")
    models = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(model, str) and model for model in models):
        raise BadAnswer("the model list has an entry without an id")
    listed = {str(model): ReplicaState.LOADED for model in models if model != PSEUDO_MODEL}
    return Observation(None, listed, {})
