"""Looking for a client's stop sequences in the text of an answer.

A node says only that an answer stopped, not at which of the sequences, which the Messages dialect
must tell (translation.md 4.3). So the node is not told of them, and the text is searched here.

The text comes in pieces, cut anywhere, and what is found must not depend on where: the sequence
that is complete first counts, of several complete at the same character the longest. Text that
may be the beginning of a sequence is held back until it is known: never more than the longest
sequence less one character.

Each sequence is followed by the method of Knuth, Morris and Pratt, which looks at each character
once however much of the text repeats itself.
"""

from __future__ import annotations


class StopScanner:
    """Searches a text that comes in pieces, for at least one sequence, none of them empty.

    ``found`` is the sequence at which the text has stopped, ``None`` as long as it has not.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._followers = [_Follower(sequence) for sequence in sequences]
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Take a piece; return what of the text so far is certain to be before any sequence."""
        if self.found is not None:
            return ""
        pending = self._held + text
        ends = [
            (end, -len(follower.sequence), follower.sequence)
            for follower in self._followers
            if (end := follower.follow(text)) is not None
        ]
        if ends:
            end, _, self.found = min(ends)
            return pending[: len(self._held) + end - len(self.found)]
        visible = len(pending) - max(follower.matched for follower in self._followers)
        self._held = pending[visible:]
        return pending[:visible]

    def flush(self) -> str:
        """Take that the text is at an end, for now at least; return what was held back."""
        held, self._held = self._held, ""
        for follower in self._followers:
            follower.matched = 0
        return "" if self.found is not None else held


class _Follower:
    """Follows one sequence through a text; ``matched`` of its characters end the text so far."""

    def __init__(self, sequence: str) -> None:
        self.sequence = sequence
        self.matched = 0
        self._fallbacks = _fallbacks(sequence)

    def follow(self, text: str) -> int | None:
        """Return the place in ``text`` where the sequence is complete, if that is in it."""
        sequence, fallbacks, matched = self.sequence, self._fallbacks, self.matched
        place = 0
        while place < len(text):
            if not matched:
                place = text.find(sequence[0], place)
                if place < 0:
                    break
            character = text[place]
            while matched and sequence[matched] != character:
                matched = fallbacks[matched - 1]
            if sequence[matched] == character:
                matched += 1
            place += 1
            if matched == len(sequence):
                self.matched = 0
                return place
        self.matched = matched
        return None


def _fallbacks(sequence: str) -> list[int]:
    """Return for each beginning of a sequence how long its longest end is that also begins it."""
    fallbacks = [0]
    matched = 0
    for character in sequence[1:]:
        while matched and sequence[matched] != character:
            matched = fallbacks[matched - 1]
        if sequence[matched] == character:
            matched += 1
        fallbacks.append(matched)
    return fallbacks
