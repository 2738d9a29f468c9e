"""Finds a client's stop sequences in the text of an answer.

A node reports only that an answer stopped, not at which sequence, but the Messages dialect must
name the sequence (translation.md 4.3). So the node does not get the sequences, and we search the
text.

The text arrives in parts, split anywhere, and the result must not depend on the split: the sequence
that is complete first wins and, of several complete at the same character, the longest. A possible
beginning of a sequence is held back until it is decided; this is at most the length of the longest
sequence minus one character.

Each sequence is matched with the method of Knuth, Morris and Pratt, which reads each character
once, even in repetitive text.
"""

from __future__ import annotations


class StopScanner:
    """Searches a text that arrives in parts, for one or more sequences, none of them empty.

    ``found`` is the sequence that ended the text, ``None`` before that.
    """

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._followers = [_Follower(sequence) for sequence in sequences]
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Process a part; return the text that is certainly before any sequence."""
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
        """Process the end of the text, or a pause; return the text that was held back."""
        held, self._held = self._held, ""
        for follower in self._followers:
            follower.matched = 0
        return "" if self.found is not None else held


class _Follower:
    """Matches one sequence in a text; its first ``matched`` characters end the text so far."""

    def __init__(self, sequence: str) -> None:
        self.sequence = sequence
        self.matched = 0
        self._fallbacks = _fallbacks(sequence)

    def follow(self, text: str) -> int | None:
        """Return the index in ``text`` where the sequence is complete, if it is."""
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
    """Return, for each prefix of a sequence, the length of its longest border."""
    fallbacks = [0]
    matched = 0
    for character in sequence[1:]:
        while matched and sequence[matched] != character:
            matched = fallbacks[matched - 1]
        if sequence[matched] == character:
            matched += 1
        fallbacks.append(matched)
    return fallbacks
