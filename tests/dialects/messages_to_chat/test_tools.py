from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.tools import translate_tools
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from cortexd.dialects.wire.tool_names import upstream_name
from tests.covers import covers
from tests.dialects.anthropic_bodies import (
    HELLO,
    WEATHER,
    assistant,
    call,
    noted,
    refused,
    result,
    sent,
    terms,
    user,
)

EMPTY = {"type": "object", "properties": {}}
TIME = {"name": "time", "input_schema": EMPTY}
OLD_NODE = Profile(required_tool_choice=False)
LONG = "mcp__" + "server_" * 12 + "read"


def function(tool: Any) -> Any:
    """Return the function that a node is told of for one tool."""
    (found,) = sent(tools=[tool])["tools"]
    assert {"type", "function"} == set(found)
    assert "function" == found["type"]
    return found["function"]


def choice(profile: Profile = Profile(), tools: Any = (WEATHER, TIME), **fields: Any) -> Any:  # noqa: B008 - frozen
    return sent(profile, tools=list(tools), tool_choice=fields)["tool_choice"]


class FunctionTests(SynchronousTestCase):
    @covers("2.1 tools", "2.3 tool")
    def test_custom(self) -> None:
        """{name,description,input_schema}, type custom/absent: a function with parameters."""
        expected = {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": WEATHER["input_schema"],
        }
        for kind in ({}, {"type": "custom"}, {"type": None}):
            assert expected == function(WEATHER | kind)
            assert set() == noted(tools=[WEATHER | kind])

    @covers("2.3 tool")
    def test_description(self) -> None:
        """A tool without a description has an empty one upstream: templates may need it."""
        expected = {"name": "time", "description": "", "parameters": EMPTY}
        for nothing in ({}, {"description": None}, {"description": ""}):
            assert expected == function(TIME | nothing)

    @covers("T39", "2.3 tool")
    def test_schema(self) -> None:
        """T39: properties:{} is added if missing; top $schema is dropped, a deeper one stays."""
        inner = {"$schema": "https://example.org/draft", "type": "string"}
        schema = {"$schema": "https://example.org/draft", "type": "object"}

        assert EMPTY == function(TIME | {"input_schema": {"type": "object"}})["parameters"]
        assert EMPTY == function(TIME | {"input_schema": schema})["parameters"]
        assert {"type": "object", "properties": {"a": inner}} == (
            function(TIME | {"input_schema": schema | {"properties": {"a": inner}}})["parameters"]
        )

    def test_order_is_kept(self) -> None:
        """Tools, and the keys in them, are in the client's order: a prefix cache depends on it."""
        schema = {"type": "object", "properties": {"z": {}, "a": {}}, "required": ["z"]}
        found = sent(tools=[TIME | {"input_schema": schema}, WEATHER])["tools"]

        assert ["time", "weather"] == [tool["function"]["name"] for tool in found]
        assert encode(schema) == encode(found[0]["function"]["parameters"])

    @covers("2.3 strict")
    def test_strict(self) -> None:
        """strict: function.strict."""
        for strict in (True, False):
            assert strict is function(WEATHER | {"strict": strict})["strict"]
        assert "strict" not in function(WEATHER | {"strict": None})
        assert "tools[0].strict" == refused(tools=[WEATHER | {"strict": "yes"}]).param

    @covers("2.3 eager_input_streaming, cache_control")
    def test_harmless(self) -> None:
        """eager_input_streaming, cache_control: nothing depends on them."""
        fields = {"eager_input_streaming": True, "cache_control": {"type": "ephemeral"}}

        assert function(WEATHER) == function(WEATHER | fields)
        assert set() == noted(tools=[WEATHER | fields])

    @covers("2.3 input_examples")
    def test_input_examples(self) -> None:
        """input_examples: appended to the description."""
        examples = {"input_examples": [{"city": "Ōsaka"}, {}]}

        assert (
            'Tells the weather.\n\nExamples of its input:\n{"city":"Ōsaka"}\n{}'
            == function(WEATHER | examples)["description"]
        )
        assert (
            'Examples of its input:\n{"city":"Ōsaka"}\n{}'
            == (function(TIME | examples)["description"])
        )
        assert {"input_examples"} == noted(tools=[WEATHER | examples])
        assert set() == noted(tools=[WEATHER | {"input_examples": []}])

    @covers("2.3 allowed_callers")
    def test_allowed_callers(self) -> None:
        """allowed_callers without "direct": R, since only the model calls here."""
        direct = {"allowed_callers": ["code_execution_20250825", "direct"]}
        assert function(WEATHER) == function(WEATHER | direct)
        for callers in (["code_execution_20250825"], []):
            error = refused(tools=[TIME, WEATHER | {"allowed_callers": callers}])
            assert "tools[1].allowed_callers" == error.param
            assert "'direct'" in error.message

    @covers("2.3 client tools without a schema")
    def test_tools_without_schema(self) -> None:
        """bash_*, text_editor_*, computer_*, memory_*: R, and named."""
        for kind in (
            "bash_20250124",
            "text_editor_20250728",
            "computer_20250124",
            "memory_20250818",
        ):
            error = refused(tools=[WEATHER, {"type": kind, "name": "x"}])
            assert (400, "tools[1].type") == (error.status, error.param)
            assert kind in error.message

    @covers("2.3 server tools")
    def test_server_tools(self) -> None:
        """web_search_*, web_fetch_*, code_execution_*, tool_search_*, mcp_toolset: R, and named."""
        for kind in (
            "web_search_20250305",
            "web_fetch_20250910",
            "code_execution_20250825",
            "tool_search_tool_regex_20251119",
            "mcp_toolset",
            "tomorrow_20270101",
        ):
            error = refused(tools=[{"type": kind, "name": "x"}])
            assert "tools[0].type" == error.param
            assert kind in error.message
            assert "supported are tools of type 'custom'" in error.message

    def test_refusals(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            ("all", "tools"),
            (["weather"], "tools[0]"),
            ([{"name": "f"}], "tools[0].input_schema"),
            ([{"name": "f", "input_schema": "object"}], "tools[0].input_schema"),
            ([{"input_schema": EMPTY}], "tools[0].name"),
            ([TIME | {"name": ""}], "tools[0].name"),
            ([TIME | {"type": 7}], "tools[0].type"),
            ([TIME | {"description": ["x"]}], "tools[0].description"),
            ([TIME | {"input_examples": "x"}], "tools[0].input_examples"),
            ([TIME | {"allowed_callers": "direct"}], "tools[0].allowed_callers"),
            ([TIME | {"defer_loading": "yes"}], "tools[0].defer_loading"),
            ([TIME, WEATHER, TIME], "tools[2].name"),
        ]
        for tools, param in cases:
            assert param == refused(tools=tools).param

    def test_none(self) -> None:
        """No tools are no field upstream."""
        cases: tuple[object, ...] = (None, [])
        for nothing in cases:
            assert not {"tools", "tool_choice"} & sent(tools=nothing).keys()


class ChoiceTests(SynchronousTestCase):
    @covers("2.3 tool_choice auto or none")
    def test_auto_and_none(self) -> None:
        """tool_choice auto / none: the same words, and the tools are kept."""
        for kind in ("auto", "none"):
            assert kind == choice(type=kind)
            assert 2 == len(sent(tools=[WEATHER, TIME], tool_choice={"type": kind})["tools"])

    @covers("T24", "2.3 tool_choice any")
    def test_t24_any(self) -> None:
        """T24; any: "required"; without that a single tool is named, and several are R."""
        named = {"type": "function", "function": {"name": "time"}}

        assert "required" == choice(type="any")
        assert named == choice(OLD_NODE, [TIME], type="any")
        error = refused(OLD_NODE, tools=[WEATHER, TIME], tool_choice={"type": "any"})
        assert "tool_choice.type" == error.param

    @covers("2.3 tool_choice tool")
    def test_tool(self) -> None:
        """tool{name}: the named function; an unknown name is R."""
        named = {"type": "function", "function": {"name": "time"}}

        assert named == choice(type="tool", name="time")
        for name in ("wether", "", None, 3):
            error = refused(tools=[WEATHER], tool_choice={"type": "tool", "name": name})
            assert "tool_choice.name" == error.param

    @covers("T25", "2.3 disable_parallel_tool_use")
    def test_t25_disable_parallel_tool_use(self) -> None:
        """T25; disable_parallel_tool_use: the flag, and the answer is held to one call."""
        for kind in ("auto", "any", "tool"):
            fields = {
                "tools": [WEATHER],
                "tool_choice": {
                    "type": kind,
                    "name": "weather",
                    "disable_parallel_tool_use": True,
                },
            }
            assert False is sent(**fields)["parallel_tool_calls"]
            assert {"disable_parallel_tool_use"} == noted(**fields)
            assert terms(**fields).one_tool_call
            assert set() == noted(Profile(parallel_flag=True), **fields)
            assert terms(Profile(parallel_flag=True), **fields).one_tool_call
        others: tuple[Any, ...] = (
            None,
            {"type": "auto"},
            {"type": "any", "disable_parallel_tool_use": False},
            {"type": "none", "disable_parallel_tool_use": True},
        )
        for tool_choice in others:
            fields = {"tools": [WEATHER], "tool_choice": tool_choice}
            assert "parallel_tool_calls" not in sent(**fields)
            assert not terms(**fields).one_tool_call
            assert set() == noted(**fields)

    @covers("2.3 tool_choice without tools")
    def test_without_tools(self) -> None:
        """tool_choice without tools: R."""
        cases: tuple[object, ...] = (None, [])
        for tools in cases:
            assert "tool_choice" == refused(tools=tools, tool_choice={"type": "auto"}).param

    def test_no_tool_shown(self) -> None:
        """Where the conversation shows none of its tools there is nothing to choose, and no 400."""
        unseen = WEATHER | {"defer_loading": True}
        for kind, noted_too in (("none", False), ("auto", False), ("any", True)):
            fields: dict[str, Any] = {"tools": [unseen], "tool_choice": {"type": kind}}
            assert not {"tools", "tool_choice"} & sent(**fields).keys()
            assert noted_too is ("tool_choice" in noted(**fields))

    def test_refusals(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            ("auto", "tool_choice"),
            ({}, "tool_choice.type"),
            ({"type": "required"}, "tool_choice.type"),
            (
                {"type": "auto", "disable_parallel_tool_use": "yes"},
                "tool_choice.disable_parallel_tool_use",
            ),
        ]
        for tool_choice, param in cases:
            assert param == refused(tools=[WEATHER], tool_choice=tool_choice).param


class NameTests(SynchronousTestCase):
    @covers("2.3 name not taken upstream")
    def test_alias(self) -> None:
        """Name > 64 chars or illegal for upstream: one alias in tools, choice and history."""
        alias = upstream_name(LONG)
        fields = {
            "tools": [TIME | {"name": LONG}, WEATHER],
            "tool_choice": {"type": "tool", "name": LONG},
            "messages": [*HELLO, assistant(call("toolu_1", name=LONG)), user(result("toolu_1"))],
        }
        body = sent(**fields)

        assert alias != LONG
        assert [alias, "weather"] == [tool["function"]["name"] for tool in body["tools"]]
        assert alias == body["tool_choice"]["function"]["name"]
        assert alias == body["messages"][1]["tool_calls"][0]["function"]["name"]
        assert {alias: LONG} == translate_tools(fields, MISTRALRS, Approximations()).names
        assert set() == noted(**fields)

    def test_no_two_are_one(self) -> None:
        """A tool whose name is another's alias is refused: the answer could mean either."""
        tools = [TIME | {"name": LONG}, TIME | {"name": upstream_name(LONG)}]

        assert "tools[1].name" == refused(tools=tools).param
