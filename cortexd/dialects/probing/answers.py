"""The answer to one question of a probe: the tokens of the prompt, or the words of an error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cortexd.dialects.nodes.errors import error_words
from cortexd.dialects.wire.json_values import NOT_JSON, decode, encode, integer

_OF_TEMPLATE: Final = re.compile(
    r"\(in chat_template:\d+\)"
    r"|Tools were provided but this chat template does not handle tool usage"
)
"""The ends of a template's errors, and the one error about a template (nodes.md 4.3.10, 12.7)."""

_OF_EFFORT: Final = re.compile(r"(invalid|unknown|unsupported) reasoning[ _]effort", re.IGNORECASE)
_BLIND: Final = re.compile(
    r"does not support (images|vision)|incompatible for this model's category", re.IGNORECASE
)

_TEXTS: Final = ("content", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says: ``tokens`` of the prompt, 0 if it says nothing about them.

    ``said`` is the model's one token, with the field in which it came. ``raised`` means that the
    template raised an error, ``knows_no_effort`` that the node or the template refused the effort,
    and ``is_blind`` that the model cannot see.
    """

    tokens: int = 0
    raised: bool = False
    knows_no_effort: bool = False
    is_blind: bool = False
    said: str = ""

    @property
    def says_nothing(self) -> bool:
        """Whether the answer has neither a count nor words that teach."""
        return not (self.tokens or self.raised or self.knows_no_effort or self.is_blind)


def read_answer(status: int, body: bytes) -> Reading:
    """Read an answer; never raises. Any failure that has no words of a template says nothing."""
    if status != 200:
        words = error_words(body)
        raised = _OF_TEMPLATE.search(words) is not None
        effort = raised or _OF_EFFORT.search(words) is not None
        return Reading(0, raised, effort, _BLIND.search(words) is not None)
    try:
        answer = decode(body)
    except NOT_JSON:
        return Reading()
    if not isinstance(answer, dict):
        return Reading()
    usage = answer.get("usage")
    tokens = integer(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0
    return Reading(tokens, said=_said(answer.get("choices")))


def _said(choices: object) -> str:
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return ""
    return encode({name: message.get(name) for name in _TEXTS}).decode()
