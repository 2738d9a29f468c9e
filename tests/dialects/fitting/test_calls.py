from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.arguments import arguments_text
from cortexd.dialects.wire.profile import MISTRALRS, Profile, ToolIdFormat
from tests.dialects.fitting.fitted import fitted, words_for

HELLO: dict[str, Any] = {"role": "user", "content": "hi"}


def called(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **fields}


def function(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": "{}"}, **fields}


def result(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **fields}


class CallTests(SynchronousTestCase):
    def test_arguments(self) -> None:
        """They are the JSON text of an object, and what is none is kept under one key."""
        cases: list[tuple[object, str, bool]] = [
            ("", "{}", True),
            (" \n", "{}", True),
            (None, "{}", True),
            ('{"a": 1}', '{"a": 1}', True),
            ({"a": 1}, '{"a":1}', True),
            ('{"a": ', '{"_raw_arguments":"{\\"a\\": "}', False),
            ("[1]", '{"_raw_arguments":"[1]"}', False),
            ([1], '{"_raw_arguments":"[1]"}', False),
        ]
        for given, text, is_object in cases:
            assert (text, is_object) == arguments_text(given)
        broken = {"function": {"name": "look", "arguments": "x"}, "id": "a"}
        assert "arguments" in words_for([HELLO, called(broken)], MISTRALRS)

    def test_ids(self) -> None:
        """A call without an id gets one, the same in each turn; its result is the next one."""
        messages = [HELLO, called(function(), function()), result("a"), result("b")]
        for id_format in ToolIdFormat:
            profile = Profile(tool_id_format=id_format)
            found = fitted(messages, profile)
            ids = [call["id"] for call in found[1]["tool_calls"]]
            assert 2 == len(set(ids))
            assert [*zip(ids, "ab", strict=True)] == [
                (each["tool_call_id"], each["content"]) for each in found[2:]
            ]
            assert found == fitted([*messages, HELLO], profile)[:4]

    def test_results_by_name(self) -> None:
        """A result without an id belongs to the first call of its name, as that of a function."""
        calls = called(function("look", id="a"), function("go", id="b"))
        old = {"role": "function", "name": "go", "content": "gone"}
        *_, first, second = fitted([HELLO, calls, old, result("seen", name="look")], MISTRALRS)
        assert [("a", "seen"), ("b", "gone")] == [
            (each["tool_call_id"], each["content"]) for each in (first, second)
        ]

    def test_results_in_the_order_of_their_calls(self) -> None:
        """Most templates show no ids: the model takes the first result for that of the first call.

        So does a call without a result keep its place.
        """
        calls = called(*(function(id=each) for each in "abc"))
        given = [result("3", tool_call_id="c"), result("1", tool_call_id="a")]
        found = fitted([HELLO, calls, *given], MISTRALRS)
        assert ["1", "[no result]", "3"] == [each["content"] for each in found[2:]]

    def test_old_functions(self) -> None:
        """A call of an old function is a call, and its result a result."""
        old = {"role": "assistant", "content": None, "function_call": function()["function"]}
        found = fitted(
            [HELLO, old, {"role": "function", "name": "look", "content": "1"}], MISTRALRS
        )
        assert ["user", "assistant", "tool"] == [each["role"] for each in found]
        assert found[1]["tool_calls"][0]["id"] == found[2]["tool_call_id"]

    def test_custom_tools(self) -> None:
        """The text of a call is the one argument of a function."""
        custom = {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "x"}}
        (call,) = fitted([HELLO, called(custom)], MISTRALRS)[1]["tool_calls"]
        assert {"name": "patch", "arguments": '{"input":"x"}'} == call["function"]
        assert "function" == call["type"]

    def test_what_is_no_call(self) -> None:
        """It goes, and is named."""
        found = fitted([HELLO, called(7) | {"content": "so"}], MISTRALRS)
        assert [HELLO, {"role": "assistant", "content": "so"}] == found
        for wrong in (7, None):
            assert {"tool_calls"} <= words_for([HELLO, called(wrong), HELLO], MISTRALRS)
            assert [HELLO] == fitted([called(wrong), HELLO], MISTRALRS)[-1:]
        assert [HELLO] == fitted([called() | {"tool_calls": 5}, HELLO], MISTRALRS)[-1:]
