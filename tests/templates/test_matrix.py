from dataclasses import fields
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import MidSystem, Profile, ReasoningControl, ToolIdFormat
from tests.templates.matrix import OWN, bad, cells, profiles_of, templates_of, untaught

TEMPLATES = templates_of(OWN)
LEARNED = profiles_of(TEMPLATES)
TAKES_ALL = LEARNED["chatml"]

RULES: dict[str, dict[str, Any]] = {
    "alternation": {"alternate": True, "user_after_tool": False},
    "answer_must_say": {},
    "arguments_items": {},
    "chatml": {},
    "developer_dropped": {},
    "developer_raises": {},
    "efforts_listed": {
        "efforts": ("low", "medium", "xhigh"),
        "reasoning_control": ReasoningControl.EFFORT,
    },
    "ids_of_nine": {"tool_id_format": ToolIdFormat.MISTRAL9},
    "one_call_raises": {"parallel_calls": False},
    "one_call_shown": {"parallel_calls": False},
    "string_or_lost": {"vision": False},
    "string_or_printed": {"vision": False},
    "string_or_raises": {"vision": False},
    "system_before_last": {"mid_system": MidSystem.USER, "system_role": False},
    "system_first_dropped": {"mid_system": MidSystem.USER},
    "system_first_raises": {"mid_system": MidSystem.USER},
    "system_unknown_dropped": {"mid_system": MidSystem.USER, "system_role": False},
    "system_unknown_raises": {"mid_system": MidSystem.USER, "system_role": False},
    "text_beside_call_lost": {"text_beside_calls": False},
    "thinking": {},
    "tools_need_descriptions": {},
    "tools_need_properties": {},
    "tools_unknown_dropped": {"tool_turns": False},
    "tools_unknown_raises": {"tool_turns": False},
}
"""What the gateway learns of each template, other than of the one that takes everything."""

NEED_LEARNING = {
    "alternation",
    "efforts_listed",
    "ids_of_nine",
    "one_call_raises",
    "one_call_shown",
    "string_or_lost",
    "string_or_printed",
    "string_or_raises",
    "system_before_last",
    "system_unknown_dropped",
    "system_unknown_raises",
    "text_beside_call_lost",
    "tools_unknown_dropped",
    "tools_unknown_raises",
}
"""The templates of which some conversations need what the gateway learns."""


def differences(profile: Profile) -> dict[str, Any]:
    """Return the abilities of a profile that differ from those of the template that takes all."""
    values = {field.name: getattr(profile, field.name) for field in fields(Profile)}
    return {name: value for name, value in values.items() if value != getattr(TAKES_ALL, name)}


class MatrixTests(SynchronousTestCase):
    def test_the_gateway_learns_each_rule(self) -> None:
        """The probe finds the one rule that a template stands for, and no other."""
        learned = {name: differences(profile) for name, profile in LEARNED.items()}

        self.assertEqual(RULES, learned)

    def test_every_word_is_shown(self) -> None:
        """By what the gateway learned, each template shows each conversation whole."""
        self.assertEqual([], bad(cells(TEMPLATES, LEARNED)))

    def test_before_anything_is_learned(self) -> None:
        """The default profile loses words only for templates that no default could suit."""
        found = bad(cells(TEMPLATES, untaught(TEMPLATES)))

        self.assertEqual(NEED_LEARNING, {cell.template for cell in found})
