"""The prefix cache of one engine: the prompts whose beginnings it need not read again.

It is stricter than a real engine, of which there are two kinds (nodes.md 7.10). As with paged
attention, only whole blocks count. As without, a prompt is cached when its answer has ended, the
oldest of 16 goes first, and a prompt that is wholly in the cache gets nothing.
"""

from collections import deque
from operator import eq
from typing import Final

BLOCK_WORDS: Final = 32
MOST_PROMPTS: Final = 16


class CachedPrompt:
    """A prompt's words, as the model or adapter `name` reads them.

    For each block it has a key of everything up to the block's end.
    """

    def __init__(self, name: str, words: tuple[str, ...]) -> None:
        self.words = words
        self.keys = [hash(name)]
        for start in range(0, len(words), BLOCK_WORDS):
            self.keys.append(hash((self.keys[-1], words[start : start + BLOCK_WORDS])))

    def words_shared(self, other: "CachedPrompt") -> int:
        """Return how many words another prompt spares this one, of which one at least is read."""
        if other.words[: len(self.words)] == self.words:
            return 0
        blocks: int = sum(map(eq, self.keys[1:], other.keys[1:]))
        return min(blocks, (len(self.words) - 1) // BLOCK_WORDS) * BLOCK_WORDS


class PrefixCache:
    """The newest prompts of one engine."""

    def __init__(self) -> None:
        self._prompts: deque[CachedPrompt] = deque(maxlen=MOST_PROMPTS)

    def words_cached(self, prompt: CachedPrompt) -> int:
        """Return how many words at the beginning of a prompt the engine need not read."""
        return max((prompt.words_shared(other) for other in self._prompts), default=0)

    def keep(self, prompt: CachedPrompt) -> None:
        """Cache a prompt whose answer has ended."""
        self._prompts.append(prompt)
