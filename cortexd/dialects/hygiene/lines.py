"""Leaves out what clients change at the front of a prompt in each request (translation.md 11.2).

A node finds a prompt in its cache from the first token on (nodes.md 7.10): one line that differs at
the front, and it reads the whole conversation again. Only lines that are known by name are left
out, and only from the text of the system prompt. What stands in the turns stays: there a line
changes nothing that was sent before.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from cortexd.dialects.wire.json_values import JsonObject

BILLING: Final = "billing-line"
BILLING_LINE: Final = "x-anthropic-billing-header:"
"""The beginning of a line at the front that Claude Code adds for its vendor's billing. It has a
check of the request, and says nothing to a model."""

COUNTDOWN: Final = "token-countdown"
"""How many tokens Claude Code says are left. It is a system message after each result of a tool;
a template that knows no such messages has all of them in the system prompt."""

_COUNTDOWN_MARK: Final = "<total_tokens>"
_COUNTDOWN_LINE: Final = re.compile(
    r"^<total_tokens>-?[0-9]{1,12} tokens left</total_tokens>(?:\n|\Z)", re.MULTILINE
)


class Cleaned(NamedTuple):
    """A text, and the names of what was left out of it."""

    text: str
    names: tuple[str, ...] = ()


def cleaned(text: str) -> Cleaned:
    """Return a text of the system prompt without the lines that change in each request.

    All other lines stay byte for byte. The time is linear in the length of the text.
    """
    names: tuple[str, ...] = ()
    if _COUNTDOWN_MARK in text:
        rest = _COUNTDOWN_LINE.sub("", text)
        if rest != text:
            text, names = rest, (COUNTDOWN,)
    if text.startswith(BILLING_LINE):
        end = 0
        while text.startswith(BILLING_LINE, end):
            end = text.find("\n", end) + 1 or len(text)
        text, names = text[end:], (BILLING, *names)
    return Cleaned(text, names)


def clean_system(fields: JsonObject) -> tuple[str, ...]:
    """Clean the ``system`` of a Messages request; return the names of what was left out.

    ``fields`` get another system prompt, or none if nothing is left of it. The prompt itself, which
    may be the client's, is not modified.
    """
    system, names = fields.get("system"), dict[str, None]()
    if isinstance(system, str):
        rest: Any = cleaned(system)
        names, kept = dict.fromkeys(rest.names), rest.text
    elif isinstance(system, list):
        kept = [each for block in system if (each := _clean_block(block, names)) is not None]
    if not names:
        return ()
    if kept:
        fields["system"] = kept
    else:
        del fields["system"]
    return tuple(names)


def _clean_block(block: Any, names: dict[str, None]) -> Any:
    """Return a block without these lines, ``None`` if it has no others."""
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    if not isinstance(text, str):
        return block
    rest = cleaned(text)
    if not rest.names:
        return block
    names.update(dict.fromkeys(rest.names))
    return {**block, "text": rest.text} if rest.text else None
