"""Whether a model thinks, and how much, in an Anthropic Messages request.

Two fields control it, ``thinking`` and ``output_config.effort``. A node rejects an effort together
with disabled thinking (nodes.md 4.1), so that only one of them goes upstream then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cortexd.dialects.fitting.efforts import controlled_effort, fitted_effort
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import read_dict, read_integer, read_string
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile, ReasoningControl, ThinkingWish

_KNOWN: Final = frozenset({"type", "budget_tokens", "display"})

_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
"""The efforts of Messages; a node gets no other."""

MEDIUM_BUDGET: Final = 4_096
HIGH_BUDGET: Final = 16_384
"""The budgets, in tokens, from which the effort is medium and high: a guess."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much thinking the client wants to see; ``fields`` belong to the upstream body."""

    wish: ThinkingWish
    fields: JsonObject


def translate_thinking(
    body: JsonObject, output_config: JsonObject, profile: Profile, approximations: Approximations
) -> Thinking:
    """Translate a request's ``thinking`` and ``output_config.effort``.

    Without ``thinking``, a model of the Messages API does not think, but a node's model does.
    Raises BadRequest.
    """
    control = profile.reasoning_control
    effort = _effort(output_config, profile, approximations)
    given = body.get("thinking")
    thinking = {} if given is None else read_dict(given, "thinking")
    approximations.note_unknown(thinking, _KNOWN, "thinking")
    kind = "absent" if given is None else read_string(thinking.get("type"), "thinking.type")
    if kind in ("absent", "disabled"):
        if effort is not None:
            approximations.note("effort")
        toggled = control is ReasoningControl.TOGGLE
        if control is not ReasoningControl.NONE and (kind == "absent" or not toggled):
            approximations.note(f"thinking_{kind}")
        return Thinking(ThinkingWish.NONE, {"enable_thinking": False} if toggled else {})
    if kind == "enabled":
        approximations.note("thinking_budget")
        budget = read_integer(thinking.get("budget_tokens"), "thinking.budget_tokens", 1)
        effort = effort or fitted_effort(_effort_of(budget), profile, approximations)
    else:
        approximations.note("thinking_adaptive")
    wish = _wish(thinking, approximations)
    fields: JsonObject = {}
    if control is ReasoningControl.TOGGLE:
        fields["enable_thinking"] = True
    if effort is not None and control is not ReasoningControl.NONE:
        fields["reasoning_effort"] = effort
    return Thinking(wish, fields)


def _effort(
    output_config: JsonObject, profile: Profile, approximations: Approximations
) -> str | None:
    given = output_config.get("effort")
    if given is None:
        return None
    asked = read_string(given, "output_config.effort")
    if asked not in _EFFORTS:
        approximations.note("effort")
        return None
    return controlled_effort(asked, profile, approximations)


def _effort_of(budget: int) -> str:
    if budget < MEDIUM_BUDGET:
        return "low"
    return "medium" if budget < HIGH_BUDGET else "high"


def _wish(thinking: JsonObject, approximations: Approximations) -> ThinkingWish:
    display = thinking.get("display")
    if display is None:
        return ThinkingWish.SHOWN
    approximations.note("thinking_display")
    withheld = read_string(display, "thinking.display") == "omitted"
    return ThinkingWish.WITHHELD if withheld else ThinkingWish.SHOWN
