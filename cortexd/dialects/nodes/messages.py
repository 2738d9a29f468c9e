"""The wire formats of a node that speaks only Anthropic's dialect: its listing and its headers.

The facts are from Anthropic's API reference. Such a node does not report which models are loaded:
it answers for every model that it lists.
"""

from __future__ import annotations

from typing import Final

from cortexd.dialects.nodes.answers import BadAnswer, answer_object, listed_entries, read_count
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


def read_token_count(body: bytes) -> int:
    """Return the node's token count. Raises BadAnswer."""
    count = read_count(answer_object(body), "input_tokens")
    if count is None:
        raise BadAnswer("the count has no 'input_tokens'")
    return count


def read_listing(body: bytes) -> Observation:
    """Return the models of ``GET /v1/models``; each of them counts as loaded. Raises BadAnswer.

    A mistral.rs server, which may be configured as such a node, also lists a pseudo-model.
    """
    models = [entry["id"] for entry in listed_entries(body)]
    listed = {model: ReplicaState.LOADED for model in models if model != PSEUDO_MODEL}
    return Observation(None, listed, {})
