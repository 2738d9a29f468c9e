from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.openai.tool_choices import in_chat_shape, only_allowed_tools
from cortexd.errors import BadRequest
from tests.covers import covers


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def flat(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


TOOLS = [function("f"), function("g"), function("h")]


class ToolChoiceTests(SynchronousTestCase):
    @covers("3 C->C allowed_tools")
    def test_allowed(self) -> None:
        """In either shape, only the tools that are named are left, and the mode decides."""
        for mode in ("auto", "required"):
            chat = {
                "type": "allowed_tools",
                "allowed_tools": {"mode": mode, "tools": [function("h"), function("f")]},
            }
            of_responses = {
                "type": "allowed_tools",
                "mode": mode,
                "tools": [flat("h"), flat("f")],
            }
            for choice in (chat, of_responses):
                changed = only_allowed_tools({"tools": TOOLS, "tool_choice": choice})
                assert {"tools": [TOOLS[0], TOOLS[2]], "tool_choice": mode} == changed
                assert chat == in_chat_shape(choice) or mode != "auto"

    def test_named(self) -> None:
        """A function that is named in the flat shape is the one that is chosen."""
        assert {"tool_choice": function("f")} == only_allowed_tools({"tool_choice": flat("f")})

    def test_others(self) -> None:
        """Any other choice is left to the checks that follow."""
        for choice in ("auto", "required", None, 7):
            assert {} == only_allowed_tools({"tools": TOOLS, "tool_choice": choice})
        odd = {"type": "custom", "name": "f"}
        assert {"tool_choice": odd} == only_allowed_tools({"tool_choice": odd})

    def test_refused(self) -> None:
        """A choice that cannot be kept is refused by its path."""
        wrong: tuple[dict[str, Any], ...] = (
            {"mode": "maybe", "tools": [function("f")]},
            {"tools": [function("f")]},
            {"mode": "auto", "tools": []},
            {"mode": "auto", "tools": [function("x")]},
            {"mode": "auto", "tools": [{"type": "mcp"}]},
            {"mode": "auto", "tools": "f"},
        )
        for allowed in wrong:
            with self.assertRaises(BadRequest) as caught:
                only_allowed_tools(
                    {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"} | allowed}
                    if "mode" in allowed
                    else {
                        "tools": TOOLS,
                        "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed},
                    }
                )
            assert (caught.exception.param or "").startswith("tool_choice.allowed_tools")

    def test_tools_that_are_no_list(self) -> None:
        """They are the client's mistake, before any choice among them."""
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [flat("f")]}
        for tools in (5, True, "f", {"f": 1}):
            with self.assertRaises(BadRequest) as caught:
                only_allowed_tools({"tools": tools, "tool_choice": choice})
            assert "tools" == caught.exception.param
