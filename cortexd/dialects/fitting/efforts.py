"""The efforts of thinking: the levels that clients ask for, and those that a template knows."""

from __future__ import annotations

from typing import Final

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.profile import Profile, ReasoningControl

NO_EFFORT: Final = ("off", "none")
"""The efforts that mean no thinking."""

LEVELS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
"""The other efforts, from the least."""

OF_NODES: Final = ("low", "medium", "high", "xhigh")
"""The levels that a node accepts (nodes.md 4.1)."""

OF_OTHERS: Final = ("low", "medium", "high")
"""The levels of an upstream that knows efforts alone, as OpenAI's first models did."""

_SAME_FOR_NODES: Final = {"minimal": "low", "max": "xhigh"}
"""The levels that nodes lack, and those that they have for the same."""


def fitted_effort(effort: str, profile: Profile, approximations: Approximations) -> str | None:
    """Return the effort of LEVELS or NO_EFFORT as the model's template knows it.

    That is the nearest one, the higher one of two, and noted if the client could notice. ``None``
    means that the request goes up without an effort.
    """
    known = profile.efforts
    if known is None:
        return _SAME_FOR_NODES.get(effort, effort)
    if effort in known:
        return effort
    levels = [level for level in known if level in LEVELS]
    nearest = min(levels, key=lambda level: _distance(level, effort), default=None)
    if nearest is None or nearest != _SAME_FOR_NODES.get(effort):
        approximations.note("effort")
    return nearest


def controlled_effort(effort: str, profile: Profile, approximations: Approximations) -> str | None:
    """Return an effort of another dialect as an upstream of the profile takes it.

    ``None`` means that the request goes up without an effort: the effort is unknown, or the model
    has none. That is noted, and so is a lower effort.
    """
    control = profile.reasoning_control
    if effort not in LEVELS or control is ReasoningControl.NONE:
        approximations.note("effort")
        return None
    if profile.efforts is not None:
        return fitted_effort(effort, profile, approximations)
    if control is ReasoningControl.TOGGLE:
        return _SAME_FOR_NODES.get(effort, effort)
    if effort in OF_OTHERS:
        return effort
    approximations.note("effort")
    return OF_OTHERS[0] if effort == LEVELS[0] else OF_OTHERS[-1]


def _distance(level: str, effort: str) -> tuple[int, int]:
    asked = LEVELS.index(effort) if effort in LEVELS else -1
    place = LEVELS.index(level)
    return abs(place - asked), -place
