"""The tools of a response's request, by translation.md 10.4."""

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import MISTRALRS
from tests.covers import covers
from tests.dialects.node_answers import chat_chunk, tool_call
from tests.dialects.response_bodies import TOOLS, noted, refused, sent, streamed, whole

SEARCH = {"type": "web_search", "external_web_access": False}


def functions(**fields: object) -> list[Any]:
    return [tool["function"] for tool in sent(**fields).get("tools", ())]


class ToolTests(SynchronousTestCase):
    @covers("10.4 function", "10.4 custom", "10.4 namespace")
    def test_tools(self) -> None:
        """Each tool of the client is a function, whose name every node accepts."""
        search, read, patch, files = functions(tools=TOOLS)
        empty = {"description": "", "parameters": {"type": "object", "properties": {}}}
        assert {"name": "search", **empty} == search
        assert {"name": "read", **empty} == read
        assert ("patch", ["input"]) == (patch["name"], patch["parameters"]["required"])
        assert "files__list" == files["name"]
        assert ["tools.custom", "tools.namespace"] == noted(tools=TOOLS)
        (nested,) = functions(
            tools=[{"type": "function", "function": {"name": "f", "strict": True}}]
        )
        assert {"name": "f", "strict": True, **empty} == nested
        (odd,) = functions(tools=[{"type": "function", "name": "a b"}])
        assert odd["name"].startswith("a_b_")

    @covers("10.4 custom")
    def test_a_grammar(self) -> None:
        """It stands in the description, because nodes cannot hold a model to it here."""
        form = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
        (function,) = functions(
            tools=[{"type": "custom", "name": "p", "description": "Patch.", "format": form}]
        )
        words = "Patch.\n\nThe input must follow this lark grammar:\nstart: /x+/"
        assert words == function["description"]

    @covers("10.4 other tools", "10.4 defer_loading")
    def test_other_tools(self) -> None:
        """They are left out and named, unless the request requires one."""
        assert [] == functions(tools=[SEARCH])
        assert ["tools.web_search"] == noted(tools=[SEARCH])
        for choice in ("required", {"type": "web_search"}):
            assert "tool_choice" == refused(tools=[SEARCH], tool_choice=choice)
        assert ["defer_loading"] == noted(
            tools=[{"type": "function", "name": "f", "defer_loading": True}]
        )

    @covers("10.2 items with tools")
    def test_tools_of_the_conversation(self) -> None:
        """They join those of the request; a malformed one is left out."""
        brought = [{"type": "function", "name": "late"}, {"type": "function"}]
        items = [
            {"type": "additional_tools", "role": "developer", "tools": brought},
            {"type": "tool_search_output", "tools": [{"type": "function", "name": "found"}]},
            {"role": "user", "content": "hi"},
        ]
        assert ["late", "found"] == [each["name"] for each in functions(input=items)]
        assert ["input.tools"] == noted(input=items)

    def test_mistakes(self) -> None:
        """A tool without a name, or of a wrong shape, is refused by its path."""
        for tool, param in (
            ("x", "tools[0]"),
            ({"type": "function"}, "tools[0].name"),
            ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
            ({"type": "namespace", "name": "n", "tools": [{}]}, "tools[0].tools[0].name"),
        ):
            assert param == refused(tools=[tool]), tool


class ChoiceTests(SynchronousTestCase):
    @covers("10.4 tool_choice")
    def test_choices(self) -> None:
        """A choice goes up under the node's name of the tool, and must name one."""
        cases: list[tuple[object, str]] = [
            ("auto", "auto"),
            ("required", "required"),
            ({"type": "function", "name": "search"}, "search"),
            ({"type": "function", "function": {"name": "search"}}, "search"),
            ({"type": "custom", "name": "patch"}, "patch"),
            ({"type": "function", "name": "list", "namespace": "files"}, "files__list"),
            ({"type": "function", "name": "list"}, "files__list"),
        ]
        for choice, expected in cases:
            found = sent(tools=TOOLS, tool_choice=choice)["tool_choice"]
            name = found if isinstance(found, str) else found["function"]["name"]
            assert expected == name, choice
        mistakes: list[tuple[object, str]] = [
            ({"type": "function", "name": "none"}, "tool_choice.name"),
            ("always", "tool_choice"),
            ({}, "tool_choice.type"),
            (7, "tool_choice"),
        ]
        for choice, param in mistakes:
            assert param == refused(tools=TOOLS, tool_choice=choice), choice
        assert "tool_choice" not in sent(tool_choice="auto")
        weak = replace(MISTRALRS, required_tool_choice=False)
        assert "tool_choice" == refused(weak, tools=TOOLS, tool_choice="required")
        one = sent(weak, tools=TOOLS[:1], tool_choice="required")["tool_choice"]
        assert "search" == one["function"]["name"]

    @covers("10.4 allowed_tools")
    def test_allowed_tools(self) -> None:
        """Only the tools that are named go up, in both formats of the choice."""
        flat = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "read"}]}
        function = {"type": "function", "function": {"name": "read"}}
        nested = {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [function]},
        }
        for choice in (flat, nested):
            body = sent(tools=TOOLS, tool_choice=choice)
            assert ["read"] == [tool["function"]["name"] for tool in body["tools"]]
            assert "required" == body["tool_choice"]
            assert "allowed_tools" in noted(tools=TOOLS, tool_choice=choice)
        absent = {**flat, "tools": [{"type": "function", "name": "none"}]}
        assert "tool_choice.tools[0].name" == refused(tools=TOOLS, tool_choice=absent)

    @covers("10.4 parallel_tool_calls")
    def test_one_call_at_a_time(self) -> None:
        """The answer ends after its first call, whatever the node goes on to say."""
        calls = [tool_call("search", '{"q":1}', 0), tool_call("read", "{}", 1)]
        found = whole(
            chat_chunk(tool_calls=calls),
            chat_chunk(finish="tool_calls"),
            tools=TOOLS,
            parallel_tool_calls=False,
        )
        assert ["search"] == [item["name"] for item in found["output"]]
        assert "parallel_tool_calls" in noted(tools=TOOLS, parallel_tool_calls=False)


class AnswerTests(SynchronousTestCase):
    @covers("10.4 namespace", "10.4 custom", "10.3 calls")
    def test_the_clients_names(self) -> None:
        """A call has the client's name, its namespace, and the string of a custom tool."""
        calls = [
            tool_call("files__list", "", 0),
            tool_call("patch", '{"input": "a\\nb"}', 1),
            tool_call("unknown", "not json", 2),
        ]
        events = streamed(chat_chunk(tool_calls=calls), chat_chunk(finish="tool_calls"))
        listed, patched, unknown = events[-1]["response"]["output"]

        assert ("list", "files", "{}") == (
            listed["name"],
            listed["namespace"],
            listed["arguments"],
        )
        assert ("custom_tool_call", "patch", "a\nb") == (
            patched["type"],
            patched["name"],
            patched["input"],
        )
        assert ("unknown", '{"_raw_arguments":"not json"}') == (
            unknown["name"],
            unknown["arguments"],
        )
        deltas = [event["delta"] for event in events if "delta" in event]
        assert ["{}", "a\nb", '{"_raw_arguments":"not json"}'] == deltas

    def test_a_custom_call_of_another_shape(self) -> None:
        """A model may name the string otherwise, or send it alone."""
        for arguments, given in (
            ('{"patch": "x"}', "x"),
            ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
            ("plain", "plain"),
            ("", ""),
        ):
            found = whole(
                chat_chunk(tool_calls=[tool_call("patch", arguments)]),
                chat_chunk(finish="tool_calls"),
                tools=TOOLS,
            )
            assert given == found["output"][0]["input"], arguments
