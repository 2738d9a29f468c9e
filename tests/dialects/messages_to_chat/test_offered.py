from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.offered import offered_tools
from cortexd.dialects.wire.approximations import Approximations
from tests.covers import covers

NAMES = ("a", "b", "c", "d")


def tool(name: str, **fields: Any) -> Any:
    return {"name": name, "input_schema": {"type": "object"}, **fields}


def late(name: str) -> Any:
    return tool(name, defer_loading=True)


def change(kind: str, **named: Any) -> Any:
    return {"role": "system", "content": [{"type": kind, "tool": named}]}


def added(name: str) -> Any:
    return change("tool_addition", type="tool_reference", name=name)


def defined(definition: Any) -> Any:
    return change("tool_addition", type="tool_definition", definition=definition)


def removed(name: str) -> Any:
    return change("tool_removal", type="tool_reference", name=name)


def found(name: str) -> Any:
    reference = {"type": "tool_reference", "tool_name": name}
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "x", "content": [reference]}],
    }


def definitions(tools: Any, *messages: Any) -> list[Any]:
    """Return the definitions of the tools that the model sees."""
    body = {"tools": tools, "messages": list(messages)}
    return [each.tool for each in offered_tools(body, Approximations())]


def shown(tools: Any, *messages: Any, **fields: Any) -> tuple[list[Any], set[str]]:
    """Return the names of the tools that the model sees, and what is noted."""
    approximations = Approximations()
    body = {"tools": tools, "messages": list(messages), **fields}
    names = [each.tool["name"] for each in offered_tools(body, approximations)]
    return names, set(approximations.words())


class OfferedTests(SynchronousTestCase):
    @covers("2.3 defer_loading")
    def test_a_deferred_tool_is_shown_once_the_conversation_refers_to_it(self) -> None:
        """A search result, a call or the choice shows a deferred tool; it stands last."""
        tools = [late("a"), tool("b"), late("c")]
        call = {"type": "tool_use", "id": "x", "name": "a", "input": {}}

        assert (["b"], {"defer_loading"}) == shown(tools)
        assert (["b", "c"], {"defer_loading"}) == shown(tools, found("c"))
        assert (["b", "c", "a"], set()) == shown(
            tools, found("c"), {"role": "assistant", "content": [call]}
        )
        assert ["b", "a"] == shown(tools, tool_choice={"type": "tool", "name": "a"})[0]

    @covers("2.3 tool changes")
    def test_a_system_turn_adds_and_removes_tools(self) -> None:
        """The model is offered what the last change of each tool leaves."""
        tools = [tool("a"), late("b")]

        assert (["a", "b"], {"tool_addition"}) == shown(tools, added("b"))
        assert ["b"] == shown(tools, added("b"), removed("a"))[0]
        assert ["a", "b"] == shown(tools, added("b"), removed("a"), added("a"))[0]
        assert ["a", "c"] == shown(tools, defined(tool("c")))[0]
        assert ["a"] == shown(tools, defined(tool("c")), removed("c"))[0]

    @covers("2.3 defer_loading")
    def test_each_shape_of_a_reference(self) -> None:
        """The vendor's own search wraps its references; what names no tool refers to none."""
        named = [{"type": "tool_reference", "tool_name": name} for name in ("b", 7)]
        wrapped = {"type": "tool_search_tool_result", "content": {"tool_references": named}}
        odd = {"type": "tool_result", "content": {"tool_references": 7}}
        nameless = [{"type": "tool_use", "name": 7}, {"type": "text", "content": [7, {}]}]
        content = [wrapped, odd, {"type": "tool_reference", "tool_name": "c"}, *nameless, "odd"]

        tools = [tool("a"), late("c"), late("b"), {"name": 7, "defer_loading": True}]
        assert ["a", "b", "c"] == shown(tools, {"role": "user", "content": content}, "odd")[0]
        assert ["a"] == shown([tool("a")], defined({"input_schema": {}, "name": "a"}), None)[0]
        assert ["a", None] == [
            each.get("name") for each in definitions([tool("a")], defined({"input_schema": {}}))
        ]

    @covers("2.3 tool changes")
    def test_a_change_that_means_nothing_changes_nothing(self) -> None:
        """An unknown name, a vendor's tool or an odd shape in the history is ignored."""
        odd = {"role": "system", "content": [{"type": "tool_addition", "tool": 3}]}
        vendors = defined({"type": "mcp_toolset", "mcp_server_name": "x"})

        assert (["a"], {"tool_addition", "tool_removal"}) == shown(
            [tool("a")], removed("z"), odd, vendors, added("y")
        )

    @covers("2.2 compaction")
    def test_a_summary_has_the_changes_before_it(self) -> None:
        """References and changes before the summary do not count, and its own do."""
        summary = {
            "type": "compaction",
            "content": "So far.",
            "tool_changes": added("c")["content"],
        }
        tools = [tool("a"), late("b"), late("c")]

        messages = [found("b"), removed("a"), {"role": "assistant", "content": [summary]}]
        assert ["a", "c"] == shown(tools, *messages)[0]

    @given(
        st.lists(st.sampled_from(NAMES), unique=True),
        st.sets(st.sampled_from(NAMES)),
        st.lists(st.tuples(st.sampled_from((added, removed, found)), st.sampled_from(NAMES))),
    )
    def test_new_references_never_move_a_tool_that_is_shown(
        self, names: list[str], deferred: set[str], turns: list[Any]
    ) -> None:
        """The beginning of the list stays as it is while references are added."""
        tools = [late(name) if name in deferred else tool(name) for name in names]
        messages = [make(name) for make, name in turns if make is not removed]

        lists = [shown(tools, *messages[:length])[0] for length in range(len(messages) + 1)]
        assert all(after[: len(before)] == before for before, after in pairwise(lists))
