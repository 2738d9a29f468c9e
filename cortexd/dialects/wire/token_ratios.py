"""The bytes per token of a model's prompts, learned from the counts of nodes.

The ratio depends on the model's tokenizer, on the language, and on how much of a prompt is JSON. So
each model has the ratio of its recent prompts, beginning with a guess.
"""

from __future__ import annotations

from typing import Final

START: Final = 3.6
"""Bytes of JSON per token before the first count (translation.md 6.3)."""

LEAST: Final = 1.0
MOST: Final = 12.0
"""The maximum ratio of any tokenizer for text: larger counts of a node are ignored."""

WEIGHT_OF_THE_START: Final = 1_000
"""The weight of the guess, in tokens: more than a short prompt, because the text that the model's
template adds distorts the ratio of a short prompt."""

MEMORY: Final = 1_000_000
"""The tokens that a model's ratio remembers; beyond that, the weight of older ones is halved."""

MAX_MODELS: Final = 1_000
"""The maximum number of models with a ratio; beyond that, the least recently used is dropped."""


class TokenRatios:
    """The ratio of each model, by its id in the catalogue."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # bytes and tokens, least recent first

    def note(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from the size of a prompt in bytes and tokens; ignore a prompt without tokens."""
        if prompt_bytes <= 0 or prompt_tokens <= 0:
            return
        start = (START * WEIGHT_OF_THE_START, float(WEIGHT_OF_THE_START))
        seen_bytes, seen_tokens = self._seen.pop(model, start)
        seen_bytes += prompt_bytes
        seen_tokens += prompt_tokens
        if seen_tokens > MEMORY:
            seen_bytes, seen_tokens = seen_bytes / 2, seen_tokens / 2
        self._seen[model] = (seen_bytes, seen_tokens)
        if len(self._seen) > MAX_MODELS:
            del self._seen[next(iter(self._seen))]

    def of(self, model: str) -> float:
        """Return the bytes per token of a model."""
        seen = self._seen.get(model)
        if seen is None:
            return START
        seen_bytes, seen_tokens = seen
        return min(MOST, max(LEAST, seen_bytes / seen_tokens))
