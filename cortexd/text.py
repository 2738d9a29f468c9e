"""Text of others in one line of ours: of a file, a node or a client, in a message or a terminal.

The words of a node's error may quote the request or a key: ``without_keys`` makes them fit for
clients, ``scrubbed`` for the log.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_SHOWN: Final = 60
"""Messages cut a longer value, so that they stay one readable line."""


def one_line(text: str) -> str:
    """Escape the characters of a text that break a line or are invisible in a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, words: str) -> str:
    """Return a number with its noun, the first of ``words``, which is regular and plural."""
    noun, space, rest = words.partition(" ")
    return f"{number} {noun.removesuffix('s') if number == 1 else noun}{space}{rest}"


def printable(text: str) -> str:
    """Return a text on one line, shortened if it is too long for a message."""
    return one_line(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "...")


REMOVED: Final = "(removed)"

LONGEST_LOGGED: Final = 200
"""How much of a node's words a log line has: more than any message of a node without quotes."""

_KEY = re.compile(
    # Names of credentials, and what stands after them.
    r"(?P<name>\b(?:bearer|basic)\s+"
    r"|\b(?:x[-_ ]?api[-_ ]?key|api[-_ ]?key|authorization|passw(?:or)?d|secret|credentials?"
    r"|(?:access|auth|api|refresh)[-_ ]?token)\b['\"`]*(?:\s+(?:provided|is|was|given))?"
    r"(?:\s*[:=]\s*|\s+(?=['\"`]))['\"`]*(?:bearer\s+|basic\s+)?)"
    r"[^\s'\"`,;(){}\[\]<>]+"
    # Keys that their beginning gives away, and JSON Web Tokens.
    r"|\b(?:sk|pk|rk|xai|nvapi|glpat|pplx|gsk|hf|gh[opsu]|github_pat|key)[-_][\w\-*.]{6,}"
    r"|\bAIza[\w\-*]{6,}|\b(?:AKIA|ASIA)[A-Z0-9*]{6,}|\beyJ[\w\-]{6,}[\w\-.]*",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"\"(?:[^\"\\]|\\.)*(?:\"|$)|(?<!\w)'(?:[^'\\]|\\.)*(?:'(?!\w)|$)|`[^`]*(?:`|$)", re.DOTALL
)
_NAME = re.compile(r"[^\s]{1,60}")
_RANDOM = re.compile(r"[\w+/=\-]{40,}")


def without_keys(words: str) -> str:
    """Return a node's words without what looks like a key or a password."""
    return _KEY.sub(lambda found: f"{found['name'] or ''}{REMOVED}", words)


def scrubbed(words: str) -> str:
    """Return a node's words as a log may have them: short, on one line, without keys or quotes.

    A quote stays if it is a name, without a blank in it. A message that is itself JSON repeats the
    request, and is left out.
    """
    words = words.strip()
    if words.startswith(("{", "[")):
        return f"(JSON of {len(words)} characters)"
    words = _QUOTED.sub(_unless_name, without_keys(words))
    words = one_line(_RANDOM.sub(REMOVED, words))
    return words if len(words) <= LONGEST_LOGGED else f"{words[: LONGEST_LOGGED - 3]}..."


def _unless_name(quoted: re.Match[str]) -> str:
    words = quoted[0]
    return words if _NAME.fullmatch(words) else f"{words[0]}...{words[0]}"
