"""How fast engines read prompts and how long they answer, learned by node and model: pure.

A node reports neither by model, so both are taken from the ends of requests: the time to the first
content is that of the tokens that were not in the engine's prefix cache, and the rest is that of
the answer. Waits inside the engine count as well, since the next request meets them too.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

ASSUMED_RATE: Final = 1000.0
"""Tokens of a prompt that an engine reads in a second, before any was measured."""

ASSUMED_ANSWER_SECONDS: Final = 10.0
ASSUMED_FIRST_SECONDS: Final = 5.0
"""How long an answer and the wait for its beginning last, before any was measured."""

LEAST_TOKENS: Final = 64
"""With fewer tokens to read, the time to the first content says little about the rate."""

NEWEST_SHARE: Final = 0.2
"""The weight of the newest measurement in each mean."""

MOST_REPLICAS: Final = 10_000
"""How many replicas have means of their own at once: some 3 MB."""


class Reading(NamedTuple):
    """What the end of a request shows of its prompt and its answer; times in seconds.

    ``prompt_tokens`` is 0 if unknown, or an estimate if no answer came. ``cached_tokens`` of them
    were in the engine's prefix cache, ``None`` if the node does not say. ``first_seconds`` is from
    the sending of the request to the first content of its answer, ``None`` without any;
    ``answer_seconds`` is from there to the end. ``is_left``: we closed the connection before any
    content came, so that the engine may still be reading. ``is_whole``: the node was asked for a
    whole answer, which it makes to the end even if nobody waits for it.

    A tuple, because every request brings one.
    """

    prompt_tokens: int = 0
    cached_tokens: int | None = None
    first_seconds: float | None = None
    answer_seconds: float = 0.0
    is_left: bool = False
    is_whole: bool = False


@dataclass(slots=True)
class Pace:
    """The means of one replica, or of all replicas of a model; 0 where nothing was measured."""

    rate: float = 0.0
    first_seconds: float = 0.0
    answer_seconds: float = 0.0

    def take(self, reading: Reading) -> None:
        """Learn from a request that was answered."""
        if reading.first_seconds is None or reading.is_whole:
            return
        self.first_seconds = _mean(self.first_seconds, reading.first_seconds)
        self.answer_seconds = _mean(self.answer_seconds, reading.answer_seconds)
        tokens = reading.prompt_tokens - (reading.cached_tokens or 0)
        if tokens >= LEAST_TOKENS and reading.first_seconds > 0:
            self.rate = _mean(self.rate, tokens / reading.first_seconds)


class Paces:
    """The paces of replicas; a replica without measurements has the mean of its model."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Pace] = OrderedDict()
        self._nothing = Pace()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, node: str, model: str, reading: Reading) -> None:
        """Learn from the end of a request that was answered."""
        for key in ((node, model), ("", model)):
            pace = self._known.get(key)
            if pace is None:
                pace = self._known[key] = Pace()
                if len(self._known) > MOST_REPLICAS:
                    self._known.popitem(last=False)
            pace.take(reading)

    def rate(self, node: str, model: str) -> float:
        """Return how many tokens of a prompt a replica reads in a second."""
        own, others = self._of(node, model)
        return own.rate or others.rate or ASSUMED_RATE

    def answer_seconds(self, node: str, model: str) -> float:
        """Return how long a replica's answers last from their first content on."""
        own, others = self._of(node, model)
        return own.answer_seconds or others.answer_seconds or ASSUMED_ANSWER_SECONDS

    def prefill_seconds(self, node: str, model: str, tokens: int) -> float:
        """Return how long a replica reads a prompt; of ``tokens`` 0 the length is unknown."""
        own, others = self._of(node, model)
        if tokens:
            return tokens / (own.rate or others.rate or ASSUMED_RATE)
        return own.first_seconds or others.first_seconds or ASSUMED_FIRST_SECONDS

    def _of(self, node: str, model: str) -> tuple[Pace, Pace]:
        known, nothing = self._known, self._nothing
        return known.get((node, model), nothing), known.get(("", model), nothing)


def _mean(mean: float, newest: float) -> float:
    return newest if mean == 0.0 else mean + NEWEST_SHARE * (newest - mean)
