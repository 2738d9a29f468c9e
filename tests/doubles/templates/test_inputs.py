from datetime import UTC, datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.model import TemplateError
from tests.doubles.templates.inputs import template_inputs

HELLO = {"role": "user", "content": "hello"}
GEMMA = "<|tool_call> and <tool_call|>"
LIQUID = "<|tool_call_start|> and <|tool_call_end|>"


def call(arguments: str, **changes: Any) -> dict[str, Any]:
    """Return a call of a request."""
    function = {"name": "add", "arguments": arguments}
    return {"id": "c1", "type": "function", "function": function} | changes


def shown(*messages: dict[str, Any], template: str = "") -> list[dict[str, Any]]:
    """Return the messages that a template gets."""
    found: list[dict[str, Any]] = template_inputs(template, {"messages": messages})["messages"]
    return found


class MessageTests(SynchronousTestCase):
    def test_strings(self) -> None:
        """A message keeps the fields that nodes know; thoughts have one name."""
        given = {"role": "assistant", "content": "x", "name": "n", "reasoning": "r", "other": 1}
        expected = {"role": "assistant", "content": "x", "name": "n", "reasoning_content": "r"}

        self.assertEqual([HELLO, expected], shown(HELLO, given))
        self.assertEqual([HELLO], template_inputs("", {"messages": "hello"})["messages"])

    def test_texts_of_a_user_become_one_part(self) -> None:
        """A user's texts become one typed part, joined by a space, after the media."""
        parts = [
            {"type": "text", "text": "one"},
            {"type": "image_url", "image_url": {"url": "data:"}},
            {"type": "text", "text": "two"},
        ]
        expected = [{"type": "image"}, {"type": "text", "text": "one two"}]

        self.assertEqual(
            [{"role": "user", "content": expected}],
            shown({"role": "user", "name": "lost", "content": parts}),
        )

    def test_a_lone_part_without_type_is_a_string(self) -> None:
        """A lone part without a type is a text, for any role."""
        message = {"role": "tool", "content": [{"text": "hello"}]}
        self.assertEqual([{"role": "tool", "content": "hello"}], shown(message))

    def test_refusals(self) -> None:
        """Nodes refuse parts of other roles, unknown parts, and messages that say nothing."""
        text = {"type": "text", "text": "x"}
        cases: list[tuple[dict[str, Any], str]] = [
            ({"role": "tool", "content": [text]}, "must be `user`, but it is tool"),
            ({"role": "user", "content": [{"type": "input_text"}]}, "to be one of `text`"),
            ({"role": "user", "content": [{"other": "x"}]}, "Expected `text` key"),
            ({"role": "assistant"}, "No content was provided"),
        ]
        for message, words in cases:
            with self.assertRaisesRegex(TemplateError, words):
                shown(message)

    def test_calls(self) -> None:
        """Arguments become an object where they are one; a missing content is empty."""
        calls = [call('{"a": 1}'), call("[1]", id=None), call('{"a"')]

        (message,) = shown({"role": "assistant", "tool_calls": calls})

        functions = [each["function"] for each in message["tool_calls"]]
        self.assertEqual([{"a": 1}, "[1]", '{"a"'], [each["arguments"] for each in functions])
        self.assertEqual(["c1", "add", "c1"], [each["id"] for each in message["tool_calls"]])
        self.assertEqual("", message["content"])

    def test_gemma(self) -> None:
        """For Gemma 4 results become one user message, and text beside calls goes."""
        found = shown(
            {"role": "assistant", "content": "lost", "tool_calls": [call("{}")]},
            {"role": "tool", "tool_call_id": "c1", "name": "add", "content": '{"sum": 3}'},
            {"role": "tool", "tool_call_id": "c1", "content": "text"},
            HELLO,
            template=GEMMA,
        )
        responses = [
            {"name": "add", "response": {"sum": 3}},
            {"name": "unknown", "response": "text"},
        ]

        self.assertEqual("", found[0]["content"])
        self.assertEqual([{"role": "user", "tool_responses": responses}, HELLO], found[1:])

    def test_liquid(self) -> None:
        """For Liquid's models text beside calls goes, and other text stays."""
        calls = {"role": "assistant", "content": "x", "tool_calls": [call("{}")]}
        found = shown(calls, {"role": "assistant", "content": "x"}, template=LIQUID)

        self.assertEqual(["", "x"], [message["content"] for message in found])


class OtherInputTests(SynchronousTestCase):
    def test_constants(self) -> None:
        """The special tokens, the date and the wish for an answer are there."""
        found = template_inputs("", {"messages": "hello"}, datetime(2026, 11, 30, tzinfo=UTC))

        self.assertEqual("30, November, 2026", found["date_string"])
        self.assertEqual((True, "<s>"), (found["add_generation_prompt"], found["bos_token"]))

    def test_reasoning(self) -> None:
        """Models think unless told otherwise; an effort is there only if the request has one."""
        cases: list[tuple[dict[str, Any], tuple[bool, str | None]]] = [
            ({}, (True, None)),
            ({"enable_thinking": False}, (False, None)),
            ({"reasoning_effort": "max"}, (True, "xhigh")),
            ({"reasoning_effort": "none"}, (False, "off")),
            ({"chat_template_kwargs": {"enable_thinking": False}}, (False, None)),
            ({"chat_template_kwargs": {"reasoning_effort": "low", "other": 1}}, (True, "low")),
        ]
        for fields, expected in cases:
            found = template_inputs("", {"messages": "hello", **fields})
            self.assertEqual(expected, (found["enable_thinking"], found.get("reasoning_effort")))

    def test_contradicting_reasoning(self) -> None:
        """Nodes refuse unknown efforts, and those that contradict the switch."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"reasoning_effort": "minimal"}, "invalid reasoning effort `minimal`"),
            ({"reasoning_effort": "low", "enable_thinking": False}, "conflicts with .*=false"),
            ({"reasoning_effort": "off", "enable_thinking": True}, "conflicts with .*=true"),
        ]
        for fields, words in cases:
            with self.assertRaisesRegex(TemplateError, words):
                template_inputs("", {"messages": "hello", **fields})

    def test_tools(self) -> None:
        """Tools are absent if the request has none; the keys of parameters have an order."""
        parameters = {"$defs": {}, "required": [], "a": 1, "properties": {}, "type": "object"}
        function = {"name": "python", "description": None, "parameters": parameters, "strict": True}
        fields = {"messages": "hello", "tools": [{"type": "function", "function": function}]}

        self.assertNotIn("tools", template_inputs("", {"messages": "hello", "tools": []}))
        found = template_inputs("", fields)
        (tool,) = found["tools"]
        self.assertEqual(["name", "parameters", "strict"], list(tool["function"]))
        self.assertEqual(
            ["type", "properties", "required", "$defs", "a"], list(tool["function"]["parameters"])
        )
        self.assertEqual((["python"], found["tools"]), (found["builtin_tools"], found["xml_tools"]))

    def test_tools_that_must_not_be_used(self) -> None:
        """Only Atem's models are not shown the tools that they must not use."""
        function = {"name": "add"}
        fields = {
            "messages": "hello",
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "none",
        }
        atem = "<atem:function_calls><atem:invoke"

        self.assertEqual([True, False], ["tools" in template_inputs(t, fields) for t in ("", atem)])
