"""What a model can do, as clients find it in the list of models.

Anthropic's clients read an object for each ability, with ``supported`` in it, and require all of
the known ones; ``tools``, ``vision`` and ``reasoning`` are plain booleans for all others. An
ability that nobody has denied counts as one: no node reports any (nodes.md 1.9).
"""

from __future__ import annotations

from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile, ReasoningControl, Speaks

_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def capabilities(profile: Profile) -> JsonObject:
    """Return the abilities of a model with this profile."""
    reasons = profile.reasoning_control is not ReasoningControl.NONE
    efforts = profile.efforts
    # A Messages request on another node is translated, and then server tools are not taken.
    translates = profile.speaks is Speaks.CHAT
    return {
        "tools": profile.tool_turns,
        "vision": profile.vision,
        "reasoning": reasons,
        "batch": _supported(False),
        "citations": _supported(False),
        "code_execution": _supported(False),
        "context_management": _supported(False),
        "effort": {
            **_supported(reasons),
            # The fitting sends an effort that a template does not know as the nearest it knows.
            **{name: _supported(reasons and efforts != ()) for name in _EFFORTS},
        },
        "image_input": _supported(profile.vision),
        "pdf_input": _supported(False),
        "server_tools": {
            **_supported(not translates),
            "web_search": _supported(not translates),
            "code_execution": _supported(not translates),
        },
        "structured_outputs": _supported(True),
        "thinking": {
            **_supported(reasons),
            "types": {
                "adaptive": _supported(reasons),
                "between_tools": _supported(True),
                "disabled": _supported(True),
                "enabled": _supported(reasons),
            },
        },
    }


def _supported(value: bool) -> JsonObject:
    return {"supported": value}
