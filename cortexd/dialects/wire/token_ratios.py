"""How many bytes of a prompt are a token to each model, learned from what nodes have counted.

A ratio differs between models by their tokenizers, and from use to use by language and by how much
of a prompt is JSON. So it is that of what a model has lately been asked, begun with a guess.
"""

from __future__ import annotations

from typing import Final

START: Final = 3.6
"""Bytes of JSON to a token before anything is known (translation.md 6.3)."""

LEAST: Final = 1.0
MOST: Final = 12.0
"""What no tokenizer goes beyond for a prompt of words: a node that counts so does not count."""

WEIGHT_OF_THE_START: Final = 1_000
"""In tokens, how much must be counted to weigh as much as the guess: more than one short prompt,
in which the words that the model's template adds count for much."""

MEMORY: Final = 1_000_000
"""In tokens, what is remembered of a model; of more than that the older counts half."""

MAX_MODELS: Final = 1_000
"""Of how many models is learned; of more the one is forgotten that was asked least lately."""


class TokenRatios:
    """The ratio of each model, by its id in the catalogue."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # bytes and tokens, least lately first

    def note(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn that a prompt of so many bytes was so many tokens; one of none teaches nothing."""
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
        """Return how many bytes are a token to a model."""
        seen = self._seen.get(model)
        if seen is None:
            return START
        seen_bytes, seen_tokens = seen
        return min(MOST, max(LEAST, seen_bytes / seen_tokens))
