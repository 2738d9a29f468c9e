from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.tool_names import upstream_name
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import (
    HELLO,
    SCHEMA,
    WEATHER,
    WEATHER_FUNCTION,
    WEATHER_UPSTREAM,
    call,
    calling,
    found,
    noted,
    refused,
    sent,
    translated,
)

NOTHING = {"type": "object", "properties": {}}
TIME = {"type": "function", "function": {"name": "time"}}
TIME_UPSTREAM = {"name": "time", "input_schema": NOTHING}
BOTH = [WEATHER, TIME]


def tool(**fields: object) -> Any:
    """Return the tool that an upstream is told of for a function with these fields."""
    (only,) = sent(tools=[{"type": "function", "function": {"name": "time", **fields}}])["tools"]
    return only


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: object, *tools: object) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


class ToolTests(SynchronousTestCase):
    @covers("3 tools")
    def test_function(self) -> None:
        """Tools function: {name, description, input_schema}, in the client's order."""
        assert [WEATHER_UPSTREAM, TIME_UPSTREAM] == sent(tools=BOTH)["tools"]
        assert [] == noted(tools=BOTH)
        assert "tool_choice" not in sent(tools=BOTH)
        schema = {"type": "object", "properties": {"z": {}, "a": {}}, "required": ["z"]}
        assert encode(schema) == encode(tool(parameters=schema)["input_schema"])

    @covers("3 tools")
    def test_no_parameters(self) -> None:
        """A function without parameters takes an object with no properties."""
        cases: list[dict[str, object]] = [
            {},
            {"parameters": None},
            {"parameters": {}},
            {"description": ""},
        ]
        for nothing in cases:
            assert TIME_UPSTREAM == tool(**nothing)

    @covers("3 tools")
    def test_strict(self) -> None:
        """Strict is kept."""
        for strict in (True, False):
            assert strict is tool(strict=strict)["strict"]
        assert "strict" not in tool(strict=None)

    def test_no_tools(self) -> None:
        """Without tools nothing is said of them, whatever a choice allows."""
        cases: list[dict[str, object]] = [{}, {"tools": None}, {"tools": []}, {"functions": []}]
        for nothing in cases:
            body = sent(**nothing, tool_choice="auto", parallel_tool_calls=False)
            assert set() == {"tools", "tool_choice"} & body.keys()

    @covers("3 custom tools")
    def test_custom(self) -> None:
        """Custom/grammar tools: R, by their path."""
        grammar = {"type": "grammar", "grammar": {"definition": "x", "syntax": "lark"}}
        custom = {"type": "custom", "custom": {"name": "shell", "format": grammar}}
        error = refused(tools=[WEATHER, custom])

        assert "tools[1].type" == error.param
        assert "'custom'" in error.message
        choice = {"type": "custom", "custom": {"name": "shell"}}
        assert "tool_choice.type" == refused(tools=[WEATHER], tool_choice=choice).param

    def test_mistakes(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            ({}, "tools"),
            (["weather"], "tools[0]"),
            ([{"function": {"name": "f"}}], "tools[0].type"),
            ([{"type": "function"}], "tools[0].function"),
            ([{"type": "function", "function": {}}], "tools[0].function.name"),
            ([{"type": "function", "function": {"name": ""}}], "tools[0].function.name"),
            ([WEATHER, WEATHER], "tools[1].function.name"),
        ]
        for tools, path in cases:
            assert path == refused(tools=tools).param, tools
        for field, value in (("description", 1), ("parameters", "x"), ("strict", "yes")):
            tools = [{"type": "function", "function": {"name": "f", field: value}}]
            assert f"tools[0].function.{field}" == refused(tools=tools).param

    def test_unknown_fields(self) -> None:
        """Unknown fields of tools and functions are ignored and named."""
        function = WEATHER_FUNCTION | {"colour": "red"}
        tools = [{"type": "function", "function": function, "weight": 1}]

        assert [WEATHER_UPSTREAM] == sent(tools=tools)["tools"]
        assert ["tools.function.colour", "tools.weight"] == noted(tools=tools)

    def test_names(self) -> None:
        """A name > 64 characters or illegal has one alias in tools, choice and history."""
        for name in ("mcp__" + "server_" * 12 + "read", "files.read", "読む"):
            alias = upstream_name(name)
            fields = {
                "tools": [named(name), WEATHER],
                "tool_choice": named(name),
                "messages": [*HELLO, calling(call("a", name=name)), found("a")],
            }
            body = sent(**fields)
            assert alias != name
            assert [alias, "weather"] == [each["name"] for each in body["tools"]]
            assert {"type": "tool", "name": alias} == body["tool_choice"]
            assert alias == body["messages"][1]["content"][0]["name"]
            assert {alias: name} == translated(**fields).tool_names
            assert [] == noted(**fields)
            two_of_one = [named(name), named(alias)]
            assert "tools[1].function.name" == refused(tools=two_of_one).param
        assert {} == translated(tools=BOTH).tool_names


class FunctionTests(SynchronousTestCase):
    @covers("3 legacy functions")
    def test_functions(self) -> None:
        """Legacy functions: converted to tools."""
        functions = [WEATHER_FUNCTION, {"name": "time"}]

        assert [WEATHER_UPSTREAM, TIME_UPSTREAM] == sent(functions=functions)["tools"]
        assert ["functions"] == noted(functions=functions)
        assert "functions[1].name" == refused(functions=[WEATHER_FUNCTION] * 2).param
        assert "functions[0].parameters" == (
            refused(functions=[{"name": "f", "parameters": 1}]).param
        )

    @covers("3 legacy functions")
    def test_function_call(self) -> None:
        """Legacy function_call: converted to a tool_choice."""
        cases: list[tuple[object, object]] = [
            ("auto", {"type": "auto"}),
            ("none", {"type": "none"}),
            ({"name": "weather"}, {"type": "tool", "name": "weather"}),
        ]
        for function_call, choice in cases:
            fields = {"functions": [WEATHER_FUNCTION], "function_call": function_call}
            assert choice == sent(**fields)["tool_choice"]
            assert ["function_call", "functions"] == noted(**fields)
        both = {"tools": [WEATHER], "tool_choice": "required", "function_call": "none"}
        assert {"type": "any"} == sent(**both)["tool_choice"]
        fields = {"functions": [WEATHER_FUNCTION], "function_call": {"name": "time"}}
        assert "function_call.name" == refused(**fields).param


class ChoiceTests(SynchronousTestCase):
    @covers("3 tool_choice")
    def test_choices(self) -> None:
        """tool_choice auto/required/none/named: auto/any/none/tool, with the tools kept."""
        cases: list[tuple[object, object]] = [
            ("auto", {"type": "auto"}),
            ("required", {"type": "any"}),
            ("none", {"type": "none"}),
            (named("time"), {"type": "tool", "name": "time"}),
        ]
        for given, choice in cases:
            body = sent(tools=BOTH, tool_choice=given)
            assert choice == body["tool_choice"]
            assert [WEATHER_UPSTREAM, TIME_UPSTREAM] == body["tools"]
            assert [] == noted(tools=BOTH, tool_choice=given)

    @covers("3 tool_choice")
    def test_mistakes(self) -> None:
        """What is no choice, or of a tool that is not there, is refused by its path."""
        cases: list[tuple[object, str]] = [
            ("any", "tool_choice"),
            (1, "tool_choice"),
            ({}, "tool_choice.type"),
            ({"type": "auto"}, "tool_choice.type"),
            ({"type": "function"}, "tool_choice.function"),
            (named("sleep"), "tool_choice.function.name"),
        ]
        for given, path in cases:
            assert path == refused(tools=BOTH, tool_choice=given).param, given
        assert "tool_choice" == refused(tool_choice="required").param
        assert "tool_choice.function.name" == refused(tool_choice=named("time")).param

    @covers("3 allowed_tools")
    def test_allowed_tools(self) -> None:
        """allowed_tools: filtered tools + auto/any."""
        for mode, kind in (("auto", "auto"), ("required", "any")):
            fields = {"tools": BOTH, "tool_choice": allowed(mode, named("time"))}
            body = sent(**fields)
            assert [TIME_UPSTREAM] == body["tools"]
            assert {"type": kind} == body["tool_choice"]
            assert ["allowed_tools"] == noted(**fields)

    @covers("3 allowed_tools")
    def test_mistakes_in_allowed_tools(self) -> None:
        """Allowed tools that are none of the tools, or no tools at all, are refused."""
        path = "tool_choice.allowed_tools"
        cases: list[tuple[object, str]] = [
            ({"type": "allowed_tools"}, path),
            (allowed("none", named("time")), f"{path}.mode"),
            (allowed(None, named("time")), f"{path}.mode"),
            (allowed("auto"), f"{path}.tools"),
            (allowed("auto", "time"), f"{path}.tools[0]"),
            (allowed("auto", WEATHER, {"type": "custom"}), f"{path}.tools[1].function"),
            (allowed("auto", named("sleep")), f"{path}.tools[0].function.name"),
        ]
        for given, param in cases:
            assert param == refused(tools=BOTH, tool_choice=given).param, given

    @covers("3 parallel_tool_calls", "T25")
    def test_one_call(self) -> None:
        """T25: parallel_tool_calls:false is disable_parallel_tool_use on the type chosen alone."""
        flag = {"disable_parallel_tool_use": True}
        cases: list[tuple[object, object]] = [
            (None, {"type": "auto"} | flag),
            ("auto", {"type": "auto"} | flag),
            ("required", {"type": "any"} | flag),
            (named("time"), {"type": "tool", "name": "time"} | flag),
            (allowed("required", named("time")), {"type": "any"} | flag),
            ("none", {"type": "none"}),
        ]
        for given, choice in cases:
            fields = {"tools": BOTH, "tool_choice": given, "parallel_tool_calls": False}
            assert choice == sent(**fields)["tool_choice"]
        assert [] == noted(tools=BOTH, parallel_tool_calls=False)

    @covers("3 parallel_tool_calls")
    def test_several_calls(self) -> None:
        """parallel_tool_calls true or absent says nothing upstream; no flag is refused."""
        for flag in (True, None):
            assert "tool_choice" not in sent(tools=BOTH, parallel_tool_calls=flag)
        error = refused(tools=BOTH, parallel_tool_calls="no")
        assert "parallel_tool_calls" == error.param

    def test_odd_schemas(self) -> None:
        """A schema is what the client sent, however odd; one without a type is an object's."""
        odd = {"anyOf": [SCHEMA, {"$schema": "x"}], "$schema": "y"}

        assert {"type": "object", **odd} == tool(parameters=odd)["input_schema"]
        assert {"type": "array"} == tool(parameters={"type": "array"})["input_schema"]
